"""A worker that does not wait: its next trial is at hand, and those after it are on their way.

For trials that are as short as the call between them. As a worker tells one trial it asks for
another one, begins the trial that it has at hand, and hears the answer when that one has ended, or
some trials later: the more of them are on their way, the more share a batch of the proxy, and the
more are run for each time that the worker is woken.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from optuna.trial import TrialState

from trialfleet.client import calls
from trialfleet.client.buffer import RunningTrial
from trialfleet.client.connection import CALL_S, Begun, Connection
from trialfleet.client.endpoint import ChannelClosed
from trialfleet.client.history import Histories
from trialfleet.client.opening import Opening
from trialfleet.client.running import RunningTrials
from trialfleet.client.session import Sessions
from trialfleet.client.telling import Telling
from trialfleet.client.translation import translate
from trialfleet.model.errors import InvalidInput, NotFound, TrialfleetError

_WAITING_S: Final = 0.5
"""A trial that waited for so long is handed back: somebody else may be without one."""

_SOON_S: Final = 1.0
_LATE_S: Final = 2.0
"""More trials are on their way than before only if answers come as soon as that, and one less with
each answer that is later than that: of thousands that wait nobody is to let all wait for longer."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Heard:
    """What became of a trial that was told ahead."""

    trial_id: int
    kept: bool
    """Whether the storage took its end; else the trial had been taken away, or was refused."""
    refusal: Exception | None = None
    """Why its end was refused, as Optuna's interface raises it: the trial runs again."""


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A call that was sent, and what is to be done with its answer."""

    begun: Begun[Any]
    answered: Callable[[Any], RunningTrial | None]
    failed: Callable[[BaseException], None]
    telling: Telling | None = None
    """What it tells; the trial is no more among those that run."""
    asks: bool = True
    """Whether it asks for a trial."""
    since: float = field(default_factory=time.monotonic)
    """When it was sent."""


class Ahead:
    """The trial at hand and the calls under way, of the thread that runs trials. Thread-safe.

    The background thread hands trials back that have to wait too long.
    """

    def __init__(
        self,
        connection: Connection,
        sessions: Sessions,
        histories: Histories,
        running: RunningTrials,
    ) -> None:
        self._connection = connection
        self._sessions = sessions
        self._histories = histories
        self._running = running
        # Held while an answer is awaited.
        self._lock = threading.Lock()
        self._awaited: deque[_Awaited] = deque()
        self._next: RunningTrial | None = None
        self._since = 0.0
        self._took_s = 0.0
        """How long the answer that was heard last was awaited."""
        self._returning: bytes | None = None
        """The request that hands the trial at hand back, if it is not known whether it did."""
        self._heard: list[Heard] = []
        """What :meth:`settle` has yet to say."""

    @property
    def possible(self) -> bool:
        """Whether the session may open a trial before the one ahead of it has ended."""
        session = self._sessions.opened
        return session is not None and session.may_run_ahead

    def ask(self, study_id: int) -> None:
        """Ask for a trial to have at hand, unless there is one or it was asked for."""
        with self._lock:
            if not self._awaited and self._next is None:
                self._ask(study_id)

    def tell(
        self, trial: RunningTrial, state: TrialState, values: list[float] | None, depth: int
    ) -> int | None:
        """End a trial, ask for others, and return the id of that at hand, which runs now.

        Others are asked for until ``depth`` are on their way, one where they bring the study's
        history, fewer where answers are late; beyond twice as many none is. Does nothing, and
        returns None, if no trial is at hand. Raises ``TrialFinished``.
        """
        study_id = trial.study_id
        with self._lock:
            if trial.fenced or self._next is None or self._returning is not None:
                return None
            if self._histories.of(study_id).wanted:
                depth = 1
            with trial.sending:
                self._running.check_runs(trial)
                coming = sum(awaited.asks for awaited in self._awaited)
                asks = coming < (1 if self._took_s > _LATE_S else 2 * depth)
                telling = Telling(trial, state, values, self._opening(study_id) if asks else None)
                try:
                    begun = self._connection.begin(calls.TELL, telling.request)
                except BaseException as error:
                    telling.failed(error)
                    raise
                self._running.end_unheard(trial, state, values)
                self._await(_Awaited(begun, telling.answered, telling.failed, telling, asks))
            if coming + asks < depth and self._took_s < _SOON_S:
                self._ask(study_id)
            following, self._next = self._next, None
            return self._running.begin(following)

    def settle(self) -> list[Heard]:
        """Wait until a trial is at hand, or no answer is awaited any more.

        Returns what became of trials that were told. Raises as the calls do; if that leaves it
        open whether a trial has ended, the trial runs again.
        """
        with self._lock:
            while self._awaited and self._next is None:
                awaited = self._awaited[0]
                try:
                    self._hear(awaited, CALL_S, None)
                except TrialfleetError as error:
                    self._awaited.popleft()
                    awaited.failed(error)
                    told = None if awaited.telling is None else awaited.telling.trial
                    if told is not None:
                        self._running.go_on(told)
                    if told is None or not isinstance(error, InvalidInput):
                        raise
                    self._heard.append(Heard(told.trial_id, False, translate(error)))
            heard, self._heard = self._heard, []
            return heard

    def take(self) -> int | None:
        """Return the id of the trial at hand, which runs from now on; None if there is none."""
        with self._lock:
            if self._returning is not None:
                return None
            trial, self._next = self._next, None
        return None if trial is None or trial.fenced else self._running.begin(trial)

    def hand_back_old(self, deadline_s: float) -> None:
        """Hand back the trials that have been waiting for long; tries each proxy once."""
        if time.monotonic() - self._since < _WAITING_S:
            return
        # Another thread that waits for an answer will use what it brings.
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._hand_back(deadline_s)
            while self._awaited:
                self._hear(self._awaited[0], deadline_s, 0.0)
                self._hand_back(deadline_s)
        except TrialfleetError as error:
            logger.debug("no trial was handed back: %s", error)
        finally:
            self._lock.release()

    def settle_last(self, deadline_s: float) -> None:
        """Hear whether the last trials were told, after the connection was interrupted."""
        ends_at = time.monotonic() + deadline_s
        if not self._lock.acquire(timeout=deadline_s):
            return
        try:
            while self._awaited:
                left_s = max(0.0, ends_at - time.monotonic())
                # Those behind one that is refused are told all the same.
                try:
                    self._awaited.popleft().begun.last_answer(left_s)
                except (grpc.RpcError, ChannelClosed) as error:
                    logger.debug("no answer: %s", error)
        finally:
            self._lock.release()

    def _opening(self, study_id: int) -> Opening:
        return Opening(study_id, self._histories.of(study_id))

    def _ask(self, study_id: int) -> None:
        session = self._sessions.opened
        if session is None:
            return
        opening = self._opening(study_id)
        write = session.next_opening(calls.ASK.path, study_id)
        self._await(
            _Awaited(
                self._connection.begin(calls.ASK, opening.request(write).SerializeToString()),
                lambda reply: opening.trial(session, reply),
                lambda error: session.doubt(calls.ASK.path, study_id, write),
            )
        )

    def _await(self, awaited: _Awaited) -> None:
        self._awaited.append(awaited)
        self._since = awaited.since

    def _hear(self, awaited: _Awaited, deadline_s: float, patience_s: float | None) -> None:
        """Wait for the first answer that is awaited."""
        reply = awaited.begun.answer(deadline_s=deadline_s, patience_s=patience_s)
        self._awaited.popleft()
        self._took_s = time.monotonic() - awaited.since
        self._next = awaited.answered(reply)
        telling = awaited.telling
        if telling is not None:
            self._running.heard(telling.trial, kept=telling.kept)
            self._heard.append(Heard(telling.trial.trial_id, telling.kept))

    def _hand_back(self, deadline_s: float) -> None:
        trial = self._next
        if trial is not None and not trial.fenced:
            if self._returning is None:
                self._returning = Telling(trial, TrialState.WAITING, None, None).request
            try:
                self._connection.call(
                    calls.TELL, self._returning, deadline_s=deadline_s, patience_s=0.0
                )
            except NotFound:
                logger.debug("trial %d is gone", trial.number)
        self._next = self._returning = None

"""A worker that does not wait: its next trial is at hand, and the one after it is on its way.

For trials that are as short as the call between them. As a worker tells one trial it asks for
another one, begins the trial that it has at hand, and hears the answer when that one has ended.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
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
from trialfleet.errors import NotFound, TrialfleetError

_WAITING_S: Final = 0.5
"""A trial that waited for so long is handed back: somebody else may be without one."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A call that was sent, and what is to be done with its answer."""

    begun: Begun[Any]
    answered: Callable[[Any], RunningTrial | None]
    failed: Callable[[BaseException], None]
    told: RunningTrial | None = None
    """The trial whose end it tells; it is no more among those that run."""


class Ahead:
    """The trial at hand and the call under way, of the thread that runs trials. Thread-safe.

    The background thread hands a trial back that has to wait too long.
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
        self._awaited: _Awaited | None = None
        self._next: RunningTrial | None = None
        self._since = 0.0
        self._returning: bytes | None = None
        """The request that hands the trial at hand back, if it is not known whether it did."""
        self._dropped = False
        """Whether the background thread heard that a trial which was told was not ours."""

    @property
    def possible(self) -> bool:
        """Whether the session may open a trial before the one ahead of it has ended."""
        session = self._sessions.opened
        return session is not None and session.may_run_ahead

    def ask(self, study_id: int) -> None:
        """Ask for a trial to have at hand, unless there is one or it was asked for."""
        session = self._sessions.opened
        with self._lock:
            if session is None or self._awaited is not None or self._next is not None:
                return
            opening = self._opening(study_id)
            write = session.next_opening(calls.ASK.path, study_id)
            request = opening.request(write).SerializeToString()
            self._await(
                _Awaited(
                    self._connection.begin(calls.ASK, request),
                    lambda reply: opening.trial(session, reply),
                    lambda error: session.doubt(calls.ASK.path, study_id, write),
                )
            )

    def tell(
        self, trial: RunningTrial, state: TrialState, values: list[float] | None
    ) -> int | None:
        """End a trial, ask for another one, and return the id of that at hand, which runs now.

        Does nothing, and returns None, if none is at hand or an answer is still awaited. Raises
        :class:`~trialfleet.errors.TrialFinished`.
        """
        with self._lock:
            if self._awaited is not None or trial.fenced:
                return None
            if self._next is None or self._returning is not None:
                return None
            with trial.sending:
                self._running.check_runs(trial)
                telling = Telling(trial, state, values, self._opening(trial.study_id))
                try:
                    begun = self._connection.begin(calls.TELL, telling.request)
                except BaseException as error:
                    telling.failed(error)
                    raise
                self._running.end_unheard(trial, state, values)
                self._await(_Awaited(begun, telling.answered, telling.failed, trial))
            following, self._next = self._next, None
            return self._running.begin(following)

    def settle(self) -> bool:
        """Wait for the answer that is awaited; return False if it says that a trial was not ours.

        Raises as the call does. If the end of a trial was refused, the trial runs again.
        """
        with self._lock:
            awaited = self._awaited
            if awaited is None:
                dropped, self._dropped = self._dropped, False
                return not dropped
            try:
                self._settle(awaited, CALL_S, None)
            except TrialfleetError as error:
                self._awaited = None
                awaited.failed(error)
                if awaited.told is not None:
                    self._running.go_on(awaited.told)
                raise
            return awaited.told is None or not awaited.told.fenced

    def take(self) -> int | None:
        """Return the id of the trial at hand, which runs from now on; None if there is none."""
        with self._lock:
            if self._returning is not None:
                return None
            trial, self._next = self._next, None
        return None if trial is None or trial.fenced else self._running.begin(trial)

    def hand_back_old(self, deadline_s: float) -> None:
        """Hand back a trial that has been waiting for long; tries each proxy once."""
        if time.monotonic() - self._since < _WAITING_S:
            return
        # Another thread that waits for an answer will use what it brings.
        if not self._lock.acquire(blocking=False):
            return
        try:
            awaited = self._awaited
            if awaited is not None:
                self._settle(awaited, deadline_s, 0.0)
                self._dropped = awaited.told is not None and awaited.told.fenced
            self._hand_back(deadline_s)
        except TrialfleetError as error:
            logger.debug("no trial was handed back: %s", error)
        finally:
            self._lock.release()

    def settle_last(self, deadline_s: float) -> None:
        """Hear whether the last trial was told, after the connection was interrupted."""
        if not self._lock.acquire(timeout=deadline_s):
            return
        try:
            awaited, self._awaited = self._awaited, None
            if awaited is not None:
                awaited.begun.last_answer(deadline_s)
        except (grpc.RpcError, ChannelClosed) as error:
            logger.debug("no answer: %s", error)
        finally:
            self._lock.release()

    def _opening(self, study_id: int) -> Opening:
        return Opening(study_id, self._histories.of(study_id))

    def _await(self, awaited: _Awaited) -> None:
        self._awaited = awaited
        self._since = time.monotonic()

    def _settle(self, awaited: _Awaited, deadline_s: float, patience_s: float | None) -> None:
        reply = awaited.begun.answer(deadline_s=deadline_s, patience_s=patience_s)
        self._awaited = None
        self._next = awaited.answered(reply)
        if awaited.told is not None:
            self._running.heard(awaited.told)

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

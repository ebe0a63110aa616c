"""The trials that this process runs, from Ask until Tell."""

import json
import logging
import math
import threading
import time
from collections.abc import Container
from typing import Any, Final

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.trial import FrozenTrial, TrialState

from trialfleet.client.buffer import RunningTrial, Unsent
from trialfleet.client.conversion import (
    Definition,
    attribute_bytes,
    check_name,
    encode_attribute,
    encode_distribution,
    room,
)
from trialfleet.client.flushing import Flushing
from trialfleet.client.history import HistoryCache, Reading, StudyHistory
from trialfleet.client.requests import Opening, Telling, decision_request, report_request
from trialfleet.client.session import Sessions
from trialfleet.model.errors import (
    NotFound,
    SessionGivenUp,
    StudyEnded,
    TrialFinished,
)
from trialfleet.wire import background, methods
from trialfleet.wire.connection import CALL_S, Connection
from trialfleet.wire.v1 import trialfleet_pb2 as pb

_REOPENINGS: Final = 3
_UNFINISHED: Final = tuple(state for state in TrialState if not state.is_finished())
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})

logger = logging.getLogger(__name__)


class RunningTrials:
    """Our running trials: reads of one are answered here, writes wait. Thread-safe."""

    def __init__(
        self,
        connection: Connection,
        sessions: Sessions,
        histories: HistoryCache,
    ) -> None:
        """Take the session of the trials, and the histories of their studies."""
        self._connection = connection
        self._flushing = Flushing(connection)
        self._sessions = sessions
        self._histories = histories
        self._lock = threading.Lock()
        self._trials: dict[int, RunningTrial] = {}

    def get(self, trial_id: int) -> RunningTrial | None:
        """Return a trial if this process runs it."""
        return self._trials.get(trial_id)

    def known(self, trial_id: int) -> FrozenTrial | None:
        """Return a trial that runs here, without what others wrote to it lately."""
        trial = self._trials.get(trial_id)
        # Of one that was taken away the storage knows more.
        return None if trial is None or trial.fenced else trial.snapshot()

    def read(self, trial_id: int) -> FrozenTrial | None:
        """Return a trial that runs here, with what others wrote to it more than a second ago."""
        trial = self._trials.get(trial_id)
        if trial is not None and trial.outdated():
            background.run(self._flushing.read_others(trial))
        return self.known(trial_id)

    def of(self, study_id: int) -> list[RunningTrial]:
        """Return the trials of a study that run here."""
        return [t for t in self._all() if t.study_id == study_id and not t.fenced]

    def drop_study(self, study_id: int) -> None:
        """Forget the trials of a deleted study."""
        with self._lock:
            for trial in [t for t in self._trials.values() if t.study_id == study_id]:
                del self._trials[trial.trial_id]

    def ask(self, study_id: int, wait_s: float) -> int | None:
        """Open the next trial; return its id, or None if there is none to run now.

        Raises :class:`~trialfleet.model.errors.StudyEnded`.
        """
        for _ in range(_REOPENINGS):
            opening = Opening(study_id, self._histories.of(study_id), wait_s)
            session, reply = self._sessions.open_trial(
                methods.ASK, study_id, opening.request, CALL_S + wait_s
            )
            outcome = reply.WhichOneof("outcome")
            if outcome == "fenced":
                self._sessions.forget(session)
                continue
            if outcome == "ended":
                raise StudyEnded(reply.ended.reason)
            trial = opening.trial(session, reply)
            return None if trial is None else self._add(trial)
        raise SessionGivenUp(f"{_REOPENINGS} sessions were given up one after the other")

    def all_trials(
        self, study_id: int, states: Container[TrialState] | None, late_s: float = 0.0
    ) -> list[FrozenTrial]:
        """Return a study's trials in ``states``, or all, ordered by number.

        With what is unsent of ours. If only finished ones are wanted, those that
        finished in the last ``late_s`` seconds may be missing. Raises
        :class:`~trialfleet.model.errors.NotFound`.
        """
        finished_only = states is not None and not any(state in states for state in _UNFINISHED)
        history = self._histories.of(study_id)
        ours: list[FrozenTrial] = []
        if not (finished_only and late_s and history.read_at >= time.monotonic() - late_s):
            mine = self._mine(study_id)
            if mine is None or not mine.use_news(finished_only=finished_only):
                self.read_news(study_id, history, mine, finished_only=finished_only)
        if not finished_only:
            read = (self.read(trial.trial_id) for trial in self.of(study_id))
            ours += [trial for trial in read if trial is not None]
        return history.trials(ours, states, finished_only=finished_only)

    def read_news(
        self,
        study_id: int,
        history: StudyHistory,
        mine: RunningTrial | None,
        *,
        finished_only: bool,
    ) -> None:
        """Read what changed in a study, together with a report if there is one to make."""
        reading = history.begin(finished_only=finished_only)
        if mine is not None and mine.unsent_bytes:
            reply = self._report(mine, reading)
            if reply.HasField("news") and history.accept(reading, reply.news):
                return
        self._histories.read(study_id, reading)

    def set_param(
        self, trial: RunningTrial, name: str, value: float, distribution: BaseDistribution
    ) -> None:
        """Set a parameter, in internal representation.

        The proxy checks the first of a name, this process all others. Raises ``ValueError`` for
        an incompatible distribution.
        """
        trial.check()
        value = float(value)
        known = self._histories.of(trial.study_id).known.get(name)
        text = encode_distribution(distribution, known)
        definition = Definition(name, distribution, text)
        if known is None:
            self._introduce(trial, definition, value)
        else:
            check_distribution_compatibility(known.distribution, distribution)
            trial.set_param(definition, value, sent=False)

    def set_attr(self, trial: RunningTrial, key: str, value: Any, *, system: bool) -> None:
        """Set an attribute. Raises ``TypeError`` for a value that is not JSON."""
        trial.check()
        limit = self._connection.max_message_bytes
        owner = f"trial {trial.number}: {'system' if system else 'user'}"
        text = encode_attribute(owner, key, value, limit)
        if trial.unsent_bytes + attribute_bytes(key, text) > room(limit):
            self._report(trial)
        if value.__class__ not in _SCALARS:
            value = json.loads(text)
        trial.set_attr(key, value, text, system=system)

    def should_prune(self, trial: RunningTrial, pruner: str) -> bool:
        """Report the trial's values, and return whether it is to be pruned.

        ``pruner`` is a text of :mod:`trialfleet.wire.pruners`. Raises
        :class:`~trialfleet.model.errors.SessionGivenUp` if the trial was taken away.
        """
        trial.check()
        with trial.sending:
            request = decision_request(trial, pruner)
            reply = background.run(self._connection.call(methods.REPORT, request))
        if reply.fenced:
            logger.info("trial %d was taken away", trial.number)
            trial.fence()
            trial.check()
        trial.stored(reply.stored)
        return reply.prune

    def tell(self, trial: RunningTrial, state: TrialState, values: list[float] | None) -> bool:
        """End a trial, or hand it back; return whether it was still ours.

        Raises :class:`~trialfleet.model.errors.TrialFinished` if another thread ended it.
        """
        return self._tell(trial, state, values, None)[0]

    def tell_and_ask(
        self, trial: RunningTrial, state: TrialState, values: list[float] | None
    ) -> tuple[bool, int | None]:
        """End a trial as :meth:`tell` does, and open the next one of its study.

        Returns also that one's id, None if it has to be asked for.
        """
        study_id = trial.study_id
        if trial.session is not self._sessions.opened:
            return self.tell(trial, state, values), None
        opening = Opening(study_id, self._histories.of(study_id))
        return self._tell(trial, state, values, opening)

    def _tell(
        self,
        trial: RunningTrial,
        state: TrialState,
        values: list[float] | None,
        opening: Opening | None,
    ) -> tuple[bool, int | None]:
        following, kept = None, False
        if not trial.fenced:
            with trial.sending:
                if self._trials.get(trial.trial_id) is not trial:
                    raise TrialFinished(f"trial {trial.number} has already finished")
                telling = Telling(trial, state, values, opening)
                following = self._send_tell(telling)
                kept = telling.kept
                self._remove(trial)
        else:
            self._remove(trial)
        following_id = None if following is None else self._add(following)
        if not kept:
            logger.info("trial %d was taken away before it ended: dropped", trial.number)
        return kept, following_id

    def _send_tell(self, telling: Telling) -> RunningTrial | None:
        try:
            calling = self._connection.call(methods.TELL, telling.request)
            return telling.answered(background.run(calling))
        except BaseException as error:
            telling.failed(error)
            if isinstance(error, NotFound):
                self._remove(telling.trial)
            raise

    def due_in(self) -> float:
        """Return in how many seconds :meth:`flush_old` will have something to send."""
        return min((t.due_in() for t in self._all() if not t.fenced), default=math.inf)

    async def flush_old(self, deadline_s: float) -> None:
        """Send what has been waiting for long; tries each proxy once, for ``deadline_s``."""
        await self._flushing.flush([t for t in self._all() if t.due_in() <= 0], deadline_s)

    async def flush_last(self, deadline_s: float) -> None:
        """Send what is unsent, after the connection was interrupted; one attempt for each."""
        await self._flushing.flush_last(self._all(), deadline_s)

    def _all(self) -> list[RunningTrial]:
        with self._lock:
            return list(self._trials.values())

    def _mine(self, study_id: int) -> RunningTrial | None:
        """Return the trial that the calling thread runs, as far as one can tell."""
        trials = self.of(study_id)
        if len(trials) == 1:
            return trials[0]
        thread = threading.get_ident()
        return next((trial for trial in reversed(trials) if trial.thread == thread), None)

    def _add(self, trial: RunningTrial) -> int:
        with self._lock:
            # A thread that goes on with another trial has dropped those that were taken away.
            for old in [t for t in self._trials.values() if t.fenced and t.thread == trial.thread]:
                del self._trials[old.trial_id]
            self._trials[trial.trial_id] = trial
            self._outdate(trial)
        return trial.trial_id

    def _remove(self, trial: RunningTrial) -> None:
        with self._lock:
            self._outdate(trial)
            self._trials.pop(trial.trial_id, None)

    def _outdate(self, changed: RunningTrial) -> None:
        for trial in self._trials.values():
            if trial is not changed and trial.study_id == changed.study_id:
                trial.news_are_over()

    def _introduce(self, trial: RunningTrial, definition: Definition, value: float) -> None:
        """Send a parameter of a name that is new to this process, for the proxy to check."""
        check_name(definition.name, "parameter")
        with trial.sending:
            earlier = trial.take()
            param = {definition.name: (value, definition.text)}
            request = report_request(trial, earlier.before(Unsent(params=param)), None)
            try:
                reply = background.run(self._connection.call(methods.REPORT, request))
            except BaseException:
                trial.restore(earlier)
                raise
            if reply.fenced:
                trial.fence()
        trial.check()
        trial.set_param(definition, value, sent=True)
        self._histories.of(trial.study_id).known.setdefault(definition.name, definition)

    def _report(self, trial: RunningTrial, reading: Reading | None = None) -> pb.ReportReply:
        with trial.sending:
            return background.run(self._flushing.send(trial, reading, CALL_S))

"""What workers, and who looks after them, ask of a storage beyond Optuna's interface."""

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from trialfleet.client import calls
from trialfleet.client.ahead import Heard
from trialfleet.client.answers import GivenUp, Summary
from trialfleet.client.records import floats
from trialfleet.client.studies import Studies
from trialfleet.client.translation import optuna_errors
from trialfleet.model.errors import NotFound
from trialfleet.wire.v1 import trialfleet_pb2 as pb


class Working(Studies):
    """Trials from Ask to Tell. Thread-safe; raises :mod:`trialfleet.model.errors`."""

    def ask(self, study_id: int, wait_s: float = 5.0) -> int | None:
        """Open the next trial, a waiting one first; return its id.

        Returns None if there is nothing to run now, after ``wait_s`` seconds; ask again.

        Raises:
            StudyEnded: The budget allows no further trial, with its ``reason``.
            NotFound: The study does not exist.
        """
        return self._core.running.ask(study_id, wait_s)

    def tell_and_ask(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> tuple[bool, int | None]:
        """End a trial that runs here, and open the next one of its study in the same call.

        Returns what :meth:`set_trial_state_values` does, and the next trial's id; None: ask for it.
        """
        trial = self._core.running.get(trial_id)
        if trial is None:
            return self.set_trial_state_values(trial_id, state, values), None
        return optuna_errors(self._core.running.tell_and_ask)(trial, state, floats(values))

    @property
    def may_run_ahead(self) -> bool:
        """Whether :meth:`ask_ahead` and :meth:`tell_ahead` may be used.

        The storage is ``sequential``, and the session's study ends with a number of trials or a
        time only. They and :meth:`next_ahead` are for one thread.
        """
        return self._core.ahead.possible

    def ask_ahead(self, study_id: int) -> None:
        """Ask for a trial to have at hand; returns at once.

        A trial that is at hand for longer than half a second is handed back.
        """
        self._core.ahead.ask(study_id)

    def tell_ahead(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None = None,
        *,
        depth: int = 1,
    ) -> int | None:
        """End a trial that runs here and ask for another one; returns at once.

        Returns the id of the trial at hand, to be run now. If there is none, which :meth:`settle`
        would bring, it returns None and does nothing. As many as ``depth`` trials are kept on
        their way, but one only where each brings what others did: a sampler or pruner that looks
        at the study's trials sees it as early as it can.
        """
        trial = self._core.running.get(trial_id)
        if trial is None:
            return None
        return optuna_errors(self._core.ahead.tell)(trial, state, floats(values), depth)

    @optuna_errors
    def settle(self) -> list[Heard]:
        """Wait until a trial is at hand; not if none was asked for.

        Returns what has become of trials that were told ahead, as far as it was heard.
        """
        return self._core.ahead.settle()

    def next_ahead(self) -> int | None:
        """Return the id of the trial at hand, to be run now; None if there is none."""
        return self._core.ahead.take()

    def hand_back(self, trial_id: int) -> None:
        """Let a trial that runs here wait again at once, for another worker, with its parameters.

        Raises:
            NotFound: The trial does not run here.
        """
        trial = self._core.running.get(trial_id)
        if trial is None:
            raise NotFound(f"trial {trial_id} does not run here")
        self._core.running.tell(trial, TrialState.WAITING, None)

    def give_up(
        self, *, worker: str, reason: str, message: str = "", failed: bool = False
    ) -> GivenUp:
        """Say that a worker is dead: its sessions are fenced, its trials fail with the reason.

        A lost trial is requeued while retries last; with ``failed`` it was the objective's own
        doing, and counts as failed.
        """
        request = pb.GiveUpRequest(worker=worker, reason=reason, message=message, failed=failed)
        reply = self._core.connection.call(calls.GIVE_UP, request.SerializeToString())
        return GivenUp.decode(reply)

    def summary(self, study_id: int, best: int = 1) -> Summary:
        """Return counts and up to ``best`` best trials, in constant time.

        Raises:
            NotFound: The study does not exist.
        """
        request = pb.SummaryRequest(study_id=study_id, best=best)
        reply = self._core.connection.call(calls.SUMMARY, request.SerializeToString())
        return Summary.decode(reply)

    def news(self, study_id: int) -> list[FrozenTrial]:
        """Return the finished trials that this object did not return before, in the order seen.

        Raises:
            NotFound: The study does not exist.
        """
        history = self._core.histories.of(study_id)
        self._core.running.read_news(study_id, history, None, finished_only=True)
        return history.news()

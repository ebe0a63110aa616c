"""The loop of a worker: ask, run, report, tell."""

import contextlib
import enum
import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.distributions import BaseDistribution
from optuna.exceptions import TrialPruned
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from trialfleet import names
from trialfleet.client import FleetStorage
from trialfleet.model.errors import InvalidInput, NotFound, SessionGivenUp, StudyEnded, deleted
from trialfleet.worker import failure, forks, log, surroundings
from trialfleet.worker.callbacks import Callbacks
from trialfleet.worker.callbacks import Function as Callback
from trialfleet.worker.failure import Failed, ObjectiveFailure
from trialfleet.worker.interrupts import HandBack, Interrupt, Leave, TrialTimedOut
from trialfleet.worker.values import check_values
from trialfleet.worker.watchdog import Watch
from trialfleet.worker.worker_study import STORAGE_ERRORS, WorkerStudy

_log = logging.getLogger(__name__)


class End(enum.Enum):
    """Why a worker's loop ended."""

    STUDY_ENDED = enum.auto()
    """The budget allows no further trial."""
    LEFT = enum.auto()
    """It was asked to leave; work may remain."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a worker's loop ended."""

    end: End
    reason: str = ""
    """One of ``names.ENDED_*`` where the study has ended."""
    trials: int = 0
    """Trials that this worker brought to an end."""


def run_worker(
    storage: FleetStorage,
    study_id: int,
    study_name: str,
    objective: Callable[[Trial], object],
    sampler: BaseSampler,
    pruner: BasePruner,
    *,
    trial_timeout_s: float | None = None,
    checkpoint_root: Path | None = None,
    search_space: Mapping[str, BaseDistribution] | None = None,
    catch: tuple[type[BaseException], ...] = (BaseException,),
    watch: Watch | None = None,
    after_trial: Callable[[], None] | None = None,
    callbacks: Sequence[tuple[str, Callback]] = (),
    mark_output: bool = False,
) -> Outcome:
    """Run trials of a study until there are no more, or the worker has to leave.

    Call it in the main thread, once at a time. The caller closes the storage afterwards, which
    hands back what a leaving worker still had.

    Args:
        storage: The client of a proxy.
        study_id: The study's id in the storage.
        study_name: The study's name.
        objective: Is called with each trial and returns its values, or raises ``TrialPruned``.
        sampler: This worker's own.
        pruner: This worker's own.
        trial_timeout_s: A trial that runs for more seconds is stopped and has failed.
        checkpoint_root: Each trial gets a folder under it, see ``names.ENV_CHECKPOINT_DIR``.
        search_space: Parameters that are suggested before the objective is called.
        catch: Exceptions of the objective that fail the trial only.
        watch: Through it the worker is asked to leave. Without one it only ends with the study.
        after_trial: Is called when a trial is told, before the next one is opened.
        callbacks: By name, what is called with the study and each trial that this worker told,
            before the next one is opened. What they raise is logged.
        mark_output: Whether this process's output says where a trial begins and ends.

    Raises:
        StorageUnavailable: No proxy answered for as long as the client is patient.
        InvalidInput: The checkpoint folder can't be made.
        NotFound: The study was deleted.
        BaseException: What an objective raised that ``catch`` does not name; its trial has failed.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(surroundings.of_worker())
        if watch is None:
            watch = stack.enter_context(Watch(storage, handle_signals=False))
        folder = None
        if checkpoint_root is not None:
            folder = surroundings.study_folder(checkpoint_root, study_name)
        worker = _Worker(
            storage=storage,
            study=WorkerStudy(study_name, storage, sampler, pruner),
            objective=objective,
            trial_timeout_s=trial_timeout_s,
            folder=folder,
            search_space=search_space or {},
            catch=(TrialPruned, *catch),
            watch=watch,
            after_trial=after_trial,
            callbacks=Callbacks(callbacks),
            mark_output=mark_output,
        )
        try:
            try:
                return worker.work(study_id)
            finally:
                watch.away()
        except (Leave, HandBack):
            watch.away()  # it may have been raised before the first one was done
            return Outcome(End.LEFT, trials=worker.trials)


@dataclass(slots=True)
class _Worker:
    storage: FleetStorage
    study: WorkerStudy
    objective: Callable[[Trial], object]
    trial_timeout_s: float | None
    folder: Path | None
    search_space: Mapping[str, BaseDistribution]
    catch: tuple[type[BaseException], ...]
    watch: Watch
    after_trial: Callable[[], None] | None
    callbacks: Callbacks
    mark_output: bool
    trials: int = 0

    def work(self, study_id: int) -> Outcome:
        try:
            while not self.watch.leaving:
                self.watch.asking()
                trial = self._next(study_id)
                if trial is None:
                    continue
                with log.marked(trial.number) if self.mark_output else contextlib.nullcontext():
                    if self._run(trial) and self.callbacks:
                        self._call_back(trial._trial_id)
                if self.study.stopped:
                    self.watch.asking()
                    self.storage.stop_study(study_id)
                if self.after_trial is not None:
                    self.watch.asking()
                    self.after_trial()
            if self.study.next_trial is not None:
                self.storage.hand_back(self.study.next_trial)
        except StudyEnded as ended:
            return Outcome(End.STUDY_ENDED, ended.reason, self.trials)
        return Outcome(End.LEFT, trials=self.trials)

    def _next(self, study_id: int) -> FrozenTrial | None:
        trial_id, self.study.next_trial = self.study.next_trial, None
        try:
            if trial_id is None:
                trial_id = self.storage.ask(study_id)
            return None if trial_id is None else self.storage.get_trial(trial_id)
        except (NotFound, KeyError) as gone:
            raise deleted(self.study.study_name) from gone

    def _run(self, trial: FrozenTrial) -> bool:
        """Run one trial and tell its result; False if the trial is this worker's no longer."""
        started = time.monotonic()
        returned, error, interrupt = self._attempt(trial)
        if interrupt is None and isinstance(error, Failed) and error.was_stopped:
            interrupt = HandBack if self.watch.leaving else None
        try:
            if interrupt in (HandBack, Leave):
                self.storage.hand_back(trial._trial_id)
                _log.info("trial %d handed back", trial.number)
                raise Leave
            if interrupt is None and isinstance(error, STORAGE_ERRORS):
                raise error
            caught = interrupt is not None or error is None or isinstance(error, self.catch)
            go_on = caught and not self.watch.leaving and not self._waits_after_trials
            verdict = self._judge(returned, error, interrupt)
            kept = self._conclude(trial, verdict, started, go_on)
        except SessionGivenUp:
            kept = False
        except KeyError as gone:
            raise deleted(self.study.study_name) from gone
        if kept:
            self.trials += 1
            if error is not None and not caught:
                raise error
        if error is not None:
            # What the objective's frames hold, a model on a GPU, must not live into the next trial.
            traceback.clear_frames(error.__traceback__)
        return kept

    @property
    def _waits_after_trials(self) -> bool:
        """Whether something may stop the study, or enqueue a trial, before the next one."""
        return self.after_trial is not None or bool(self.callbacks)

    def _call_back(self, trial_id: int) -> None:
        try:
            self.callbacks(self.study, self.storage.get_trial(trial_id))
        except KeyError as gone:
            raise deleted(self.study.study_name) from gone

    def _attempt(
        self, trial: FrozenTrial
    ) -> tuple[object, BaseException | None, type[Interrupt] | None]:
        """Return what the objective returned or raised, and how it was interrupted."""
        returned: object = None
        error: BaseException | None = None
        with surroundings.of_trial(trial, self.folder):
            try:
                try:
                    self.watch.running(trial._trial_id, self.trial_timeout_s)
                    with forks.end_here():
                        running = self.study.begin(trial._trial_id, self.search_space)
                        returned = self.objective(running)
                finally:
                    self.watch.telling()
            except BaseException as raised:
                error = raised
            # Again, because the exception may have come just before the first one was done.
            interrupt = self.watch.telling()
        return returned, error, interrupt

    def _judge(
        self, returned: object, error: BaseException | None, interrupt: type[Interrupt] | None
    ) -> list[float] | ObjectiveFailure | None:
        """Return the trial's values, why it failed, or None for a pruned one."""
        if interrupt is TrialTimedOut:
            return failure.timed_out(self.trial_timeout_s or 0.0, error)
        if isinstance(error, TrialPruned):
            return None
        if error is not None:
            return failure.raised(error)
        values = check_values(returned, len(self.study.directions))
        if isinstance(values, str):
            return ObjectiveFailure(reason=names.REASON_OBJECTIVE_RETURNED, message=values)
        return values

    def _conclude(
        self,
        trial: FrozenTrial,
        verdict: list[float] | ObjectiveFailure | None,
        started: float,
        go_on: bool,
    ) -> bool:
        try:
            return self._tell(trial, verdict, started, go_on)
        except (ValueError, InvalidInput) as refused:
            # An attribute that the client took and the storage did not, told late.
            return self._tell(trial, failure.raised(refused), started, go_on)

    def _tell(
        self,
        trial: FrozenTrial,
        verdict: list[float] | ObjectiveFailure | None,
        started: float,
        go_on: bool,
    ) -> bool:
        seconds = time.monotonic() - started
        if isinstance(verdict, ObjectiveFailure):
            for key, value in verdict.attributes.items():
                self.storage.set_trial_system_attr(trial._trial_id, key, value)
            if not self.study.end(trial._trial_id, TrialState.FAIL, None, go_on=go_on):
                return False
            _log.warning("trial %d failed: %s", trial.number, verdict)
            return True
        state = TrialState.PRUNED if verdict is None else TrialState.COMPLETE
        if not self.study.end(trial._trial_id, state, verdict, go_on=go_on):
            return False
        shown = "" if verdict is None else ": " + ", ".join(f"{value:g}" for value in verdict)
        _log.debug("trial %d %s%s, %.2f s", trial.number, state.name.lower(), shown, seconds)
        return True

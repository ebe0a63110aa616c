"""Optuna's study as a worker uses it, trial by trial."""

import contextlib
import copy
import logging
import math
import time
from collections.abc import Container, Mapping, Sequence
from typing import Any, Final

import optuna
from optuna import pruners
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from trialfleet.client import FleetStorage
from trialfleet.client.trial_batches import deep_copies
from trialfleet.model.errors import SchemaMismatch, SessionGivenUp, StorageUnavailable
from trialfleet.wire.pruners import encode_pruner
from trialfleet.worker import failure, forks

STORAGE_ERRORS: Final = (SessionGivenUp, StorageUnavailable, SchemaMismatch)
"""Raised by the storage in the middle of an objective or a sampler, and not their failure."""

_FINISHED: Final = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

_LATE_S: Final = 0.2
"""By how much the trials that a pruner compares with may be late.

A proxy decides for the pruners that it knows. An objective that reports more often than that, a few
times in a row, has its worker decide: it makes no call for each of its reports then, and gets the
trials that finish instead.
"""
_OFTEN: Final = 3
_MOST_VALUES: Final = 10_000
"""A trial with more intermediate values does not send all of them with each report."""

_log = logging.getLogger(__name__)


class _Trial(Trial):
    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        study = self.study
        assert isinstance(study, WorkerStudy)
        value = super()._suggest(name, distribution)
        if isinstance(distribution, IntDistribution) and int(float(value)) != value:
            raise ValueError(
                f"parameter {name!r}: found {value}, which Optuna rounds when it stores it; "
                "accepted: -2^53 to 2^53"
            )
        if isinstance(distribution, CategoricalDistribution):
            study.check_choices(name, distribution.choices)
        return value

    def should_prune(self) -> bool:
        study = self.study
        assert isinstance(study, WorkerStudy)
        pruner = study.pruner_for_proxy()
        if pruner is not None:
            values = self._get_latest_trial().intermediate_values
            if len(values) <= _MOST_VALUES:
                return bool(values) and study.fleet.should_prune(self._trial_id, pruner)
        study.pruning = True
        try:
            return super().should_prune()
        finally:
            study.pruning = False


class WorkerStudy(optuna.Study):
    """A study whose trials are opened by the storage and ended here.

    ``Study.ask`` looks for a waiting trial by reading all trials; here the storage does it.
    ``Study.tell`` reads the trial back, and hides that the storage refused the write.
    """

    def __init__(
        self, name: str, storage: FleetStorage, sampler: BaseSampler, pruner: BasePruner
    ) -> None:
        super().__init__(name, storage, sampler, pruner)
        self.fleet = storage
        self.stopped = False
        self.next_trial: int | None = None
        """Id of the trial that was opened when the last one ended."""
        self.pruning = False
        """Whether a pruner is being asked."""
        self._encoded_pruner = encode_pruner(pruner)
        self._asked_at = float("-inf")
        self._often = 0
        """How many times in a row it was asked whether to prune soon after the time before."""
        self._finished_trials: list[FrozenTrial] | None = None
        self._checked = set[str]()
        self._forks = 0
        self._is_copied = False

    def __getstate__(self) -> dict[Any, Any]:
        # A trial is on its way to another process, which may write to it.
        self._is_copied = True
        return super().__getstate__()

    def check_choices(self, name: str, choices: Sequence[object]) -> None:
        """Tell once if choices are equal to Python, so that Optuna records the first for both."""
        if name in self._checked:
            return
        self._checked.add(name)
        # Numbers only: other objects may not be hashable.
        first: dict[object, object] = {}
        for choice in choices:
            if not isinstance(choice, bool | int | float):
                continue
            equal = first.setdefault(choice, choice)
            if type(equal) is not type(choice):
                _log.warning(
                    "parameter %r: the choices %r and %r are equal, Optuna records the first for "
                    "both",
                    *(name, equal, choice),
                )

    def pruner_for_proxy(self) -> str | None:
        """Return the pruner as text if a proxy is to decide this time."""
        if self._encoded_pruner is None or len(self.directions) > 1:
            return None
        asked_at, self._asked_at = self._asked_at, time.monotonic()
        self._often = self._often + 1 if self._asked_at - asked_at < _LATE_S else 0
        return None if self._often >= _OFTEN else self._encoded_pruner

    def stop(self) -> None:
        """Have no new trial opened: called by an objective, or a sampler that has tried all.

        Optuna's own refuses to be called outside ``Study.optimize``.
        """
        self.stopped = True

    def begin(self, trial_id: int, search_space: Mapping[str, BaseDistribution]) -> Trial:
        """Return a running trial, with the parameters of ``search_space`` suggested."""
        self._forget_trials()  # as Study.ask
        self._forks = forks.count()
        self._is_copied = False
        trial = _Trial(self, trial_id)
        for name, distribution in search_space.items():
            trial._suggest(name, distribution)
        return trial

    def end(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None,
        *,
        go_on: bool,
    ) -> bool:
        """End a trial; return False if it is this worker's no longer.

        With ``go_on`` the next one is opened in the same call, unless the study was stopped.

        A pruned trial gets its last intermediate value, as ``Study.tell`` has it. A sampler that
        fails afterwards is logged: the trial itself is complete.
        """
        self._forget_trials()  # as Study.tell
        frozen = self.fleet.running_trial(trial_id)
        if state is TrialState.PRUNED:
            reports = self._reports(frozen)
            last = reports[max(reports)] if reports else math.nan
            values = None if math.isnan(last) else [last]
        try:
            filtered = pruners._filter_study(self, frozen)
            self.sampler.after_trial(
                filtered, frozen, state, None if values is None else list(values)
            )
        except STORAGE_ERRORS:
            raise
        except Exception as error:
            _log.warning(
                "the sampler failed after trial %d: %s", frozen.number, failure.one_line(error)
            )
        if not go_on or self.stopped:
            return self._storage.set_trial_state_values(trial_id, state, values)
        kept, self.next_trial = self.fleet.tell_and_ask(trial_id, state, values)
        return kept

    def _reports(self, frozen: FrozenTrial) -> Mapping[int, float]:
        """Return a trial's intermediate values, also those that its child processes reported."""
        if not (self._is_copied or forks.count() > self._forks):
            return frozen.intermediate_values
        # A copy of the client knows of no trial that runs here, and asks the storage.
        with contextlib.closing(copy.copy(self.fleet)) as reader:
            others = reader.get_trial(frozen._trial_id).intermediate_values
        return {**others, **frozen.intermediate_values}

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        # Optuna's own asks for all trials where it keeps them, those that others run too.
        if states is None or not (use_cache or self.pruning):
            return super()._get_trials(deepcopy, states, use_cache)
        if any(state in states for state in TrialState if not state.is_finished()):
            return super()._get_trials(deepcopy, states, use_cache)
        if not use_cache:
            trials = self.fleet.finished_trials(self._study_id, _LATE_S)
        elif self._finished_trials is None:
            trials = self._storage.get_all_trials(self._study_id, deepcopy=False, states=_FINISHED)
            self._finished_trials = trials
        else:
            trials = self._finished_trials
        trials = [trial for trial in trials if trial.state in states]
        return deep_copies(trials) if deepcopy else trials

    def _forget_trials(self) -> None:
        # What a sampler has read is valid for one trial only.
        self._thread_local.cached_all_trials = None
        self._finished_trials = None

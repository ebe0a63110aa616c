"""Optuna's study as a worker uses it, trial by trial."""

import logging
from collections.abc import Mapping, Sequence
from typing import Final

import optuna
from optuna import pruners
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import Trial, TrialState

from trialfleet.client import FleetStorage
from trialfleet.errors import SchemaMismatch, SessionGivenUp, StorageUnavailable
from trialfleet.worker import failure

STORAGE_ERRORS: Final = (SessionGivenUp, StorageUnavailable, SchemaMismatch)
"""Raised by the storage in the middle of an objective or a sampler, and not their failure."""

_log = logging.getLogger(__name__)


class WorkerStudy(optuna.Study):
    """A study whose trials are opened by the storage and ended here.

    ``Study.ask`` looks for a waiting trial by reading all trials; here the storage does it.
    ``Study.tell`` reads the trial back, and hides that the storage refused the write.
    """

    def __init__(
        self, name: str, storage: FleetStorage, sampler: BaseSampler, pruner: BasePruner
    ) -> None:
        super().__init__(name, storage, sampler, pruner)
        self._fleet = storage
        self.stopped = False
        self.next_trial: int | None = None
        """Id of the trial that was opened when the last one ended."""

    def stop(self) -> None:
        """Have no new trial opened: called by an objective, or a sampler that has tried all.

        Optuna's own refuses to be called outside ``Study.optimize``.
        """
        self.stopped = True

    def begin(self, trial_id: int, search_space: Mapping[str, BaseDistribution]) -> Trial:
        """Return a running trial, with the parameters of ``search_space`` suggested."""
        self._thread_local.cached_all_trials = None  # as Study.ask: valid for one trial only
        trial = Trial(self, trial_id)
        for name, distribution in search_space.items():
            trial._suggest(name, distribution)
        return trial

    def end(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None, *, go_on: bool
    ) -> bool:
        """End a trial; return False if it is this worker's no longer.

        With ``go_on`` the next one is opened in the same call, unless the study was stopped.

        A pruned trial gets its last intermediate value, as ``Study.tell`` has it. A sampler that
        fails afterwards is logged: the trial itself is complete.
        """
        self._thread_local.cached_all_trials = None  # as Study.tell: valid for one trial only
        frozen = self._storage.get_trial(trial_id)
        if state is TrialState.PRUNED and frozen.last_step is not None:
            last = frozen.intermediate_values[frozen.last_step]
            values = None if last != last else [last]
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
        kept, self.next_trial = self._fleet.tell_and_ask(trial_id, state, values)
        return kept

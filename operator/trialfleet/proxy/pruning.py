"""Whether a trial is to be pruned, decided where the study's history is.

Optuna's own pruners decide. They are given a view of the study in which they find at once what
they would compute from all complete trials: of the values of a step only the two between which a
percentile lies.
"""

import asyncio
import copy
import math
import warnings
from array import array
from bisect import insort
from collections.abc import Container, Mapping, Sequence
from typing import Final

from optuna.pruners import BasePruner, PatientPruner, PercentilePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from trialfleet.proxy.history import HistoryView
from trialfleet.wire.v1 import trialfleet_pb2 as pb

_SLICE: Final = 500
"""Trials that are decoded before others get their turn on the event loop; some milliseconds."""


class StepValues:
    """The intermediate values of a study's complete trials, by step, in order.

    Belongs to one event loop. Eight bytes a value.
    """

    def __init__(self) -> None:
        """Start without trials."""
        self._begin(epoch=0)

    def _begin(self, epoch: int) -> None:
        self.complete = 0
        """Complete trials whose values are here."""
        self._epoch = epoch
        self._read = 0
        self._values: dict[int, array[float]] = {}
        self._nans: dict[int, int] = {}

    async def update(self, view: HistoryView) -> None:
        """Take what a study's history has gained, each trial once; any number may call at once."""
        if view.epoch != self._epoch:
            self._begin(view.epoch)  # another log: it may have other trials
        while self._epoch == view.epoch and self._read < view.end:
            end = min(self._read + _SLICE, view.end)
            batch = pb.TrialBatch.FromString(b"".join(view.entries[self._read : end]))
            for trial in map(pb.Trial.FromString, batch.trials):
                if trial.state == TrialState.COMPLETE.value:
                    self._add(trial)
            self._read = end
            if end < view.end:
                await asyncio.sleep(0)

    def _add(self, trial: pb.Trial) -> None:
        self.complete += 1
        for step, value in zip(trial.steps, trial.intermediate_values, strict=True):
            if math.isnan(value):
                self._nans[step] = self._nans.get(step, 0) + 1
            else:
                insort(self._values.setdefault(step, array("d")), value)

    def count(self, step: int) -> int:
        """Return how many trials have a value of a step, those without a number among them."""
        return len(self._values.get(step, ())) + self._nans.get(step, 0)

    def around(self, step: int, percentile: float) -> tuple[Sequence[float], float]:
        """Return the values between which a percentile lies, and where between them, in percent.

        As ``numpy.nanpercentile`` interpolates. One value if it is the percentile, none if there
        is none.
        """
        values = self._values.get(step)
        if not values:
            return (), 0.0
        place = (len(values) - 1) * percentile / 100
        below = math.floor(place)
        if below + 1 >= len(values):
            return (values[-1],), 0.0
        return (values[below], values[below + 1]), 100 * (place - below)


class _View:
    """A study as a PercentilePruner sees it, with as many trials as its answer depends on."""

    def __init__(self, direction: StudyDirection, trials: list[FrozenTrial]) -> None:
        self.direction: Final = direction
        self._trials = trials

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self._trials


class _Percentile(PercentilePruner):
    """A PercentilePruner that finds the percentile in the history's order."""

    def __init__(self, pruner: PercentilePruner, history: StepValues) -> None:
        self._pruner = pruner
        self._history = history

    def prune(self, study: object, trial: FrozenTrial) -> bool:
        """Return what the pruner decides of all complete trials."""
        assert isinstance(study, _View)
        pruner, history = self._pruner, self._history
        step = trial.last_step
        if history.complete < max(1, pruner._n_startup_trials) or step is None:
            return False
        values: Sequence[float] = ()
        percentile = 0.0
        # With fewer values than it asks for, as if there were none.
        enough = history.count(step) >= pruner._n_min_trials
        if enough and study.direction == StudyDirection.MAXIMIZE:
            values, between = history.around(step, 100 - pruner._percentile)
            percentile = 100 - between
        elif enough:
            values, percentile = history.around(step, pruner._percentile)
        # Whatever else it asks (warm-up, interval, the trial's best value) is its own to say.
        same = PercentilePruner(
            percentile,
            n_startup_trials=0,
            n_warmup_steps=pruner._n_warmup_steps,
            interval_steps=pruner._interval_steps,
            n_min_trials=max(1, len(values)),
        )
        trials = [_complete(step, value) for value in values] or [_complete(-1, 0.0)]
        return bool(same.prune(_View(study.direction, trials), trial))  # type: ignore[arg-type]


def should_prune(
    pruner: BasePruner,
    direction: StudyDirection,
    history: StepValues,
    values: Mapping[int, float],
) -> bool:
    """Return whether a trial with these intermediate values, by step, is to be pruned.

    ``pruner`` is one that :func:`~trialfleet.wire.pruners.decode_pruner` returned. The time it
    takes does not grow with the study's trials, but for the logarithm.
    """
    trial = _trial(TrialState.RUNNING, dict(values))
    decided = _with_history(pruner, history)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, where no value is a number
        return bool(decided.prune(_View(direction, []), trial))  # type: ignore[arg-type]


def _with_history(pruner: BasePruner, history: StepValues) -> BasePruner:
    if isinstance(pruner, PercentilePruner):
        return _Percentile(pruner, history)
    assert isinstance(pruner, PatientPruner)
    wrapped = pruner._wrapped_pruner
    patient = copy.copy(pruner)
    patient._wrapped_pruner = None if wrapped is None else _with_history(wrapped, history)
    return patient


def _complete(step: int, value: float) -> FrozenTrial:
    return _trial(TrialState.COMPLETE, {step: value})


def _trial(state: TrialState, values: dict[int, float]) -> FrozenTrial:
    return FrozenTrial(
        number=0,
        trial_id=0,
        state=state,
        value=None,
        datetime_start=None,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values=values,
    )

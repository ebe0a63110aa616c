"""Trials in the order of their numbers."""

from bisect import bisect_left
from collections.abc import Container, Iterable

from optuna.trial import FrozenTrial, TrialState


class OrderedTrials:
    """Trials that have finished: samplers ask for all of them, over and over."""

    def __init__(self) -> None:
        self._trials: list[FrozenTrial] = []
        self._states: set[TrialState] = set()

    def add(self, trial: FrozenTrial) -> bool:
        """Add a trial; return False if it is there already."""
        trials = self._trials
        if not trials or trial.number > trials[-1].number:
            trials.append(trial)
        else:
            place = bisect_left(trials, trial.number, key=_number)
            if trials[place].number == trial.number:
                return False
            trials.insert(place, trial)
        self._states.add(trial.state)
        return True

    def merged(
        self, others: Iterable[FrozenTrial], states: Container[TrialState] | None
    ) -> list[FrozenTrial]:
        """Return a list of those in ``states``, and of others.

        A trial that has finished here stands for any other of its number, then the last one does.
        """
        if states is None or all(state in states for state in self._states):
            merged = self._trials.copy()
        else:
            merged = [trial for trial in self._trials if trial.state in states]
        for trial in {trial.number: trial for trial in others}.values():
            if (states is None or trial.state in states) and not self._has(trial.number):
                merged.insert(bisect_left(merged, trial.number, key=_number), trial)
        return merged

    def _has(self, number: int) -> bool:
        place = bisect_left(self._trials, number, key=_number)
        return place < len(self._trials) and self._trials[place].number == number


def _number(trial: FrozenTrial) -> int:
    return trial.number

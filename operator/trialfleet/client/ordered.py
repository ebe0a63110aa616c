"""Trials in the order of their numbers."""

from bisect import bisect_left
from collections.abc import Container, Iterable
from operator import lt

from optuna.trial import FrozenTrial, TrialState


class OrderedTrials:
    """Trials that have finished: samplers ask for all of them, over and over."""

    def __init__(self) -> None:
        self._trials: list[FrozenTrial] = []
        self._states: set[TrialState] = set()

    def add(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Add trials; return those that were not there already."""
        numbers = [trial.number for trial in trials]
        # Mostly they are in order, and come after all others.
        before = [self._trials[-1].number if self._trials else -1, *numbers]
        if all(map(lt, before, numbers)):
            added = trials
            self._trials += trials
        else:
            added = [trial for trial in trials if self._insert(trial)]
        self._states.update(trial.state for trial in added)
        return added

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
            if (states is None or trial.state in states) and not self.has(trial.number):
                merged.insert(bisect_left(merged, trial.number, key=_number), trial)
        return merged

    def _insert(self, trial: FrozenTrial) -> bool:
        place = bisect_left(self._trials, trial.number, key=_number)
        if place < len(self._trials) and self._trials[place].number == trial.number:
            return False
        self._trials.insert(place, trial)
        return True

    def has(self, number: int) -> bool:
        """Return whether there is a trial of that number."""
        place = bisect_left(self._trials, number, key=_number)
        return place < len(self._trials) and self._trials[place].number == number


def _number(trial: FrozenTrial) -> int:
    return trial.number

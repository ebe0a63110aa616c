"""What a program reports while it runs: intermediate values, and whether the trial is pruned."""

import time
from typing import Final

from optuna.exceptions import TrialPruned
from optuna.trial import Trial

_BETWEEN_S: Final = 0.1
"""Between two questions whether to prune, however fast a program reports."""


class ProgramProgress:
    """Passes a program's intermediate values on to its trial.

    For a study of one objective: Optuna prunes no trial of several.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._steps = set[int]()
        self._next_ask = 0.0
        self._pruned = False

    def report(self, value: float, step: int) -> None:
        """Report a value. The first one of a step counts; what comes after the end does not.

        Raises:
            TrialPruned: The pruner gives the trial up.
        """
        if self._pruned or step in self._steps:
            return
        self._steps.add(step)
        self._trial.report(value, step)
        now = time.monotonic()
        if now < self._next_ask:
            return
        self._next_ask = now + _BETWEEN_S
        if self._trial.should_prune():
            self._pruned = True
            raise TrialPruned

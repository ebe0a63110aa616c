"""What ends a study: its budget, and the one rule that says whether it has ended."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trialfleet import names
from trialfleet.model.study import Counts


class Goal(NamedTuple):
    """The study ends when a trial's value for the objective is as good as ``value``."""

    objective: int
    value: float


@dataclass(frozen=True, slots=True)
class Budget:
    """What ends a study; an absent field sets no end."""

    trials: int | None = None
    """Counted trials: COMPLETE, PRUNED, and FAIL by the objective's own error."""
    failed_trials: int | None = None
    timeout_s: float | None = None
    """Seconds from the first trial opened."""
    goals: Sequence[Goal] = ()
    patience: int | None = None
    """Counted trials in a row that improve nothing."""


class SinceBest(NamedTuple):
    """The trials numbered after the last one that improved something; all, if none has.

    For one objective that is the best trial, for several the newest on their front.
    """

    counted: int = 0
    running: int = 0


def end_reason(
    budget: Budget,
    counts: Counts,
    best: Sequence[float | None],
    maximize: Sequence[bool],
    started: datetime.datetime | None,
    now: datetime.datetime,
    since_best: SinceBest | None = None,
) -> str:
    """Return why no further trial may be opened, one of ``names.ENDED_*``, or ``""``.

    ``best`` holds the best value seen of each objective, None where there is none yet.
    Running trials occupy the budget, and the patience: with the last ones under way the reason is
    already ``TrialsComplete``, although one of them may still be lost and come back, or
    ``NoImprovement``, although one of them may still improve something. ``since_best`` is needed
    with ``budget.patience`` only.
    """
    for objective, value in budget.goals:
        reached = best[objective] if objective < len(best) else None
        if reached is not None and (reached >= value if maximize[objective] else reached <= value):
            return names.ENDED_GOAL
    if budget.failed_trials is not None and counts.failed >= budget.failed_trials:
        return names.ENDED_FAILED_TRIALS
    elapsed_s = 0.0 if started is None else (now - started).total_seconds()
    if budget.timeout_s is not None and elapsed_s >= budget.timeout_s:
        return names.ENDED_TIMEOUT
    if budget.trials is not None and counts.counted + counts.running >= budget.trials:
        return names.ENDED_TRIALS
    if budget.patience is not None and since_best and sum(since_best) >= budget.patience:
        return names.ENDED_PATIENCE
    return ""

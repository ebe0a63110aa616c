"""Where studies stand: what their budgets allow, and what of it is used."""

import datetime
from collections.abc import Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from optuna.study import StudyDirection

from trialfleet import names
from trialfleet.model.budget import Budget, Goal, SinceBest, end_reason
from trialfleet.model.study import Counts
from trialfleet.storage.transaction import Statement, Transaction

# Who improved something is on the front. Of those with the same values only the first one did.
_SINCE_BEST: Final = """
    SELECT ARRAY[
        count(*) FILTER (WHERE t.state IN ('COMPLETE', 'PRUNED')
            OR t.state = 'FAIL' AND r.lost IS NOT TRUE),
        count(*) FILTER (WHERE t.state = 'RUNNING')]
    FROM trials t LEFT JOIN trialfleet_runs r USING (trial_id)
    WHERE t.study_id = s.study_id AND t.number > coalesce((
        SELECT max(number) FROM (SELECT min(y.number) FROM trialfleet_best b JOIN trials y
            USING (trial_id) WHERE b.study_id = s.study_id GROUP BY b.costs) AS f (number)), -1)
        AND t.number >= coalesce(d.taken[1] + d.taken[2], 0)
"""

# The columns of one study's standing; see :class:`Standing`. A study that only stock Optuna
# knows has no row in trialfleet_studies.
_STANDING: Final = f"""
    SELECT s.study_id, clock_timestamp(), d.started_at, d.max_trials, d.max_failed, d.timeout_s,
        coalesce(d.goals, '[]'),
        ARRAY(SELECT x.direction::text FROM study_directions x
            WHERE x.study_id = s.study_id ORDER BY x.objective),
        (SELECT ARRAY[sum(complete), sum(pruned), sum(failed), sum(running), sum(waiting),
                sum(lost)]::bigint[]
            FROM trialfleet_counts c WHERE c.study_id = s.study_id),
        ARRAY(SELECT min(cost) FROM trialfleet_best b,
                unnest(b.costs) WITH ORDINALITY AS u (cost, k)
            WHERE b.study_id = s.study_id AND d.goals <> '[]' GROUP BY k ORDER BY k),
        d.study_id IS NOT NULL, coalesce(d.stopped, false),
        coalesce((SELECT l.number + 1 FROM trials l
            WHERE l.study_id = s.study_id AND l.number IS NOT NULL
            ORDER BY l.number DESC LIMIT 1), 0),
        d.patience, CASE WHEN d.patience IS NOT NULL THEN ({_SINCE_BEST}) END,
        coalesce(d.taken, '{{{{0, 0}}}}')
    FROM studies s LEFT JOIN trialfleet_studies d USING (study_id)
    WHERE s.study_id = ANY ({{ids}})
"""
_STANDINGS: Final = sa.text(_STANDING.format(ids="CAST(:ids AS int[])"))
_LOCKED_STANDINGS: Final = Statement("read_standings", ("int[]",), _STANDING.format(ids="$1"))


class Standing:
    """Where a study stands: what the budget allows, and what of it is used."""

    __slots__ = (
        *("budget", "counts", "ended", "managed", "next_number", "since_best", "started"),
        "taken",
    )

    def __init__(self, row: Sequence[Any]) -> None:
        """Take a row of the query for it."""
        now: datetime.datetime = row[1]
        self.started: datetime.datetime | None = row[2]
        max_trials, max_failed, timeout_s, goals, directions, counts, costs = row[3:10]
        self.managed: bool = row[10]
        stopped: bool = row[11]
        self.next_number: int = row[12]
        """Of a new trial, if nobody else numbers one meanwhile."""
        self.budget = Budget(
            trials=max_trials,
            failed_trials=max_failed,
            timeout_s=timeout_s,
            goals=[Goal(int(objective), float(value)) for objective, value in goals],
            patience=row[13],
        )
        self.since_best = SinceBest() if row[14] is None else SinceBest(*row[14])
        complete, pruned = row[15]
        self.taken: int = complete + pruned
        """Trials that were taken over before the first one, which are in none of the counts."""
        if counts and counts[0] is not None:
            self.counts = Counts(counts[0] - complete, counts[1] - pruned, *counts[2:])
        else:
            self.counts = Counts()
        maximize = [direction == StudyDirection.MAXIMIZE.name for direction in directions]
        best = [-cost if turned else cost for cost, turned in zip(costs, maximize, strict=False)]
        self.ended = end_reason(
            self.budget, self.counts, best, maximize, self.started, now, self.since_best
        )
        """Why no new trial may be opened: one of ``names.ENDED_*``, or empty."""
        if stopped and not self.ended:
            self.ended = names.ENDED_STOPPED

    @property
    def free(self) -> int | None:
        """How many trials may be opened now; None if any number."""
        if self.ended and self.ended != names.ENDED_STOPPED:
            return 0
        bounds = [self.counts.waiting] if self.ended else []
        if self.budget.trials is not None:
            bounds.append(self.budget.trials - self.counts.counted - self.counts.running)
        if self.budget.patience is not None:
            bounds.append(self.budget.patience - sum(self.since_best))
        return min(bounds, default=None)

    @property
    def over(self) -> bool:
        """Whether nothing is left to open, even if a trial that still runs is lost."""
        if self.ended == names.ENDED_TRIALS and self.budget.trials is not None:
            return self.counts.counted >= self.budget.trials
        if self.ended == names.ENDED_PATIENCE and self.budget.patience is not None:
            return self.since_best.counted >= self.budget.patience
        if self.ended == names.ENDED_STOPPED:
            return self.counts.running + self.counts.waiting == 0
        return bool(self.ended)


def read_standings(connection: sa.Connection, ids: Iterable[int]) -> dict[int, Standing]:
    """Return where studies stand; those that do not exist are left out."""
    rows = connection.execute(_STANDINGS, {"ids": list(ids)}).all()
    return {row[0]: Standing(row) for row in rows}


def locked_standings(transaction: Transaction, ids: Iterable[int]) -> dict[int, Standing]:
    """Return where studies stand, for who opens trials of them; see :func:`read_standings`."""
    return {row[0]: Standing(row) for row in transaction.rows(_LOCKED_STANDINGS, ids)}

"""When a study ends."""

import datetime

import pytest

from trialfleet import names
from trialfleet.model.budget import Budget, Goal, SinceBest, end_reason
from trialfleet.model.study import Counts

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
INF = float("inf")


def ago(seconds: float) -> datetime.datetime:
    return NOW - datetime.timedelta(seconds=seconds)


def reason(
    budget: Budget,
    counts: Counts | None = None,
    best: list[float | None] | None = None,
    maximize: list[bool] | None = None,
    started: datetime.datetime | None = None,
) -> str:
    return end_reason(budget, counts or Counts(), best or [], maximize or [False], started, NOW)


@pytest.mark.parametrize(
    ("counts", "ended"),
    [
        (Counts(), False),
        (Counts(complete=9), False),
        (Counts(complete=10), True),
        (Counts(complete=11), True),
        (Counts(complete=4, pruned=3, failed=3), True),
        (Counts(complete=4, pruned=3, failed=2), False),
        (Counts(complete=4, pruned=3, failed=2, running=1), True),
        (Counts(running=10), True),
        (Counts(complete=9, waiting=5), False),
        (Counts(complete=9, lost=5), False),
    ],
)
def test_trials(counts: Counts, ended: bool) -> None:
    assert reason(Budget(trials=10), counts) == (names.ENDED_TRIALS if ended else "")


@pytest.mark.parametrize(
    ("counts", "ended"),
    [
        (Counts(complete=100, pruned=100, lost=100), False),
        (Counts(failed=2), False),
        (Counts(failed=3), True),
        (Counts(failed=4), True),
        (Counts(failed=2, running=1), False),
    ],
)
def test_failed_trials(counts: Counts, ended: bool) -> None:
    expected = names.ENDED_FAILED_TRIALS if ended else ""
    assert reason(Budget(failed_trials=3), counts) == expected


@pytest.mark.parametrize(
    ("started", "ended"),
    [(None, False), (ago(0), False), (ago(59.9), False), (ago(60), True), (ago(3600), True)],
)
def test_timeout(started: datetime.datetime | None, ended: bool) -> None:
    assert reason(Budget(timeout_s=60), started=started) == (names.ENDED_TIMEOUT if ended else "")


@pytest.mark.parametrize(
    ("maximize", "best", "ended"),
    [
        (False, None, False),
        (False, 0.6, False),
        (False, 0.5, True),
        (False, 0.4, True),
        (False, -INF, True),
        (False, INF, False),
        (True, None, False),
        (True, 0.4, False),
        (True, 0.5, True),
        (True, 0.6, True),
        (True, INF, True),
        (True, -INF, False),
    ],
)
def test_goal(maximize: bool, best: float | None, ended: bool) -> None:
    found = reason(Budget(goals=[Goal(0, 0.5)]), best=[best], maximize=[maximize])
    assert found == (names.ENDED_GOAL if ended else "")


@pytest.mark.parametrize(
    ("best", "ended"),
    [
        ([0.1, 0.1], False),
        ([0.9, 0.9], True),
        ([0.1, 0.9], True),
        ([None, None], False),
        ([], False),
    ],
)
def test_goal_of_the_second_objective(best: list[float | None], ended: bool) -> None:
    found = reason(Budget(goals=[Goal(1, 0.5)]), best=best, maximize=[False, True])
    assert found == (names.ENDED_GOAL if ended else "")


def test_any_goal_ends() -> None:
    budget = Budget(goals=[Goal(0, 0.0), Goal(1, 0.0)])
    assert reason(budget, best=[1.0, 0.0], maximize=[False, False]) == names.ENDED_GOAL


@pytest.mark.parametrize(
    ("since_best", "ended"),
    [
        (None, False),
        (SinceBest(), False),
        (SinceBest(2, 0), False),
        (SinceBest(2, 1), True),
        (SinceBest(0, 3), True),
        (SinceBest(4, 0), True),
    ],
)
def test_patience(since_best: SinceBest | None, ended: bool) -> None:
    found = end_reason(Budget(patience=3), Counts(), [], [False], None, NOW, since_best)
    assert found == (names.ENDED_PATIENCE if ended else "")


def test_no_budget_never_ends() -> None:
    assert reason(Budget(), Counts(10**6, 10**6, 10**6), [0.0], started=ago(10**6)) == ""


def test_nothing_is_a_budget_too() -> None:
    assert reason(Budget(trials=0)) == names.ENDED_TRIALS
    assert reason(Budget(failed_trials=0)) == names.ENDED_FAILED_TRIALS


def test_the_better_news_comes_first() -> None:
    budget = Budget(trials=1, failed_trials=1, timeout_s=1, goals=[Goal(0, 0.5)])
    counts = Counts(complete=1, failed=1)
    assert reason(budget, counts, [0.5], started=ago(2)) == names.ENDED_GOAL
    assert reason(budget, counts, [0.6], started=ago(2)) == names.ENDED_FAILED_TRIALS
    assert reason(budget, Counts(complete=1), [0.6], started=ago(2)) == names.ENDED_TIMEOUT
    assert reason(budget, Counts(complete=1), [0.6], started=ago(0)) == names.ENDED_TRIALS

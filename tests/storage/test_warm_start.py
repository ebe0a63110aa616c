"""Trials of other studies, taken over before a study's first one."""

import asyncio
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import FloatDistribution, IntDistribution, distribution_to_json
from optuna.study import StudyDirection
from optuna.trial import TrialState

from tests.storage.fleet import MAXIMIZE, MINIMIZE, Worker, check, create, query, stock, storages
from trialfleet import names
from trialfleet.model.budget import Budget, Goal
from trialfleet.model.errors import InvalidInput
from trialfleet.model.study import Counts
from trialfleet.storage.commands import Ended, StopStudy

WAITING = "SELECT 1 FROM pg_locks WHERE NOT granted"


def earlier(url: str, name: str = "earlier", direction: StudyDirection = MINIMIZE) -> None:
    """Make a study with 30 trials: ten of each end."""

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        trial.suggest_categorical("kind", ["a", "b"])
        trial.report(x, 3)
        trial.set_user_attr("note", trial.number)
        trial.storage.set_trial_system_attr(trial._trial_id, "cma:state", "not for others")
        if trial.number % 3 == 1:
            raise optuna.TrialPruned
        if trial.number % 3 == 2:
            raise ValueError("no")
        return x

    with stock(url) as storage:
        study = optuna.create_study(storage=storage, study_name=name, direction=direction)
        study.optimize(objective, n_trials=30, catch=ValueError)


def trials(url: str, name: str) -> list[optuna.trial.FrozenTrial]:
    with stock(url) as storage:
        return optuna.load_study(storage=storage, study_name=name).trials


def test_what_is_taken_over_and_what_counts(url: str) -> None:
    earlier(url)

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(
                storage, "s", budget=Budget(trials=2), warm_start=["earlier"], enqueue=['{"x": 1}']
            )
            summary = await storage.summary(study_id)
            assert (summary.taken, summary.counts) == (20, Counts(waiting=1))
            assert len(summary.best) == 1
            # Once in the study's life, whatever is said later.
            await create(storage, "s", budget=Budget(trials=3), warm_start=["earlier"])
            worker = await Worker(storage, study_id).start("s")
            for number in (20, 21, 22):
                trial = await worker.open()
                assert trial.number == number
                await worker.tell(trial.trial_id, values=[5.0])
            assert await worker.ask() == Ended(names.ENDED_TRIALS)
            summary = await storage.summary(study_id)
            assert (summary.taken, summary.counts) == (20, Counts(complete=3))
            assert summary.best[0].number < 20

    asyncio.run(main())
    check(url)
    expected = [trial for trial in trials(url, "earlier") if trial.state is not TrialState.FAIL]
    taken = trials(url, "s")[:20]
    for found, source in zip(taken, expected, strict=True):
        assert found.state == source.state
        assert found.values == source.values
        assert found.params == source.params
        assert found.distributions == source.distributions
        assert found.intermediate_values == source.intermediate_values
        assert found.user_attrs == source.user_attrs
        assert found.datetime_start == source.datetime_start
        assert found.datetime_complete == source.datetime_complete
        assert found.system_attrs == {names.ATTR_WARM_START: "earlier"}


def test_of_several_studies_and_of_one_that_was_warm_itself(url: str) -> None:
    earlier(url, "one")
    earlier(url, "two")

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            await create(storage, "both", warm_start=["two", "one"])
            await create(storage, "again", warm_start=["both"])

    asyncio.run(main())
    found = trials(url, "again")
    assert [trial.number for trial in found] == list(range(40))
    assert {trial.system_attrs[names.ATTR_WARM_START] for trial in found} == {"both"}
    both = [trial.system_attrs[names.ATTR_WARM_START] for trial in trials(url, "both")]
    assert both == ["two"] * 20 + ["one"] * 20


def test_the_other_budgets(url: str) -> None:
    """A goal that is reached already ends the study; the patience begins with its own trials."""
    earlier(url)

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            budget = Budget(goals=[Goal(0, 1)])
            goal = await create(storage, "g", budget=budget, warm_start=["earlier"])
            assert (await storage.summary(goal)).ended == names.ENDED_GOAL
            patient = await create(storage, "p", budget=Budget(patience=2), warm_start=["earlier"])
            worker = await Worker(storage, patient).start("p")
            for _ in range(2):
                await worker.tell((await worker.open()).trial_id, values=[5.0])
            assert await worker.ask() == Ended(names.ENDED_PATIENCE)

    asyncio.run(main())


def test_a_study_with_trials_stays_as_it_is(url: str) -> None:
    earlier(url)

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage, "s")
            worker = await Worker(storage, study_id).start("s")
            await worker.tell((await worker.open()).trial_id)
            await create(storage, "s", warm_start=["earlier"])
            assert (await storage.summary(study_id)).taken == 0
            # And one whose trials are all taken over takes another definition.
            fresh = await create(storage, "f", warm_start=["earlier"], definition="one")
            assert await create(storage, "f", definition="two") == fresh

    asyncio.run(main())
    assert len(trials(url, "s")) == 1


def test_a_caller_who_goes_in_the_middle(url: str) -> None:
    """What it began is done, and who comes meanwhile waits: a client tries again like that."""
    earlier(url)

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            engine = sa.create_engine(url)
            with engine.begin() as connection:
                lock = "SELECT FROM studies WHERE study_name = 'earlier' FOR UPDATE"
                connection.exec_driver_sql(lock)
                gone = asyncio.create_task(create(storage, "s", warm_start=["earlier"]))
                while not query(url, WAITING):
                    await asyncio.sleep(0.01)
                gone.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await gone
                again = [
                    asyncio.create_task(create(storage, name, warm_start=["earlier"]))
                    for name in ("s", "t", "s")
                ]
                await asyncio.sleep(0)
            engine.dispose()
            first, other, same = await asyncio.gather(*again)
            assert first == same
            for study_id in (first, other):
                assert (await storage.summary(study_id)).taken == 20

    asyncio.run(main())
    check(url)
    assert len(trials(url, "s")) == len(trials(url, "t")) == 20


@pytest.mark.parametrize(
    ("definition", "says"),
    [
        (
            {"warm_start": ["earlier", "none"]},
            "warmStart[1].study: found 'none', which the storage does not have, accepted: another "
            "study of the same storage",
        ),
        ({"warm_start": ["s"]}, "warmStart[0].study: found the study itself, accepted: another"),
        (
            {"warm_start": ["earlier"], "directions": [MAXIMIZE]},
            "warmStart[0].study: found 'earlier' with the directions minimize, accepted: a study "
            "with maximize",
        ),
        (
            {
                "warm_start": ["earlier"],
                "search_space": {"x": distribution_to_json(IntDistribution(0, 1))},
            },
            'warmStart[0].study: found the parameter \'x\' as {"name": "FloatDistribution"',
        ),
    ],
)
def test_what_can_not_be_taken_over(url: str, definition: dict[str, Any], says: str) -> None:
    earlier(url)
    directions: list[StudyDirection] = definition.pop("directions", [MINIMIZE])

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            with pytest.raises(InvalidInput) as caught:
                await create(storage, "s", directions, **definition)
            assert str(caught.value).startswith(says)
            assert await storage.studies(name="s") == []
            # Another range of the same kind fits.
            space = {"x": distribution_to_json(FloatDistribution(0, 0.5))}
            study_id = await create(storage, "s", warm_start=["earlier"], search_space=space)
            assert (await storage.summary(study_id)).taken == 20
            await storage.apply(StopStudy(study_id))

    asyncio.run(main())

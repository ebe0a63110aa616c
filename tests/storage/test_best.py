"""The best trials are those that Optuna finds, kept while trials are told."""

import asyncio
import json
import math
import random
from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState

from tests.storage.fleet import (
    MAXIMIZE,
    MINIMIZE,
    STUDY,
    Worker,
    check,
    create,
    query,
    stock,
    storages,
    together,
)
from trialfleet.model.trial import TrialRecord
from trialfleet.storage import Storage
from trialfleet.storage.commands import CreateTrial, Summary

INF, NAN = math.inf, math.nan
SPECIAL = [INF, -INF, 0.0, -0.0, 1e308, -1e308, 5e-324]


def constraints(values: Sequence[float], style: str) -> list[tuple[str, str]]:
    if style == "list":
        return [("constraints", json.dumps(values))]
    return [(f"constraints:c{k}", json.dumps(value)) for k, value in enumerate(values)]


def agree(url: str, name: str, summary: Summary) -> None:
    """Assert that a summary has the trials that Optuna's own study says are the best."""
    with stock(url) as storage:
        study = optuna.load_study(study_name=name, storage=storage)
        found = [trial.trial_id for trial in summary.best]
        if len(study.directions) > 1:
            assert sorted(found) == [trial._trial_id for trial in study.best_trials]
            assert summary.front == len(found)
            return
        try:
            best = study.best_trial
        except ValueError:
            assert (found, summary.front) == ([], 0)
            return
        assert [trial.values for trial in summary.best] == [best.values]
        assert summary.front == 1


@pytest.mark.parametrize("constrained", [None, "list", "keys"])
@pytest.mark.parametrize(
    "directions",
    [
        [MINIMIZE],
        [MAXIMIZE],
        [MINIMIZE, MAXIMIZE],
        [MAXIMIZE, MAXIMIZE, MINIMIZE],
        [MAXIMIZE, MINIMIZE] * 3,
    ],
    ids=lambda directions: "-".join(direction.name.lower() for direction in directions),
)
def test_random_values(
    shared_url: str, directions: Sequence[StudyDirection], constrained: str | None
) -> None:
    url, name = shared_url, f"{directions} {constrained}"
    chance = random.Random(name)

    def value() -> float:
        # Few different ones, so that many are equal.
        return chance.choice(SPECIAL) if chance.random() < 0.2 else float(chance.randrange(6))

    def update() -> dict[str, Any]:
        if constrained is None or chance.random() < 0.2:
            return {}
        violations = [chance.choice([-1, 0, -0.5, 1e-300, 2, INF]) for _ in range(2)]
        return {"system_attrs": constraints(violations, constrained)}

    async def main() -> int:
        async with storages(url, 2) as proxies:
            study_id = await create(proxies[0], name, directions)
            workers = [await Worker(proxy, study_id).start(name) for proxy in proxies for _ in "ab"]
            for _ in range(4):
                opened = await asyncio.gather(*(w.open() for w in workers for _ in range(5)))
                telling = []
                for place, trial in enumerate(opened):
                    state = chance.choice([TrialState.COMPLETE] * 4 + [TrialState.PRUNED])
                    values = [value() for _ in directions]
                    worker = workers[place // 5]
                    telling.append(worker.tell(trial.trial_id, state, values, **update()))
                await asyncio.gather(*telling)
                template = TrialRecord(0, 0, TrialState.COMPLETE, [value() for _ in directions])
                await proxies[0].apply(CreateTrial(study_id, template))
                agree(url, name, await proxies[1].summary(study_id, 1000))

            return study_id

    check(url, asyncio.run(main()))


async def tell(storage: Storage, study_id: int, *values: float, **more: Any) -> int:
    worker = await Worker(storage, study_id).start("")
    trial = await worker.open()
    await worker.tell(trial.trial_id, more.pop("state", TrialState.COMPLETE), values, **more)
    return trial.number


async def best(storage: Storage, study_id: int, number: int = 99) -> list[int]:
    return [trial.number for trial in (await storage.summary(study_id, number)).best]


def test_what_is_pruned_or_failed_or_runs_is_never_the_best(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            for state in (TrialState.PRUNED, TrialState.FAIL, None):
                await tell(storage, study_id, -9.0, state=state)
            assert await best(storage, study_id) == []
            await tell(storage, study_id, 1.0)
            assert await best(storage, study_id) == [3]

    asyncio.run(main())
    check(url)


def test_of_equals_the_first_stays(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            one = await create(storage)
            two = await create(storage, "two", [MINIMIZE, MAXIMIZE])
            for _ in range(3):
                await tell(storage, one, 1.0)
                await tell(storage, two, 1.0, 2.0)
            assert await best(storage, one) == [0]
            assert await best(storage, two) == [0, 1, 2]

    asyncio.run(main())
    check(url)


@pytest.mark.parametrize("direction", [MINIMIZE, MAXIMIZE])
def test_no_number_is_worse_than_any(url: str, direction: StudyDirection) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage, directions=[direction])
            worst = INF if direction == MINIMIZE else -INF
            await tell(storage, study_id, NAN)
            await tell(storage, study_id, worst)
            await tell(storage, study_id, NAN)
            assert await best(storage, study_id) == [1]

    asyncio.run(main())


def test_the_head_of_a_front(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage, directions=[MINIMIZE, MINIMIZE])
            order = list(range(12))
            random.Random(0).shuffle(order)
            for x in order:
                await tell(storage, study_id, float(x), float(-x))
            for number in (0, 1, 5, 12, 100):
                summary = await storage.summary(study_id, number)
                values = [trial.values for trial in summary.best]
                assert values == [[x, -x] for x in range(min(number, 12))]
                assert summary.front == 12
            await tell(storage, study_id, -1.0, -20.0)
            assert await best(storage, study_id) == [12]

    asyncio.run(main())
    check(url)


@pytest.mark.parametrize(
    ("system_attrs", "feasible"),
    [
        ([], True),
        ([("constraints", "[]")], True),
        ([("constraints", "[0]")], True),
        ([("constraints", "[-1.5, 0.0, -1e-05]")], True),
        ([("constraints", "[-Infinity]")], True),
        ([("constraints", "[-1, 1e-300]")], False),
        ([("constraints", "[Infinity]")], False),
        ([("constraints", "[NaN]")], False),
        ([("constraints", "[1e400]")], False),
        ([("constraints:a", "-1"), ("constraints:b", "0")], True),
        ([("constraints:a", "-1"), ("constraints:b", "0.1")], False),
        ([("constraints:", "2")], False),
        # What Optuna stores when a constraints_func raised, and what nobody should.
        ([("constraints", "null")], True),
        ([("constraints:a", "null")], True),
        ([("constraints:a", '"text"')], True),
        ([("constraints", '{"a": 1}')], True),
        ([("constraint", "[1]"), ("constraintsx", "1")], True),
    ],
)
def test_constraints(shared_url: str, system_attrs: list[tuple[str, str]], feasible: bool) -> None:
    async def main() -> None:
        async with storages(shared_url, 1) as (storage,):
            name = str(system_attrs)
            study_id = await create(storage, name)
            await tell(storage, study_id, -1.0, system_attrs=system_attrs)
            assert await best(storage, study_id) == ([0] if feasible else [])
            await tell(storage, study_id, 1.0, system_attrs=[("constraints", "[0]")])
            assert await best(storage, study_id) == ([0] if feasible else [1])

    asyncio.run(main())


def test_a_stock_client_whose_constraints_raised_can_still_tell(url: str) -> None:
    with stock(url) as storage:
        study = optuna.create_study(storage=storage, study_name=STUDY)
        for value in (2.0, 1.0):
            trial = study.ask()
            storage.set_trial_system_attr(trial._trial_id, "constraints", None)
            study.tell(trial, value)
    check(url)


def test_a_stock_client_in_a_study_of_several_objectives(url: str) -> None:
    chance = random.Random(3)
    with stock(url) as storage:
        study = optuna.create_study(
            storage=storage, study_name=STUDY, directions=["minimize", "maximize", "minimize"]
        )
        for _ in range(12):
            values = [float(chance.randrange(4)) for _ in range(3)]
            study.tell(study.ask(), values)
            study.add_trial(optuna.create_trial(values=values[::-1]))
    check(url)


def test_two_that_enter_at_once_do_not_both_stay(url: str) -> None:
    """Ten batches at a time, each on a connection of its own, in many studies at once."""

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            chance = random.Random(4)
            ids = [await create(storage, f"s{k}") for k in range(4)]
            workers = [await Worker(storage, i).start("") for i in ids]
            for _ in range(5):
                batches = []
                for _ in range(10):
                    opened = await asyncio.gather(*(worker.open() for worker in workers))
                    commands = [
                        worker.telling(trial.trial_id, values=[chance.random()])
                        for worker, trial in zip(workers, opened, strict=True)
                    ]
                    chance.shuffle(commands)
                    batches.append(together(url, commands))
                for answers in await asyncio.gather(*batches):
                    assert answers == [None] * 4

    asyncio.run(main())
    check(url)
    assert query(url, "SELECT count(*) FROM trialfleet_best") == [(4,)]
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert query(url, deadlocks) == [(0,)]

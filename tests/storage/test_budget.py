"""The budget is exact, whoever asks and whatever happens to them."""

import asyncio
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.storage.fleet import (
    MAXIMIZE,
    MINIMIZE,
    STUDY,
    Worker,
    attributes,
    check,
    create,
    recount,
    stock,
    storages,
    together,
    write,
)
from trialfleet import names
from trialfleet.model.budget import Budget, Goal
from trialfleet.model.errors import SessionGivenUp, StudyEnded
from trialfleet.model.study import Counts
from trialfleet.model.trial import TrialRecord
from trialfleet.storage import Storage
from trialfleet.storage.commands import Command, CreateTrial, Ended, GiveUp, Wait

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


async def work(worker: Worker, chance: random.Random, give_up: float = 0.0) -> Ended:
    """Run trials until the study has ended, now and then as a worker that dies."""
    await worker.start()
    while True:
        try:
            trial = await worker.ask(5.0)
            if isinstance(trial, Ended):
                return trial
            if trial is Wait.WAIT:
                continue
            if chance.random() < give_up:
                by_session = GiveUp("Evicted", session=worker.session)
                by_worker = GiveUp("Evicted", worker=worker.name)
                await worker.storage.apply(chance.choice([by_session, by_worker]))
            await worker.tell(trial.trial_id, chance.choice(FINISHED))
        except SessionGivenUp:
            worker = await Worker(worker.storage, worker.study_id, worker.name).start()


@pytest.mark.parametrize("give_up", [0.0, 0.2])
def test_thirty_workers_at_three_proxies(url: str, give_up: float) -> None:
    chance = random.Random(1)

    async def main() -> int:
        async with storages(url, 3) as proxies:
            study_id = await create(proxies[0], budget=Budget(trials=101), retries=3)
            ends = await asyncio.gather(
                *(
                    work(Worker(proxies[k % 3], study_id, f"w{k}"), chance, give_up)
                    for k in range(30)
                )
            )
            assert set(ends) == {Ended(names.ENDED_TRIALS)}
            return study_id

    study_id = asyncio.run(main())
    counts = recount(url, study_id)
    assert counts.counted == 101
    assert counts.running == 0
    assert (counts.lost > 0) == (give_up > 0)
    check(url)


def test_the_patience_is_exact(url: str) -> None:
    """After the last trial that improved something come just as many as the study is patient."""
    chance = random.Random(3)

    async def search(worker: Worker) -> None:
        await worker.start()
        while not isinstance(trial := await worker.ask(60.0), Ended):
            assert trial is not Wait.WAIT
            await worker.tell(trial.trial_id, TrialState.COMPLETE, [chance.random()])
        assert trial == Ended(names.ENDED_PATIENCE)

    async def main() -> None:
        async with storages(url, 2) as proxies:
            study_id = await create(proxies[0], budget=Budget(patience=15))
            await asyncio.gather(
                *(search(Worker(proxies[k % 2], study_id, f"w{k}")) for k in range(8))
            )

    asyncio.run(main())
    with stock(url) as storage:
        trials = optuna.load_study(study_name=STUDY, storage=storage).trials
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    best = min(trials, key=lambda trial: (trial.value, trial.number))
    assert len(trials) - 1 - best.number == 15
    check(url)


def test_stock_writers_at_the_same_time(url: str) -> None:
    chance = random.Random(2)

    def stock_writer() -> None:
        with stock(url) as storage:
            study = optuna.load_study(study_name=STUDY, storage=storage)
            for k in range(8):
                trial = study.ask()
                trial.suggest_float("x", 0, 1)
                if k % 3:
                    study.tell(trial, chance.random())
                else:
                    study.tell(trial, state=TrialState.FAIL)
                study.add_trial(optuna.create_trial(value=chance.random()))

    async def main() -> int:
        async with storages(url, 2) as proxies:
            study_id = await create(proxies[0], budget=Budget(trials=150), retries=3)
            loop = asyncio.get_running_loop()
            with ThreadPoolExecutor(3) as pool:
                writing = [loop.run_in_executor(pool, stock_writer) for _ in range(3)]
                await asyncio.gather(
                    *writing,
                    *(
                        work(Worker(proxies[k % 2], study_id, f"w{k}"), chance, 0.1)
                        for k in range(10)
                    ),
                )
            summary = await proxies[0].summary(study_id)
            # Nobody can refuse a trial to a stock client.
            assert 150 <= summary.counts.counted <= 150 + 3 * 16
            assert summary.counts == recount(url, study_id)
            return study_id

    study_id = asyncio.run(main())
    assert recount(url, study_id).running == 0
    check(url)


async def ended_by(
    storage: Storage, budget: Budget, tells: Sequence[Any], directions: Sequence[Any]
) -> TrialRecord | Wait | Ended:
    """Open and tell trials one by one; return what the last opening gave."""
    name = str((budget, directions))
    study_id = await create(storage, name, directions, budget)
    worker = await Worker(storage, study_id).start(name)
    for state, values in tells:
        trial = await worker.open()
        assert (await storage.summary(study_id)).ended == ""
        await worker.tell(trial.trial_id, state, values)
    answer: TrialRecord | Wait | Ended = await worker.ask()
    assert (await storage.summary(study_id)).ended == (
        answer.reason if isinstance(answer, Ended) else ""
    )
    return answer


COMPLETE, PRUNED, FAIL = ((state, None) for state in FINISHED)
INF = float("inf")


def complete(*values: float) -> tuple[TrialState, Sequence[float]]:
    return TrialState.COMPLETE, values


@pytest.mark.parametrize(
    ("budget", "directions", "tells", "reason"),
    [
        (Budget(trials=3), [MINIMIZE], [COMPLETE, PRUNED, FAIL], names.ENDED_TRIALS),
        (Budget(trials=0), [MINIMIZE], [], names.ENDED_TRIALS),
        (Budget(failed_trials=2), [MINIMIZE], [FAIL, COMPLETE, FAIL], names.ENDED_FAILED_TRIALS),
        (
            Budget(goals=[Goal(0, 0.5)]),
            [MINIMIZE],
            [complete(1), (TrialState.PRUNED, [0.1]), complete(0.5)],
            names.ENDED_GOAL,
        ),
        (Budget(goals=[Goal(0, 0.5)]), [MAXIMIZE], [complete(0), complete(INF)], names.ENDED_GOAL),
        (Budget(goals=[Goal(0, 0.0)]), [MINIMIZE], [complete(-INF)], names.ENDED_GOAL),
        (
            Budget(goals=[Goal(1, 9)]),
            [MINIMIZE, MAXIMIZE],
            [complete(0, 1), complete(5, 9)],
            names.ENDED_GOAL,
        ),
        (
            Budget(patience=3),
            [MINIMIZE],
            [complete(5), PRUNED, FAIL, complete(4), complete(4), FAIL, (TrialState.PRUNED, [1.0])],
            names.ENDED_PATIENCE,
        ),
        (Budget(patience=2), [MINIMIZE], [FAIL, FAIL], names.ENDED_PATIENCE),
        (
            Budget(patience=2),
            [MINIMIZE, MAXIMIZE],
            [complete(1, 1), complete(2, 2), complete(3, 3), complete(1, 1), complete(3, 3)],
            names.ENDED_PATIENCE,
        ),
        (
            Budget(patience=2),
            [MAXIMIZE],
            [complete(1), complete(0), complete(1.5), complete(0)],
            None,
        ),
        (Budget(), [MINIMIZE], [COMPLETE, FAIL, PRUNED], None),
    ],
)
def test_ends(
    shared_url: str,
    budget: Budget,
    directions: Sequence[Any],
    tells: Sequence[Any],
    reason: str | None,
) -> None:
    async def main() -> None:
        async with storages(shared_url, 1) as (storage,):
            answer = await ended_by(storage, budget, tells, directions)
            if reason is None:
                assert isinstance(answer, TrialRecord)
            else:
                assert answer == Ended(reason)

    asyncio.run(main())


def test_the_time_begins_with_the_first_trial(url: str) -> None:
    async def main() -> None:
        async with storages(url, 2) as (one, two):
            study_id = await create(one, budget=Budget(timeout_s=3600))
            worker = await Worker(two, study_id).start()
            past = "UPDATE trialfleet_studies SET started_at = started_at - interval '{} min'"
            write(url, past.format(90))
            trial = await worker.open()
            write(url, past.format(59))
            await worker.open()
            write(url, past.format(1))
            assert await worker.ask() == Ended(names.ENDED_TIMEOUT)
            assert (await one.summary(study_id)).ended == names.ENDED_TIMEOUT
            # What runs may still be told.
            await worker.tell(trial.trial_id)
            await create(one, budget=Budget(timeout_s=7200))
            await worker.open()

    asyncio.run(main())
    check(url)


def test_a_raised_budget_goes_on(url: str) -> None:
    async def main() -> None:
        async with storages(url, 2) as (one, two):
            study_id = await create(one, budget=Budget(trials=1))
            worker = await Worker(one, study_id).start()
            await worker.tell((await worker.open()).trial_id)
            assert await worker.ask(5.0) == Ended(names.ENDED_TRIALS)
            assert await create(two, budget=Budget(trials=3)) == study_id
            assert (await one.summary(study_id)).ended == ""
            trials = [await worker.open() for _ in range(2)]
            assert await worker.ask() is Wait.WAIT
            # Who waits already hears of it, although another proxy was told.
            asking = asyncio.create_task(worker.ask(20.0))
            await asyncio.sleep(0)
            await create(two, budget=Budget(trials=4))
            assert (await asking).number == 3
            # A lower one ends the study, and leaves what runs alone.
            await create(two, budget=Budget(trials=1))
            assert await worker.ask() == Ended(names.ENDED_TRIALS)
            for trial in trials:
                await worker.tell(trial.trial_id)

    asyncio.run(main())
    check(url)


def test_waiting_trials_come_first_and_the_oldest_of_them(url: str) -> None:
    async def main() -> None:
        async with storages(url, 2) as (one, two):
            points = [f'{{"x": 0.{k}}}' for k in range(4)]
            study_id = await create(one, enqueue=points)
            assert await create(two, enqueue=['{"x": 1}']) == study_id
            workers = [await Worker(proxy, study_id).start() for proxy in (one, two)]
            first = await workers[1].open()
            assert (first.number, first.params, first.values) == (0, (), None)
            assert attributes(first.system_attrs) == {"fixed_params": {"x": 0.0}}
            assert first.state == TrialState.RUNNING
            opened = await together(url, [workers[k % 2].opening() for k in range(4)])
            assert [trial.number for trial in opened] == [1, 2, 3, 4]
            assert [bool(trial.system_attrs) for trial in opened] == [True] * 3 + [False]
            await workers[0].tell(opened[2].trial_id, TrialState.WAITING)
            await workers[0].tell(opened[0].trial_id, TrialState.WAITING)
            assert [(await workers[1].open()).number for _ in range(3)] == [1, 3, 5]

    asyncio.run(main())
    check(url)


def test_wait_while_one_may_come_back(url: str) -> None:
    async def main() -> None:
        async with storages(url, 2) as (one, two):
            study_id = await create(one, budget=Budget(trials=2), retries=1)
            dying, other = Worker(one, study_id, "dying"), Worker(two, study_id, "other")
            await dying.start()
            await other.start()
            lost, mine = await dying.open(), await other.open()
            assert await other.ask() is Wait.WAIT
            assert (await one.summary(study_id)).ended == ""
            with pytest.raises(StudyEnded) as caught:
                await two.apply(CreateTrial(study_id, None, other.write()))
            assert caught.value.reason == names.ENDED_TRIALS
            asking = asyncio.create_task(other.ask(20.0))
            await asyncio.sleep(0)
            await one.apply(GiveUp("Evicted", worker="dying"))
            retried = await asking
            assert attributes(retried.system_attrs)["failed_trial"] == lost.number
            assert await other.ask() is Wait.WAIT
            await other.tell(mine.trial_id)
            assert await other.ask() is Wait.WAIT
            asking = asyncio.create_task(other.ask(20.0))
            await asyncio.sleep(0)
            await other.tell(retried.trial_id, TrialState.FAIL)
            assert await asking == Ended(names.ENDED_TRIALS)

    asyncio.run(main())
    check(url)


def test_who_waits_goes_home_in_time(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage, budget=Budget(trials=1))
            worker = await Worker(storage, study_id).start()
            await worker.open()
            loop = asyncio.get_running_loop()
            begun = loop.time()
            assert await asyncio.gather(*(worker.ask(0.3) for _ in range(5))) == [Wait.WAIT] * 5
            assert 0.3 <= loop.time() - begun < 30.0
            waiting = [asyncio.create_task(worker.ask(60.0)) for _ in range(3)]
            while len(storage._long_poll._callers.get(study_id, ())) < len(waiting):
                await asyncio.sleep(0.01)
            waiting[0].cancel()
        assert await asyncio.gather(*waiting[1:]) == [Wait.WAIT] * 2

    asyncio.run(main())


def test_only_as_many_of_a_batch_as_there_are_left(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage, budget=Budget(trials=5))
            other = await create(storage, "other", budget=Budget(trials=2))
            free = await create(storage, "free")
            workers = [await Worker(storage, i).start("") for i in (study_id, other, free)]
            commands: list[Command] = [w.opening() for _ in range(7) for w in workers]
            commands.insert(0, CreateTrial(study_id, None, workers[0].write()))
            answers = await together(url, commands)
            assert answers.pop(0).number == 0
            for place, most in enumerate((4, 2, 7)):
                mine = answers[place::3]
                assert all(isinstance(answer, TrialRecord) for answer in mine[:most])
                assert mine[most:] == [Wait.WAIT] * (7 - most)
            assert (await storage.summary(study_id)).counts == Counts(running=5)

    asyncio.run(main())
    check(url)


def test_a_goal_reached_by_a_stock_client(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage, budget=Budget(goals=[Goal(0, 0.5)]))
            worker = await Worker(storage, study_id).start()
            with stock(url) as rdb:
                study = optuna.load_study(study_name=STUDY, storage=rdb)
                study.tell(study.ask(), 0.6)
                await worker.open()
                study.tell(study.ask(), 0.5)
            assert await worker.ask() == Ended(names.ENDED_GOAL)

    asyncio.run(main())
    check(url)

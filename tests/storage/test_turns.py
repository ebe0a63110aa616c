"""Several proxies open trials of one study: in turns, each with all that came meanwhile."""

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

import pytest
from optuna.trial import TrialState

from tests.storage.express import (
    TURN,
    all_wait,
    assert_free,
    blocked_by,
    fixture_by_thread,  # noqa: F401
    fixture_openings_are_always_tried,  # noqa: F401
    start,
)
from tests.storage.fleet import Worker, check, create, held, param, query, stock, storages
from trialfleet import names
from trialfleet.storage import Storage
from trialfleet.storage.express import Express
from trialfleet.storage.records import Budget, Command, Counts, Ended, KeepAlive, TrialRecord, Wait

DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
TAKEN, APPLIED = "BEGIN; SELECT trialfleet_take_turn(", "SELECT * FROM trialfleet_apply("
COMMITTED = "COMMIT"


@pytest.fixture
def by_loop(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The beginnings of the statements that committers made from their event loops."""
    made: list[str] = []
    run = Express.run

    def noted(express: Express, statement: str, done: Any) -> None:
        made.append("".join(statement.partition("(")[:2]))
        run(express, statement, done)

    monkeypatch.setattr(Express, "run", noted)
    return made


# -- who comes, and when ---------------------------------------------------------------------


def test_storages_that_open_trials_of_one_study(url: str, by_loop: list[str]) -> None:
    async def work(worker: Worker) -> list[int]:
        numbers: list[int] = []
        while True:
            trial = await worker.ask(60.0)
            if isinstance(trial, Ended):
                assert trial == Ended(names.ENDED_TRIALS)
                return numbers
            if trial is Wait.WAIT:
                continue
            numbers.append(trial.number)
            await worker.tell(trial.trial_id, values=[float(trial.number)], params=[param()])

    async def main() -> None:
        async with storages(url, 2) as pair:
            study_id = await create(pair[0], budget=Budget(trials=400))
            workers = [await Worker(pair[k % 2], study_id, f"w{k}").start() for k in range(16)]
            opened = await asyncio.gather(*map(work, workers))
            assert sorted(number for numbers in opened for number in numbers) == list(range(400))
            assert (await pair[1].summary(study_id)).counts == Counts(complete=400)

    asyncio.run(main())
    assert TAKEN in by_loop
    check(url)


def test_storages_beside_a_stock_client(url: str) -> None:
    async def work(worker: Worker) -> None:
        for _ in range(20):
            await worker.tell((await worker.open()).trial_id, params=[param()])

    def stock_work(study_id: int) -> None:
        with stock(url) as storage:
            for _ in range(10):
                trial_id = storage.create_new_trial(study_id)
                storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])

    async def main() -> None:
        async with storages(url, 2) as pair:
            study_id = await create(pair[0])
            workers = [await Worker(pair[k % 2], study_id).start() for k in range(8)]
            await asyncio.gather(
                *map(work, workers), *(asyncio.to_thread(stock_work, study_id) for _ in range(2))
            )
            trials = await pair[0].trials_since(study_id, -1, [])
            assert [trial.number for trial in trials] == list(range(8 * 20 + 2 * 10))

    asyncio.run(main())
    check(url)


def test_what_comes_while_another_has_the_turn_goes_together(
    url: str, by_thread: list[Command], by_loop: list[str]
) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await start(storage, study_id)
            running = [await worker.open() for _ in range(20)]
            by_thread.clear()
            by_loop.clear()
            async with held(url, TURN.format(study_id)) as turn:
                opening = [asyncio.create_task(worker.open())]
                await turn.waiters(1)
                assert by_loop == [APPLIED, TAKEN]
                opening += [asyncio.create_task(worker.open()) for _ in range(50)]
                telling = [
                    asyncio.create_task(worker.tell(trial.trial_id, params=[param()]))
                    for trial in running
                ]
                await all_wait(storage, 1 + 50 + 20)
                batches = storage.batches
                turn.release()
                trials = await asyncio.gather(*opening)
                assert await asyncio.gather(*telling) == [None] * 20
                assert storage.batches - batches == 1
            assert [trial.number for trial in trials] == list(range(23, 74))
            assert by_loop == [APPLIED, TAKEN, APPLIED, COMMITTED]
            assert by_thread == []
            assert_free(url, study_id)

    asyncio.run(main())
    check(url)


def test_turns_come_in_the_order_in_which_all_came(url: str, by_thread: list[Command]) -> None:
    async def main() -> None:
        async with storages(url, 4) as several:
            study_id = await create(several[0])
            workers = [await start(storage, study_id) for storage in several]
            by_thread.clear()
            order = [2, 0, 3, 1]
            async with held(url, TURN.format(study_id)) as turn:
                opening = []
                for waiting, place in enumerate(order, 1):
                    opening.append(asyncio.create_task(workers[place].open()))
                    await turn.waiters(waiting)
                turn.release()
                trials = await asyncio.gather(*opening)
            assert [trial.number for trial in trials] == [12, 13, 14, 15]
            assert by_thread == []
            assert_free(url, study_id)

    asyncio.run(main())
    check(url)


def test_who_comes_again_goes_behind_those_who_wait(url: str, by_thread: list[Command]) -> None:
    async def main() -> None:
        async with storages(url, 2) as (storage, other):
            study_id = await create(storage)
            worker, rival = [await start(each, study_id) for each in (storage, other)]
            by_thread.clear()
            study = f"SELECT 1 FROM studies WHERE study_id = {study_id} FOR UPDATE"
            async with held(url, TURN.format(study_id)) as turn, held(url, study) as lock:
                first = asyncio.create_task(worker.open())
                await turn.waiters(1)
                second = asyncio.create_task(rival.open())
                await turn.waiters(2)
                turn.release()
                await blocked_by(url, lock)
                third = asyncio.create_task(worker.open())
                await all_wait(storage, 1)
                lock.release()
                trials = await asyncio.gather(first, second, third)
            assert [trial.number for trial in trials] == [6, 7, 8]
            assert by_thread == []

    asyncio.run(main())
    check(url)


def test_without_a_rival_there_are_no_turns(url: str, by_loop: list[str]) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await start(storage, study_id)
            async with held(url, TURN.format(study_id)) as turn:
                opening = asyncio.create_task(worker.open())
                await turn.waiters(1)
                turn.release()
                await opening
            async with asyncio.timeout(60):
                while by_loop != [APPLIED] * 20:
                    by_loop.clear()
                    for _ in range(10):
                        await worker.tell((await worker.open()).trial_id, params=[param()])

    asyncio.run(main())
    check(url)


def test_who_opens_no_trials_waits_for_no_turn(url: str, by_thread: list[Command]) -> None:
    async def main() -> None:
        async with storages(url, 2) as (storage, other):
            study_id, free = [await create(storage, name) for name in ("one", "two")]
            worker, second = await start(storage, study_id), await start(other, study_id)
            third = await start(other, free)
            trial = await second.open()
            by_thread.clear()
            async with held(url, TURN.format(study_id)) as turn:
                opening = asyncio.create_task(worker.open())
                await turn.waiters(1)
                await second.tell(trial.trial_id, None, params=[param()])
                await second.tell(trial.trial_id, params=[param()])
                await third.tell((await third.open()).trial_id)
                # At the storage that waits, all that is not for the loop goes on as well.
                assert await storage.apply(KeepAlive(worker.session))
                assert not opening.done()
                turn.release()
                await opening
            assert by_thread == [KeepAlive(worker.session)]

    asyncio.run(main())
    check(url)


# -- several studies -------------------------------------------------------------------------


def test_several_studies_in_a_batch(url: str, by_loop: list[str]) -> None:
    before = query(url, DEADLOCKS)

    async def work(workers: list[Worker], chance: random.Random) -> None:
        for _ in range(20):
            chance.shuffle(workers)
            trials = await asyncio.gather(*(worker.open() for worker in workers))
            await asyncio.gather(
                *(
                    worker.tell(trial.trial_id, params=[param()])
                    for worker, trial in zip(workers, trials, strict=True)
                )
            )

    async def main() -> None:
        async with storages(url, 3) as several:
            ids = [await create(several[0], name) for name in "abcd"]
            fleets = []
            for storage in several * 2:
                fleets.append([await Worker(storage, study_id).start("") for study_id in ids])
            await asyncio.gather(
                *(work(fleet, random.Random(seed)) for seed, fleet in enumerate(fleets))
            )
            for study_id in ids:
                trials = await several[0].trials_since(study_id, -1, [])
                assert [trial.number for trial in trials] == list(range(6 * 20))
            assert_free(url, *ids)

    asyncio.run(main())
    assert TAKEN in by_loop
    # All connections are closed: what they counted is there.
    assert query(url, DEADLOCKS) == before
    check(url)


def test_a_turn_is_for_the_studies_of_those_who_waited(
    url: str, by_thread: list[Command], by_loop: list[str]
) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            ids = [await create(storage, name) for name in ("a", "b")]
            one, two = [await start(storage, study_id) for study_id in ids]
            by_thread.clear()
            async with held(url, TURN.format(ids[0])) as turn:
                opening = [asyncio.create_task(one.open())]
                await turn.waiters(1)
                opening += [asyncio.create_task(worker.open()) for worker in (two, one, two, one)]
                await all_wait(storage, 5)
                by_loop.clear()
                turn.release()
                trials = await asyncio.gather(*opening)
            assert [trial.number for trial in trials] == [3, 3, 4, 4, 5]
            # Those of the other study follow; somebody may be at work there, too.
            assert by_loop == [APPLIED, COMMITTED, TAKEN, APPLIED, COMMITTED]
            assert by_thread == []
            assert_free(url, *ids)

    asyncio.run(main())
    check(url)


# -- the end ---------------------------------------------------------------------------------


def test_a_storage_that_ends_while_it_waits_for_its_turn(
    url: str, by_thread: list[Command]
) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            storage = await stack.enter_async_context(Storage(url))
            study_id = await create(storage)
            worker = await start(storage, study_id)
            by_thread.clear()
            async with held(url, TURN.format(study_id)) as turn:
                opening = [asyncio.create_task(worker.open()) for _ in range(5)]
                await turn.waiters(1)
                closing = asyncio.create_task(stack.aclose())
                await asyncio.sleep(0)
                assert not closing.done()
                turn.release()
                await closing
                trials = await asyncio.gather(*opening)
            assert [trial.number for trial in trials] == list(range(3, 8))
            assert all(isinstance(trial, TrialRecord) for trial in trials)
            assert by_thread == []

    asyncio.run(main())
    check(url)

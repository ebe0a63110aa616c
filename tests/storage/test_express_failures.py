"""A plain write whose statement fails goes to the thread, and only what is wrong fails."""

import asyncio

import pytest
import sqlalchemy as sa

from tests.storage.express import (
    CANCEL_WAITING,
    LOCK_STUDIES,
    back,
    fixture_by_thread,  # noqa: F401
    fixture_openings_are_always_tried,  # noqa: F401
    steady,
    wait_for_locks,
)
from tests.storage.fleet import Worker, check, create, held, query, storages
from trialfleet.model.errors import InvalidInput, StorageUnavailable
from trialfleet.storage.records import Command, Param, TrialRecord


@pytest.mark.parametrize("text", ["\0", "\ud800"])
def test_a_text_that_no_database_takes(url: str, by_thread: list[Command], text: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            await steady(worker)
            trials = [await worker.open() for _ in range(3)]
            by_thread.clear()
            async with asyncio.timeout(60):
                *told, opened = await asyncio.gather(
                    worker.tell(trials[0].trial_id),
                    worker.tell(trials[1].trial_id, user_attrs=[("k", text)]),
                    worker.tell(trials[2].trial_id),
                    worker.open(),
                    return_exceptions=True,
                )
            assert len(by_thread) == 4
            assert isinstance(told.pop(1), InvalidInput)
            assert told == [None, None]
            assert isinstance(opened, TrialRecord)
            assert opened.number == 6
            await back(worker, by_thread)

    asyncio.run(main())
    check(url)


def test_what_follows_a_text_that_no_database_takes_is_applied(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            await steady(worker)
            trial = await worker.open()
            async with asyncio.timeout(60):
                # Two of one trial don't share a batch; nothing comes after them.
                refused, applied = await asyncio.gather(
                    worker.tell(trial.trial_id, None, user_attrs=[("\0", "1")]),
                    worker.tell(trial.trial_id, None, user_attrs=[("k", "1")]),
                    return_exceptions=True,
                )
            assert isinstance(refused, InvalidInput)
            assert applied is None
            (told,) = await storage.trials([trial.trial_id])
            assert list(told.user_attrs) == [("k", "1")]

    asyncio.run(main())
    check(url)


def test_a_distribution_of_brackets_in_brackets(url: str, by_thread: list[Command]) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            await steady(worker)
            trials = [await worker.open() for _ in range(3)]
            by_thread.clear()
            wrong = Param("x", 0.5, '{"a":' * 100_000)
            async with asyncio.timeout(60):
                told = await asyncio.gather(
                    worker.tell(trials[0].trial_id),
                    worker.tell(trials[1].trial_id, params=[wrong]),
                    worker.tell(trials[2].trial_id),
                    return_exceptions=True,
                )
            assert [type(answer) for answer in told] == [type(None), InvalidInput, type(None)]
            await back(worker, by_thread)

    asyncio.run(main())
    check(url)


def test_a_value_that_the_database_refuses(url: str, by_thread: list[Command]) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            await steady(worker)
            trials = [await worker.open() for _ in range(3)]
            by_thread.clear()
            told = await asyncio.gather(
                worker.tell(trials[0].trial_id),
                worker.tell(trials[1].trial_id, user_attrs=[("k" * 600, "1")]),
                worker.tell(trials[2].trial_id, intermediate_values=[(2**31, 0.0)]),
                worker.open(),
                return_exceptions=True,
            )
            assert len(by_thread) == 4
            kinds = [type(answer) for answer in told]
            assert kinds == [type(None), InvalidInput, InvalidInput, TrialRecord]
            await back(worker, by_thread)

    asyncio.run(main())
    check(url)


def test_a_lock_that_somebody_keeps(
    url: str, by_thread: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_locks(monkeypatch, "300ms")

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            ids = [await create(storage, name) for name in ("stuck", "free")]
            workers = [await Worker(storage, study_id).start("") for study_id in ids * 4]
            for worker in workers[:2]:
                await steady(worker)
            trials = [await worker.open() for worker in workers]
            by_thread.clear()
            openings = [worker.opening() for worker in workers]
            async with held(url, "SELECT 1 FROM studies WHERE study_name = 'stuck' FOR UPDATE"):
                answers = await asyncio.gather(
                    *map(storage.apply, openings),
                    *(w.tell(t.trial_id) for w, t in zip(workers, trials, strict=True)),
                    return_exceptions=True,
                )
            assert len(by_thread) == 16
            for opening, opened in zip(openings, answers, strict=False):
                stuck = opening.study_id == ids[0]
                assert isinstance(opened, StorageUnavailable if stuck else TrialRecord)
            assert answers[8:] == [None] * 8
            again = await asyncio.gather(*map(storage.apply, openings))
            assert again[1::2] == answers[1:8:2]
            for study_id in ids:
                trials = list(await storage.trials_since(study_id, -1, []))
                assert [trial.number for trial in trials] == list(range(3 + 4 + 4))
            await back(workers[0], by_thread)

    asyncio.run(main())
    check(url)


def test_a_statement_that_is_cancelled(url: str, by_thread: list[Command]) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            await steady(worker)
            by_thread.clear()
            async with held(url, LOCK_STUDIES) as lock:
                opening = asyncio.create_task(worker.open())
                await lock.waiters(1)
                assert query(url, CANCEL_WAITING) == [(True,)]
                while not by_thread:
                    await asyncio.sleep(0)
                await lock.waiters(1)
                lock.release()
                assert (await opening).number == 3
            await back(worker, by_thread)

    asyncio.run(main())
    check(url)


def test_a_deadlock(url: str, by_thread: list[Command]) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            await steady(worker)
            async with asyncio.timeout(60):
                while not await deadlock(worker):
                    pass  # it was resolved at the other's expense
            await back(worker, by_thread)

    async def deadlock(worker: Worker) -> bool:
        trials = [await worker.open() for _ in range(3)]
        by_thread.clear()
        lock = "SELECT 1 FROM trials WHERE trial_id = {} FOR UPDATE"
        async with held(
            url, "SET LOCAL deadlock_timeout = '10s'", lock.format(trials[1].trial_id)
        ) as other:
            telling = [asyncio.create_task(worker.tell(trial.trial_id)) for trial in trials]
            await other.waiters(1)
            resolved = True
            try:
                await asyncio.to_thread(
                    other._connection.execute, sa.text(lock.format(trials[0].trial_id))
                )
            except sa.exc.OperationalError:
                resolved = False
            other.release()
            assert await asyncio.gather(*telling) == [None] * 3
        assert len(by_thread) == (3 if resolved else 0)
        return resolved

    asyncio.run(main())
    check(url)

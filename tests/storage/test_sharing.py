"""Reads share a query, and still see all that was committed when they were asked for."""

import asyncio
from collections.abc import Sequence

import pytest

from tests.storage.fleet import Worker, create, held, storages
from trialfleet.model.errors import StorageUnavailable
from trialfleet.model.study import Counts
from trialfleet.storage.sharing import SharedReads


class Queries:
    """Queries that end when told to."""

    def __init__(self) -> None:
        self.keys: list[Sequence[str]] = []
        self.begun = asyncio.Semaphore(0)
        self.ended: asyncio.Queue[dict[str, int] | Exception] = asyncio.Queue()

    async def read(self, keys: Sequence[str]) -> dict[str, int]:
        self.keys.append(keys)
        self.begun.release()
        values = await self.ended.get()
        if isinstance(values, Exception):
            raise values
        return values


def test_who_comes_during_a_query_waits_for_the_next() -> None:
    async def main() -> None:
        queries = Queries()
        reads = SharedReads(queries.read)
        first = asyncio.create_task(reads.get("a"))
        await queries.begun.acquire()
        late = [asyncio.create_task(reads.get(key)) for key in ("a", "b", "a", "c")]
        await asyncio.sleep(0)
        await queries.ended.put({"a": 1})
        assert await first == 1
        await queries.begun.acquire()
        assert not any(task.done() for task in late)
        await queries.ended.put({"a": 2, "b": 3})
        assert await asyncio.gather(*late) == [2, 3, 2, None]
        assert queries.keys == [["a"], ["a", "b", "c"]]

    asyncio.run(main())


def test_an_error_reaches_all_and_does_not_stay() -> None:
    async def main() -> None:
        queries = Queries()
        reads = SharedReads(queries.read)
        tasks = [asyncio.create_task(reads.get(key)) for key in "aab"]
        await queries.ended.put(StorageUnavailable("away"))
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(answer) for answer in answers] == ["away"] * 3
        await queries.ended.put({"a": 1})
        assert await reads.get("a") == 1

    asyncio.run(main())


def test_a_caller_that_is_gone_takes_nobody_along() -> None:
    async def main() -> None:
        queries = Queries()
        reads = SharedReads(queries.read)
        gone, stays = (asyncio.create_task(reads.get("a")) for _ in range(2))
        await queries.begun.acquire()
        gone.cancel()
        await queries.ended.put({"a": 1})
        assert await stays == 1
        with pytest.raises(asyncio.CancelledError):
            await gone
        alone = asyncio.create_task(reads.get("a"))
        await queries.begun.acquire()
        alone.cancel()
        await queries.ended.put(StorageUnavailable("nobody hears this"))
        await queries.ended.put({"b": 2})
        assert await reads.get("b") == 2

    asyncio.run(main())


def test_reads_of_many_callers_are_one_query_and_fresh(url: str) -> None:
    async def main() -> None:
        async with storages(url, 2) as (one, two):
            study_id = await create(one)
            worker = await Worker(one, study_id).start()
            trials = [await worker.open() for _ in range(5)]
            for place, trial in enumerate(trials, 1):
                stale = [asyncio.create_task(two.summary(study_id)) for _ in range(5)]
                await worker.tell(trial.trial_id, user_attrs=[("k", "1")])
                for storage in (one, two):
                    found = await asyncio.gather(
                        *(storage.summary(study_id, best) for best in (0, 1, 9))
                    )
                    for summary, best in zip(found, (0, 1, 9), strict=True):
                        assert summary.counts == Counts(complete=place, running=5 - place)
                        assert len(summary.best) == min(best, 1)
                    (read,) = await storage.trials([trial.trial_id])
                    assert read.user_attrs == [("k", "1")]
                await asyncio.gather(*stale)

    asyncio.run(main())


def test_trials_come_in_the_order_asked_for(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            ids = [(await worker.open()).trial_id for _ in range(4)]
            asked = [ids[2], ids[0], ids[2], ids[3]]
            assert [trial.trial_id for trial in await storage.trials(asked)] == asked
            for number, trial_id in enumerate(ids):
                assert await storage.trial_id(study_id, number) == trial_id

    asyncio.run(main())


def test_trials_since(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id, other = await create(storage), await create(storage, "other")
            worker = await Worker(storage, study_id).start()
            stranger = await Worker(storage, other).start("other")
            ids = []
            for _ in range(6):
                ids.append((await worker.open()).trial_id)
                foreign = (await stranger.open()).trial_id

            async def since(
                after: int, included: Sequence[int] = (), limit: int = 100
            ) -> list[int]:
                found = await storage.trials_since(study_id, after, included, limit)
                return [trial.trial_id for trial in found]

            assert await since(-1) == ids
            assert await since(0) == ids
            assert await since(ids[2]) == ids[3:]
            assert await since(ids[2], [ids[0], ids[4], foreign]) == [ids[0], *ids[3:]]
            assert await since(ids[2], [ids[0]], limit=2) == [ids[0], ids[3]]
            # An id of another study, between two of this one.
            assert await since(ids[2] + 1) == ids[3:]
            assert await since(ids[-1]) == []
            assert await since(2**31 - 1) == []

    asyncio.run(main())


def test_reading_does_not_wait_for_writing(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            trial = await worker.open()
            async with held(url, "SELECT 1 FROM studies, trials FOR UPDATE") as lock:
                writing = asyncio.create_task(worker.open())
                await lock.waiters(1)
                assert (await storage.summary(study_id)).counts == Counts(running=1)
                assert await storage.trials([trial.trial_id]) == [trial]
                assert await storage.ready()
                lock.release()
                await writing

    asyncio.run(main())

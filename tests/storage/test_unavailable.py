"""The database goes away in the middle, and comes back."""

import asyncio
import signal
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from optuna.trial import TrialState

from tests.storage.fleet import Held, Worker, check, create, held, query, storages
from trialfleet.local.postgres import Postgres
from trialfleet.model.budget import Budget
from trialfleet.model.errors import StorageUnavailable
from trialfleet.model.trial import TrialRecord
from trialfleet.storage import Storage
from trialfleet.storage.commands import Ended, GiveUp, KeepAlive, Wait


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tf-", dir="/tmp") as name:
        yield Path(name)


async def patiently(call: Callable[[], Awaitable[Any]], failures: list[str]) -> Any:
    """Call until the storage is there, as a client does."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await call()
            except StorageUnavailable as error:
                failures.append(str(error))
                await asyncio.sleep(0.05)


def test_stopped_and_started_again(folder: Path) -> None:
    async def main() -> None:
        with Postgres(folder) as postgres:
            url = postgres.url
            storage = await Storage(url).__aenter__()
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            trial = await worker.open()
        assert not await storage.ready()
        committed = storage.committed_at, storage.batches, storage.commands
        telling = worker.telling(trial.trial_id)
        calls: list[Awaitable[Any]] = [
            storage.apply(telling),
            storage.apply(KeepAlive(worker.session)),
            storage.apply(GiveUp("Evicted", worker="nobody")),
            worker.ask(10.0),
            storage.summary(study_id),
            storage.trials([trial.trial_id]),
            storage.trials_since(study_id, -1, []),
            storage.studies(),
            storage.trial_id(study_id, 0),
        ]
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(answer, StorageUnavailable)
            assert str(answer).startswith("the database is away: ")
            assert "\n" not in str(answer)
        # Else who watches it would take it for there, and the living for dead when it is back.
        assert committed == (storage.committed_at, storage.batches, storage.commands)
        with Postgres(folder) as postgres:
            assert postgres.url == url
            assert await storage.ready()
            await storage.apply(telling)
            (told,) = await storage.trials([trial.trial_id])
            assert told.state == TrialState.COMPLETE
            assert await storage.apply(KeepAlive(worker.session))
            assert isinstance(await worker.ask(), TrialRecord)
            await storage.__aexit__()
            check(url)

    asyncio.run(main())


def test_who_is_parked_stays_so_while_the_database_is_away(folder: Path) -> None:
    async def main() -> None:
        with Postgres(folder) as postgres:
            storage = await Storage(postgres.url).__aenter__()
            study_id = await create(storage, budget=Budget(trials=1))
            worker = await Worker(storage, study_id).start()
            trial = await worker.open()
            expected = storage.commands + 1
            asking = asyncio.create_task(worker.ask(60.0))
            while storage.commands < expected:
                await asyncio.sleep(0)
        assert not await storage.ready()
        with Postgres(folder):
            await worker.tell(trial.trial_id)
            assert isinstance(await asking, Ended)
            await storage.__aexit__()

    asyncio.run(main())


def crash(folder: Path) -> None:
    """End the server without a checkpoint; it recovers from its log when it starts again."""
    server = psutil.Process(int((folder / "postgres/postmaster.pid").read_text().split()[0]))
    server.send_signal(signal.SIGQUIT)
    psutil.wait_procs([server], 20)


def test_what_was_acknowledged_before_a_crash_is_there_after_it(folder: Path) -> None:
    failures: list[str] = []
    acknowledged: dict[int, float] = {}

    async def work(worker: Worker) -> None:
        storage = (await worker.start()).storage
        while True:
            trial = await patiently(partial(storage.open_trial, worker.opening(), 5.0), failures)
            if trial is Wait.WAIT:
                continue
            if isinstance(trial, Ended):
                return
            value = float(trial.number)
            telling = worker.telling(trial.trial_id, values=[value])
            await patiently(partial(storage.apply, telling), failures)
            acknowledged[trial.trial_id] = value

    async def crashes() -> None:
        for trials in (30, 90, 150):
            while len(acknowledged) < trials:
                await asyncio.sleep(0.001)
            await asyncio.to_thread(crash, folder)

    async def main() -> None:
        with Postgres(folder) as postgres:
            async with storages(postgres.url, 2) as pair:
                study_id = await create(pair[0], budget=Budget(trials=200))
                workers = [Worker(pair[k % 2], study_id, f"w{k}") for k in range(8)]
                await asyncio.gather(crashes(), *(work(worker) for worker in workers))
                trials = await pair[0].trials_since(study_id, -1, [])
            stored = {trial.trial_id: trial.values for trial in trials}
            assert stored == {trial_id: [value] for trial_id, value in acknowledged.items()}
            assert len(stored) == 200
            check(postgres.url)

    asyncio.run(main())
    assert failures


CUT = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0
"""


async def _cut(url: str, lock: Held, times: int, call: Coroutine[Any, Any, Any]) -> list[Any]:
    """Cut a call's connection while it waits for a lock; return its answer, if it has one."""
    task = asyncio.create_task(call)
    for _ in range(times):
        await lock.waiters(1)
        assert query(url, CUT) == [(True,)]
    if times == 1:
        await lock.waiters(1)
        lock.release()
        return [await task]
    # A third time might be in vain as well: that is for the caller to decide.
    with pytest.raises(StorageUnavailable, match="the database is away: "):
        await task
    lock.release()
    return []


@pytest.mark.parametrize("times", [1, 2])
def test_a_connection_that_is_cut_in_the_middle_of_a_transaction(url: str, times: int) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            opening = worker.opening()
            async with held(url, "SELECT 1 FROM studies FOR UPDATE") as lock:
                answers = await _cut(url, lock, times, storage.apply(opening))
            assert [opened.number for opened in answers] == [0] * (2 - times)
            assert (await storage.apply(opening)).number == 0
            assert len(await storage.trials_since(study_id, -1, [])) == 1

    asyncio.run(main())
    check(url)


@pytest.mark.parametrize("times", [1, 2])
def test_a_connection_that_is_cut_in_the_middle_of_a_read(url: str, times: int) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            # Taken by the second of the statements that see one state.
            async with held(url, "LOCK TABLE trialfleet_best IN ACCESS EXCLUSIVE MODE") as lock:
                answers = await _cut(url, lock, times, storage.summary(study_id))
            assert [summary.sessions for summary in answers] == [0] * (2 - times)
            assert (await storage.summary(study_id)).sessions == 0

    asyncio.run(main())


def test_a_url_that_leads_nowhere() -> None:
    async def main() -> None:
        storage = Storage("postgresql+psycopg2://postgres@/postgres?host=/nowhere")
        with pytest.raises(StorageUnavailable, match="the database is away: connection to server"):
            await storage.__aenter__()
        await storage.__aexit__()

    asyncio.run(main())

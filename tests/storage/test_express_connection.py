"""While the connection for plain writes is broken, or can't be made, the thread writes."""

import asyncio
import logging
import os
import resource
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from tests.storage.express import (
    CUT_WAITING,
    LOCK_STUDIES,
    back,
    fixture_by_thread,  # noqa: F401
    fixture_openings_are_always_tried,  # noqa: F401
    steady,
)
from tests.storage.fleet import Worker, check, create, held, param, query, storages
from trialfleet.storage import express
from trialfleet.storage.express import Express
from trialfleet.storage.records import Command

# The thread's connection has a COMMIT for its last statement: see `steady`.
CUT_IDLE = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE 'SELECT * FROM trialfleet_apply(%'
"""


@pytest.mark.parametrize("noticed", [False, True])
def test_a_connection_that_is_cut_while_idle(
    url: str, by_thread: list[Command], noticed: bool
) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            for _ in range(3):
                await steady(worker)
                by_thread.clear()
                trial = await worker.open()
                assert by_thread == []
                assert query(url, CUT_IDLE) == [(True,)]
                if noticed:
                    await storage.summary(study_id)
                told, opened = await storage.apply_all(
                    [worker.telling(trial.trial_id), worker.opening()]
                )
                assert told is None
                assert opened.number == trial.number + 1
                await worker.tell(opened.trial_id)
                await back(worker, by_thread)
            trials = await storage.trials_since(study_id, -1, [])
            assert {trial.state for trial in trials} == {TrialState.COMPLETE}

    asyncio.run(main())
    check(url)


def test_a_connection_that_is_cut_while_a_statement_is_under_way(
    url: str, by_thread: list[Command]
) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            workers = [await Worker(storage, study_id).start() for _ in range(5)]
            await steady(workers[0])
            trials = [await worker.open() for worker in workers]
            by_thread.clear()
            async with held(url, LOCK_STUDIES) as lock:
                both = [
                    asyncio.create_task(
                        storage.apply_all([w.telling(t.trial_id, values=[1.0]), w.opening()])
                    )
                    for w, t in zip(workers, trials, strict=True)
                ]
                await lock.waiters(1)
                assert by_thread == []
                others = [asyncio.create_task(worker.open()) for worker in workers]
                while storage.waiting < 5:
                    await asyncio.sleep(0)
                assert query(url, CUT_WAITING) == [(True,)]
                while len(by_thread) < 10:
                    await asyncio.sleep(0)
                await lock.waiters(1)
                lock.release()
                answers = await asyncio.gather(*both)
                opened = [trial.number for trial in await asyncio.gather(*others)]
            assert [told for told, _ in answers] == [None] * 5
            opened += [trial.number for _, trial in answers]
            assert sorted(opened) == list(range(8, 18))
            assert len(await storage.trials_since(study_id, -1, [])) == 18
            await back(workers[0], by_thread)

    asyncio.run(main())
    check(url)


def test_an_answer_that_is_lost_after_the_commit(
    url: str, by_thread: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Express._finish

    def lose(made: Express, row: Sequence[Any] | None) -> None:
        monkeypatch.setattr(Express, "_finish", finish)
        made.disconnect()
        finish(made, None)

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            workers = [await Worker(storage, study_id).start() for _ in range(5)]
            await steady(workers[0])
            trials = [await worker.open() for worker in workers]
            by_thread.clear()
            monkeypatch.setattr(Express, "_finish", lose)
            answers = await asyncio.gather(
                *(
                    storage.apply_all([w.telling(t.trial_id, values=[1.0]), w.opening()])
                    for w, t in zip(workers, trials, strict=True)
                )
            )
            assert len(by_thread) == 10
            assert [told for told, _ in answers] == [None] * 5
            assert sorted(opened.number for _, opened in answers) == list(range(8, 13))
            assert len(await storage.trials_since(study_id, -1, [])) == 13
            await back(workers[0], by_thread)

    asyncio.run(main())
    check(url)


@contextmanager
def deaf() -> Iterator[str]:
    """The folder of a server's socket that takes connections and says nothing."""
    with (
        tempfile.TemporaryDirectory(prefix="tf-", dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX) as listening,
    ):
        listening.bind(str(Path(folder) / ".s.PGSQL.5432"))
        listening.listen()
        yield folder


@contextmanager
def refusing() -> Iterator[str]:
    """The folder of a server's socket, where there is none."""
    with tempfile.TemporaryDirectory(prefix="tf-", dir="/tmp") as folder:
        yield folder


@pytest.mark.parametrize("server", [deaf, refusing])
def test_writes_do_not_wait_for_a_connection_that_is_not_to_be_had(
    url: str, by_thread: list[Command], monkeypatch: pytest.MonkeyPatch, server: Any
) -> None:
    monkeypatch.setattr(express, "_CONNECT_S", 1.0)
    connect = express._connect
    tried: list[bool] = []

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            await steady(worker)
            with server() as folder:

                def elsewhere(settings: Mapping[str, Any], rehearsal: str) -> Any:
                    tried.append(False)
                    try:
                        return connect({**settings, "host": folder}, rehearsal)
                    finally:
                        tried[-1] = True

                monkeypatch.setattr(express, "_connect", elsewhere)
                assert query(url, CUT_IDLE) == [(True,)]
                await storage.ready()
                async with asyncio.timeout(60):
                    while tried[:2] != [True, True]:
                        by_thread.clear()
                        await worker.tell((await worker.open()).trial_id, params=[param()])
                        assert len(by_thread) == 2
            monkeypatch.setattr(express, "_connect", connect)
            await back(worker, by_thread)

    asyncio.run(main())
    check(url)


def test_a_storage_that_ends_while_a_connection_is_made(
    url: str, by_thread: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(express, "_CONNECT_S", 0.5)
    connect = express._connect

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            await steady(worker)
            by_thread.clear()
            with deaf() as folder:

                def elsewhere(settings: Mapping[str, Any], rehearsal: str) -> Any:
                    return connect({**settings, "host": folder}, rehearsal)

                monkeypatch.setattr(express, "_connect", elsewhere)
                assert query(url, CUT_IDLE) == [(True,)]
                opening = [asyncio.create_task(worker.open()) for _ in range(5)]
                while len(by_thread) < 5:
                    await asyncio.sleep(0)
                opening += [asyncio.create_task(worker.open()) for _ in range(5)]
                await asyncio.sleep(0)
                await storage.__aexit__()
        assert sorted([(await opened).number for opened in opening]) == list(range(3, 13))

    asyncio.run(main())
    check(url)


def test_more_open_files_than_select_takes(
    url: str, by_thread: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    files: list[int] = []
    connect = express._connect

    def late(settings: Mapping[str, Any], rehearsal: str) -> Any:
        while not files or files[-1] < 1024:
            files.append(os.dup(0))
        return connect(settings, rehearsal)

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            await steady(worker)
            monkeypatch.setattr(express, "_connect", late)
            assert query(url, CUT_IDLE) == [(True,)]
            await back(worker, by_thread)
            assert files

    try:
        asyncio.run(main())
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_is_said_of_a_connection_that_breaks_is_one_line(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            await steady(worker)
            await worker.open()
            assert query(url, CUT_IDLE) == [(True,)]
            await worker.open()

    with caplog.at_level(logging.INFO, "trialfleet.storage.express"):
        asyncio.run(main())
    said = [record.message for record in caplog.records if record.name == express.__name__]
    assert len(said) == 1
    assert said[0].startswith("a plain write failed: ")
    assert "\n" not in said[0]

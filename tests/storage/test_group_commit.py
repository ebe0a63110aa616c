"""Many writes share a transaction, and nobody suffers for another's."""

import asyncio
import logging
import threading
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from tests.storage.fleet import (
    Worker,
    check,
    create,
    held,
    noting,
    query,
    storages,
    together,
    write,
)
from trialfleet.model.errors import InvalidInput, Overloaded, SessionGivenUp, StorageUnavailable
from trialfleet.model.study import Counts
from trialfleet.model.trial import TrialRecord
from trialfleet.storage import Storage
from trialfleet.storage.commands import (
    Command,
    CreateStudy,
    DeleteStudy,
    KeepAlive,
    SetStudyAttribute,
)
from trialfleet.storage.writer import _MOST_IN_VAIN, Writer

LOCK_STUDIES = "SELECT 1 FROM studies FOR UPDATE"
SOON_IN_VAIN = "-c lock_timeout=300ms"


def test_concurrent_commands_share_transactions(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            workers = [Worker(storage, study_id) for _ in range(10)]
            for worker in workers:
                await worker.start()
            batches, commands = storage.batches, storage.commands
            opened = await asyncio.gather(*(worker.open() for worker in workers for _ in range(20)))
            assert storage.commands - commands == 200
            assert storage.batches - batches <= 20
            await asyncio.gather(
                *(workers[k // 20].tell(trial.trial_id) for k, trial in enumerate(opened)),
                *(storage.apply(KeepAlive(worker.session)) for worker in workers),
            )
            assert storage.batches - batches <= 40
            assert (await storage.summary(study_id)).counts == Counts(complete=200)

    asyncio.run(main())
    check(url)


def test_more_than_a_batch_that_comes_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trialfleet.storage.committer._MAX_BATCH", 3)

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            async with asyncio.timeout(30):
                answers = await storage.apply_all([KeepAlive(worker.session)] * 10)
            assert answers == [True] * 10

    asyncio.run(main())


def test_what_comes_while_one_commits_goes_together(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            await worker.open()  # the first of a study is another case than those that follow
            async with held(url, LOCK_STUDIES) as lock:
                first = asyncio.create_task(worker.open())
                await lock.waiters(1)
                others = [asyncio.create_task(worker.open()) for _ in range(50)]
                while storage.waiting < 50:
                    await asyncio.sleep(0)
                batches = storage.batches
                lock.release()
                await asyncio.gather(first, *others)
                assert storage.batches - batches == 2
                assert storage.waiting == 0

    asyncio.run(main())


def test_callers_that_are_gone_do_not_hurt_others(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            async with held(url, LOCK_STUDIES) as lock:
                tasks = [asyncio.create_task(worker.open())]
                await lock.waiters(1)
                tasks += [asyncio.create_task(worker.open()) for _ in range(9)]
                await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
                lock.release()
                answers = await asyncio.gather(*tasks, return_exceptions=True)
            for place, answer in enumerate(answers):
                kind = TrialRecord if place % 2 else asyncio.CancelledError
                assert isinstance(answer, kind)
            assert isinstance(await worker.open(), TrialRecord)

    asyncio.run(main())
    check(url)


def test_an_error_reaches_all_that_share_it(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            stranger = Worker(storage, study_id)
            answers = await asyncio.gather(
                *(stranger.ask() for _ in range(30)), return_exceptions=True
            )
            assert all(isinstance(answer, SessionGivenUp) for answer in answers)

    asyncio.run(main())


def test_too_many_that_wait_are_refused(url: str) -> None:
    async def main() -> None:
        async with Storage(url, max_waiting=5) as storage:
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            async with held(url, LOCK_STUDIES) as lock:
                first = asyncio.create_task(worker.open())
                await lock.waiters(1)
                others = [asyncio.create_task(worker.open()) for _ in range(5)]
                while storage.waiting < 5:
                    await asyncio.sleep(0)
                with pytest.raises(Overloaded) as caught:
                    await worker.open()
                assert str(caught.value) == "5 writes are waiting already"
                lock.release()
                await asyncio.gather(first, *others)
            await worker.open()

    asyncio.run(main())


def test_what_waits_at_the_end_is_still_applied(url: str) -> None:
    async def main() -> None:
        async with Storage(url) as storage:
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            opening = [asyncio.create_task(worker.open()) for _ in range(50)]
            await asyncio.sleep(0)
        for trial in await asyncio.gather(*opening):
            assert isinstance(trial, TrialRecord)
        for call in (worker.open(), storage.summary(study_id), storage.studies()):
            with pytest.raises(StorageUnavailable, match="the proxy is stopping"):
                await call
        assert not any(thread.name == "committer" for thread in threading.enumerate())

    asyncio.run(main())
    assert query(url, "SELECT count(*) FROM trials") == [(50,)]


def test_a_storage_that_was_not_entered(url: str) -> None:
    async def main() -> None:
        storage = Storage(url)
        with pytest.raises(StorageUnavailable, match="the storage is not ready"):
            await storage.apply(KeepAlive(bytes(16)))
        assert not await storage.ready()
        await storage.__aexit__()

    asyncio.run(main())


class Transactions:
    """Counts the transactions of a writer, on a connection of its own."""

    def __init__(self, url: str) -> None:
        self.begun = 0
        settings = noting(self._count)
        self.writer = Writer(sa.create_engine(url, poolclass=sa.NullPool, connect_args=settings))

    def _count(self, statements: str) -> None:
        self.begun += statements.startswith("BEGIN")


def test_one_bad_command_among_many_costs_few_transactions(url: str) -> None:
    async def main() -> list[Command]:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            trials = await asyncio.gather(*(worker.open() for _ in range(256)))
            commands: list[Command] = [worker.telling(trial.trial_id) for trial in trials]
            commands[100] = worker.telling(trials[100].trial_id, user_attrs=[("k", "\0")])
            return commands

    transactions = Transactions(url)
    answers = transactions.writer.apply(asyncio.run(main()))
    transactions.writer.close()
    assert isinstance(answers.pop(100), InvalidInput)
    assert answers == [None] * 255
    assert transactions.begun == 1 + 2 * 8
    assert query(url, "SELECT count(*) FROM trials WHERE state = 'COMPLETE'") == [(255,)]


def test_a_defect_in_one_command_does_not_spread(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            trials = [await worker.open() for _ in range(3)]
            broken: Any = [(0, "no number")]
            answers = await together(
                url,
                [
                    worker.telling(trials[0].trial_id),
                    worker.telling(trials[1].trial_id, intermediate_values=broken),
                    worker.telling(trials[2].trial_id),
                    CreateStudy("other", [broken]),
                    CreateStudy("third", []),
                    KeepAlive(worker.session),
                ],
            )
            assert isinstance(answers.pop(1), TypeError)
            assert isinstance(answers.pop(2), AttributeError)
            assert answers[:2] == [None, None]
            assert answers[3] is True
            assert [study.name for study in await storage.studies()] == ["s", "third"]

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert [record.message for record in caplog.records] == ["a command failed"] * 2


def test_a_lock_that_somebody_keeps_holds_up_no_other_study(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            ids = [await create(storage, name) for name in ("stuck", "free")]
            workers = [await Worker(storage, study_id).start("") for study_id in ids * 8]
            mark = SetStudyAttribute(ids[0], "k", "1", True, workers[0].write())
            async with held(url, "SELECT 1 FROM studies WHERE study_name = 'stuck' FOR UPDATE"):
                openings = [worker.opening() for worker in workers]
                answers = await together(url, [*openings, mark], options=SOON_IN_VAIN)
            for command, answer in zip(openings, answers, strict=False):
                if command.study_id == ids[0]:
                    assert isinstance(answer, StorageUnavailable)
                    expected = "the database refused: canceling statement due to lock timeout"
                    assert str(answer).startswith(expected)
                else:
                    assert isinstance(answer, TrialRecord)
            assert isinstance(answers[-1], StorageUnavailable)
            again = await together(url, [*openings, mark])
            assert again[-1] is None
            assert [answer.state for answer in again[:-1]] == [TrialState.RUNNING] * 16

    asyncio.run(main())
    check(url)


def test_many_that_wait_for_one_lock_are_told_so_without_trying_each(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            ids = [await create(storage, name) for name in ("stuck", "free")]
            workers = [await Worker(storage, study_id).start("") for study_id in ids * 100]
            tries: list[str] = []
            settings = noting(lambda query: tries.append(query) if "'100ms'" in query else None)
            async with held(url, "SELECT 1 FROM studies WHERE study_name = 'stuck' FOR UPDATE"):
                openings = [worker.opening() for worker in workers]
                answers = await together(url, openings, options=SOON_IN_VAIN, **settings)
            for command, answer in zip(openings, answers, strict=True):
                kind = StorageUnavailable if command.study_id == ids[0] else TrialRecord
                assert isinstance(answer, kind)
            assert len(tries) == _MOST_IN_VAIN + 1

    asyncio.run(main())
    check(url)


def test_one_trial_that_somebody_locks_is_found_among_many(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            trials = [await worker.open() for _ in range(200)]
            lock = f"SELECT 1 FROM trials WHERE trial_id = {trials[130].trial_id} FOR UPDATE"
            async with held(url, lock):
                tellings = [worker.telling(trial.trial_id) for trial in trials]
                answers = await together(url, tellings, options=SOON_IN_VAIN)
            assert isinstance(answers.pop(130), StorageUnavailable)
            assert answers == [None] * 199

    asyncio.run(main())
    check(url)


def test_a_study_is_deleted_beside_all_other_writes(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            ids = [await create(storage, name) for name in ("large", "other")]
            workers = [await Worker(storage, study_id).start("") for study_id in ids]
            trial = await workers[0].open()
            lock = f"SELECT 1 FROM trials WHERE trial_id = {trial.trial_id} FOR UPDATE"
            async with asyncio.timeout(60), held(url, lock) as locked:
                # The same comes again before the first is done, as a client's does in time.
                delete = DeleteStudy(ids[0], workers[0].write())
                first, again = (asyncio.create_task(storage.apply(delete)) for _ in range(2))
                await locked.waiters(1)
                again.cancel()
                again = asyncio.create_task(storage.apply(delete))
                assert await storage.apply(KeepAlive(workers[1].session))
                await workers[1].open()
                assert not first.done()
                locked.release()
                assert [await first, await again] == [None, None]
            assert [study.name for study in await storage.studies()] == ["other"]

    asyncio.run(main())
    check(url)


def test_a_storage_that_closes_does_not_wait_for_a_deletion(url: str) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            async with storages(url, 1) as (storage,):
                study_id = await create(storage)
                await (await Worker(storage, study_id).start()).open()
                write(
                    url,
                    """
                    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
                    AS 'BEGIN PERFORM pg_sleep(3600); RETURN OLD; END';
                    CREATE TRIGGER slow BEFORE DELETE ON trials FOR EACH ROW EXECUTE FUNCTION slow()
                    """,
                )
                deletion = asyncio.create_task(storage.apply(DeleteStudy(study_id)))
                sleeping = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                while not query(url, sleeping):
                    await asyncio.sleep(0.01)
            with pytest.raises(StorageUnavailable, match="user request"):
                await deletion
            async with storages(url, 1) as (storage,):
                assert [study.study_id for study in await storage.studies()] == [study_id]

    asyncio.run(main())
    check(url)


def test_a_connection_that_was_cut_while_idle_is_made_again(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            cut = (
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE application_name = 'trialfleet'"
            )
            assert set(query(url, cut)) == {(True,)}
            await worker.open()
            assert await storage.ready()

    asyncio.run(main())

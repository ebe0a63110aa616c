"""A turn's holder hangs, is cut off or fails, and the others go on."""

import asyncio

import pytest
import sqlalchemy as sa

from tests.storage.express import (
    TURN,
    all_wait,
    assert_free,
    blocked_by,
    fixture_by_thread,  # noqa: F401
    fixture_openings_are_always_tried,  # noqa: F401
    start,
    wait_for_locks,
)
from tests.storage.fleet import check, create, database, held, query, storages
from trialfleet.model.errors import InvalidInput, StorageUnavailable
from trialfleet.storage.records import Command

TAKE_TURN = sa.text("SELECT trialfleet_take_turn(ARRAY[CAST(:study_id AS int)])")


def test_a_holder_that_hangs_loses_its_turn(url: str, by_thread: list[Command]) -> None:
    async def main() -> None:
        async with storages(url, 2) as pair:
            study_id = await create(pair[0])
            workers = [await start(storage, study_id) for storage in pair]
            by_thread.clear()
            with database(url) as hanging:
                hanging.execute(sa.text("BEGIN"))
                assert hanging.execute(TAKE_TURN, {"study_id": study_id}).scalar_one() is False
                trials = await asyncio.gather(*(worker.open() for worker in workers * 5))
                assert sorted(trial.number for trial in trials) == list(range(6, 16))
                with pytest.raises(sa.exc.OperationalError):
                    hanging.execute(sa.text("SELECT 1"))
            assert by_thread == []

    asyncio.run(main())
    check(url)


def test_a_holder_whose_connection_is_cut(url: str, by_thread: list[Command]) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await start(storage, study_id)
            by_thread.clear()
            with database(url) as cut:
                pid = cut.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
                cut.execute(sa.text("BEGIN"))
                cut.execute(TAKE_TURN, {"study_id": study_id})
                async with held(url) as nothing:
                    opening = [asyncio.create_task(worker.open()) for _ in range(5)]
                    await nothing.waiters(1)
                query(url, "SELECT pg_terminate_backend(:pid, 5000)", pid=pid)
                trials = await asyncio.gather(*opening)
                cut.invalidate()
            assert [trial.number for trial in trials] == list(range(3, 8))
            assert by_thread == []

    asyncio.run(main())
    check(url)


@pytest.mark.parametrize("end", ["pg_terminate_backend(:pid, 5000)", "pg_cancel_backend(:pid)"])
def test_a_storage_whose_statement_fails_while_it_has_the_turn(
    url: str, by_thread: list[Command], end: str
) -> None:
    async def main() -> None:
        async with storages(url, 2) as pair:
            study_id = await create(pair[0])
            workers = [await start(storage, study_id) for storage in pair]
            by_thread.clear()
            study = f"SELECT 1 FROM studies WHERE study_id = {study_id} FOR UPDATE"
            async with held(url, TURN.format(study_id)) as turn, held(url, study) as lock:
                opening = []
                for waiting, worker in enumerate(workers, 1):
                    opening.append(asyncio.create_task(worker.open()))
                    await turn.waiters(waiting)
                turn.release()
                holder = await blocked_by(url, lock)
                assert query(url, f"SELECT {end}", pid=holder) == [(True,)]
                # The other has the turn now; the thread waits for the study as it does.
                await blocked_by(url, lock, but=holder)
                async with asyncio.timeout(60):
                    while not by_thread:
                        await asyncio.sleep(0)
                assert not any(task.done() for task in opening)
                lock.release()
                trials = await asyncio.gather(*opening)
            assert sorted(trial.number for trial in trials) == [6, 7]
            assert len(by_thread) == 1
            assert_free(url, study_id)
            # Both are as they were before.
            trials = await asyncio.gather(*(worker.open() for worker in workers * 5))
            assert sorted(trial.number for trial in trials) == list(range(8, 18))

    asyncio.run(main())
    check(url)


def test_a_wrong_command_in_a_batch_that_has_the_turn(url: str, by_thread: list[Command]) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await start(storage, study_id)
            for update in ({"user_attrs": [("k", "\0")]}, {"intermediate_values": [(2**31, 0.0)]}):
                trial = await worker.open()
                by_thread.clear()
                async with held(url, TURN.format(study_id)) as turn:
                    opening = [asyncio.create_task(worker.open())]
                    await turn.waiters(1)
                    telling = asyncio.create_task(worker.tell(trial.trial_id, **update))
                    opening += [asyncio.create_task(worker.open()) for _ in range(5)]
                    await all_wait(storage, 1 + 6)
                    turn.release()
                    trials = await asyncio.gather(*opening)
                    with pytest.raises(InvalidInput, match="can't be stored: "):
                        await telling
                assert len(by_thread) == 7
                numbers = sorted(opened.number for opened in trials)
                assert numbers == list(range(trial.number + 1, trial.number + 7))
                assert_free(url, study_id)
            await worker.open()

    asyncio.run(main())
    check(url)


def test_a_turn_that_is_not_to_be_had_in_time(
    url: str, by_thread: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_locks(monkeypatch, "300ms")

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await start(storage, study_id)
            running = [await worker.open() for _ in range(2)]
            by_thread.clear()
            async with held(url, TURN.format(study_id)):
                telling = asyncio.gather(*(worker.tell(opened.trial_id) for opened in running))
                trial = await worker.open()
                assert await telling == [None] * 2
                assert trial.number == 5
                assert by_thread
            by_thread.clear()
            async with asyncio.timeout(60):
                while True:
                    by_thread.clear()
                    await worker.open()
                    if not by_thread:
                        break

    asyncio.run(main())
    check(url)


def test_turns_that_were_had_are_given_back_when_another_is_not_to_be_had(
    url: str, by_thread: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_locks(monkeypatch, "300ms")

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            ids = [await create(storage, name) for name in ("a", "b", "c")]
            workers = [await start(storage, study_id) for study_id in ids]
            by_thread.clear()
            async with held(url, TURN.format(ids[1])):
                trials = await asyncio.gather(*(worker.open() for worker in workers))
                assert [trial.number for trial in trials] == [3, 3, 3]
                assert len(by_thread) == 3
                assert_free(url, ids[0], ids[2])

    asyncio.run(main())
    check(url)


def test_a_study_that_is_locked_while_one_has_the_turn(
    url: str, by_thread: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_locks(monkeypatch, "300ms")

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await start(storage, study_id)
            by_thread.clear()
            study = f"SELECT 1 FROM studies WHERE study_id = {study_id} FOR UPDATE"
            async with held(url, study), held(url, TURN.format(study_id)) as turn:
                opening = asyncio.create_task(worker.ask())
                await turn.waiters(1)
                turn.release()
                with pytest.raises(StorageUnavailable, match="due to lock timeout"):
                    await opening
                assert_free(url, study_id)
            assert len(by_thread) == 1
            assert (await worker.open()).number == 3

    asyncio.run(main())
    check(url)

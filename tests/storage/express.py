"""What the tests of plain writes and of turns share: locks, and who was given a write."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from tests.storage.fleet import Held, Worker, database, param, query
from trialfleet.storage import Storage
from trialfleet.storage import storage as storing
from trialfleet.storage.batch import Writer
from trialfleet.storage.records import Command, KeepAlive

LOCK_STUDIES = "SELECT 1 FROM studies FOR UPDATE"
CUT_WAITING = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0
"""
CANCEL_WAITING = CUT_WAITING.replace("pg_terminate_backend(pid, 5000)", "pg_cancel_backend(pid)")
TURN = "SELECT pg_advisory_xact_lock(hashtext('trialfleet_turn'), {})"


@pytest.fixture(autouse=True)
def fixture_openings_are_always_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one that is not plain would send those of a second after it."""
    monkeypatch.setattr("trialfleet.storage.committer._NOT_PLAIN_S", -1.0)


@pytest.fixture(name="by_thread")
def fixture_by_thread(monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """The commands that committers' threads were given."""
    given: list[Command] = []
    apply = Writer.apply

    def noted(writer: Writer, commands: Sequence[Command], *, cut: bool = False) -> list[Any]:
        given.extend(commands)
        return apply(writer, commands, cut=cut)

    monkeypatch.setattr(Writer, "apply", noted)
    return given


def wait_for_locks(monkeypatch: pytest.MonkeyPatch, lock_timeout: str) -> None:
    """Let storages that are entered from now on wait for a lock so long at most."""
    options = f"{storing._CONNECT['options']} -c lock_timeout={lock_timeout}"
    monkeypatch.setitem(storing._CONNECT, "options", options)


async def steady(worker: Worker) -> None:
    """Bring the study and the storage to where they are most of the time."""
    for _ in range(3):
        await worker.tell((await worker.open()).trial_id, params=[param()])
    assert await worker.storage.apply(KeepAlive(worker.session))


async def back(worker: Worker, by_thread: list[Command]) -> None:
    """Open and end trials until the thread has no part in it."""
    async with asyncio.timeout(60):
        while True:
            by_thread.clear()
            await worker.tell((await worker.open()).trial_id, params=[param()])
            if not by_thread:
                return


async def start(storage: Storage, study_id: int) -> Worker:
    """Return a worker of a study that has begun, and whose parameters the storage knows."""
    worker = await Worker(storage, study_id).start("")
    await steady(worker)
    return worker


async def all_wait(storage: Storage, number: int) -> None:
    """Return when so many callers wait for the storage's next statement."""
    async with asyncio.timeout(60):
        while storage.waiting < number:
            await asyncio.sleep(0)


async def blocked_by(url: str, lock: Held, but: int | None = None) -> int:
    """Return the process of one other than ``but`` that waits for a lock, when there is one."""
    statement = """
        SELECT pid FROM pg_stat_activity WHERE datname = current_database()
        AND :holder = ANY (pg_blocking_pids(pid)) AND pid IS DISTINCT FROM :but
    """
    holder = lock._connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
    async with asyncio.timeout(60):
        while not (found := query(url, statement, holder=holder, but=but)):
            await asyncio.sleep(0.01)
    return int(found[0][0])


def assert_free(url: str, *studies: int) -> None:
    """Assert that nobody has the studies' turns, or loses them only because of its idleness."""
    with database(url) as connection:
        connection.execute(sa.text("SET lock_timeout = '4s'"))
        for study_id in studies:
            connection.execute(sa.text(TURN.format(study_id)))

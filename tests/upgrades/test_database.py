"""A database that an earlier release made comes up to date with nothing lost."""

import asyncio
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from tests.controller.kube import wait_for
from tests.storage.fleet import Worker, check, database, query, stock
from trialfleet.local.postgres import find_binaries
from trialfleet.model.session import WriteId
from trialfleet.model.study import Counts
from trialfleet.model.trial import TrialUpdate
from trialfleet.storage import Storage
from trialfleet.storage.commands import UpdateTrial
from trialfleet.storage.migrations import migrations
from trialfleet.storage.schema import SCHEMA_VERSION

HERE = Path(__file__).parent
RELEASES = sorted(path.parent.name for path in HERE.glob("*/database.sql"))

# A step that was released never changes: a database says by these which ones it had.
RELEASED = {6: "dbfb71f800ebab0d2ac2325708d5c391b441a97ed1e53db4f83adf22fffa8c7a"}


# Studies and sessions end by the clock: to them a dump is always a minute old.
MADE = "SELECT max(started_at) FROM trialfleet_studies"


def restore(url: str, release: str) -> None:
    with database(url) as connection:
        script = (HERE / release / "database.sql").read_text(encoding="utf-8")
        connection.execution_options(no_parameters=True).exec_driver_sql(script)
        (made,) = connection.exec_driver_sql(MADE).one()
        later = "now() - interval '1 minute' - CAST(:made AS timestamptz)"
        for shift in (
            f"UPDATE trialfleet_studies SET started_at = started_at + ({later})",
            f"UPDATE trialfleet_sessions SET expires_at = expires_at + ({later}), "
            f"ended_at = ended_at + ({later})",
        ):
            connection.execute(sa.text(shift), {"made": made})


def prepare(url: str) -> None:
    async def main() -> None:
        async with Storage(url) as storage:
            assert await storage.ready()

    asyncio.run(main())


def rows(url: str) -> dict[str, list[dict[str, Any]]]:
    """Return all rows of all tables, in an order of their own."""
    with database(url) as connection:
        tables = sa.inspect(connection).get_table_names()
        found = {}
        for table in tables:
            result = connection.execute(sa.text(f'SELECT * FROM "{table}"')).mappings()
            plain = [{column: _plain(row[column]) for column in row} for row in result]
            found[table] = sorted(plain, key=repr)
    return found


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def schema_of(url: str) -> str:
    """Return the whole schema as text."""
    parts = sa.make_url(url)
    dump = find_binaries() / "pg_dump"
    where = ["-h", str(parts.query["host"]), "-U", str(parts.username), str(parts.database)]
    command = [str(dump), "--schema-only", "--no-owner", "--restrict-key=test", *where]
    return subprocess.check_output(command, text=True)


@pytest.mark.parametrize("release", RELEASES)
def test_nothing_is_lost(database_url: str, release: str) -> None:
    restore(database_url, release)
    before = rows(database_url)
    prepare(database_url)
    after = rows(database_url)
    del before["trialfleet_schema"]
    for table, old in before.items():
        kept = [{column: row[column] for column in old[0]} for row in after[table]] if old else []
        assert sorted(kept, key=repr) == old, table
    assert query(database_url, "SELECT version FROM trialfleet_schema") == [(SCHEMA_VERSION,)]
    check(database_url)


@pytest.mark.parametrize("release", RELEASES)
def test_an_upgraded_database_is_like_a_new_one(database_url: str, url: str, release: str) -> None:
    restore(database_url, release)
    prepare(database_url)
    assert schema_of(database_url) == schema_of(url)


def test_a_running_study_goes_on(database_url: str) -> None:
    restore(database_url, "0.1.0")
    ((session, trial_id),) = query(
        database_url,
        "SELECT s.session_id, r.trial_id FROM trialfleet_sessions s JOIN trialfleet_runs r "
        "USING (session_id) JOIN trials t USING (trial_id) "
        "WHERE s.worker = 'worker-a' AND t.state = 'RUNNING'",
    )

    async def main() -> None:
        async with Storage(database_url) as storage:
            (study,) = await storage.studies(name="running")
            before = (await storage.summary(study.study_id)).counts
            assert before == Counts(complete=4, pruned=1, failed=1, running=2, waiting=0, lost=1)
            told = UpdateTrial(
                WriteId(bytes(session), 1_000), TrialUpdate(trial_id), TrialState.COMPLETE, [0.5]
            )
            await storage.apply(told)
            worker = await Worker(storage, study.study_id).start("running")
            await worker.tell((await worker.open()).trial_id)
            after = (await storage.summary(study.study_id)).counts
            assert after == Counts(complete=6, pruned=1, failed=1, running=1, waiting=0, lost=1)

    asyncio.run(main())
    check(database_url)


def test_writers_go_on_while_it_is_upgraded(database_url: str) -> None:
    """As proxies of the release before do; ``benchmarks.upgrade`` has them in full."""
    restore(database_url, "0.1.0")
    ((study_id, there),) = query(
        database_url,
        "SELECT study_id, count(*) FROM trials JOIN studies USING (study_id) "
        "WHERE study_name = 'running' AND state = 'COMPLETE' GROUP BY 1",
    )
    written = [0, 0]
    upgraded = threading.Event()

    def write(number: int) -> None:
        with stock(database_url) as storage:
            enough = 0
            while written[number] < enough or not upgraded.is_set():
                trial_id = storage.create_new_trial(study_id)
                storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
                written[number] += 1
                if not upgraded.is_set():
                    enough = written[number] + 3

    with ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(write, number) for number in range(2)]
        try:
            wait_for("both write", lambda: min(written) >= 3)
            prepare(database_url)
        finally:
            upgraded.set()
        for each in writing:
            each.result()
    assert query(
        database_url,
        "SELECT count(*), count(DISTINCT number) FILTER (WHERE state = 'COMPLETE') FROM trials "
        f"WHERE study_id = {study_id} AND state = 'COMPLETE'",
    ) == [(there + sum(written), there + sum(written))]
    check(database_url)


def test_a_released_step_never_changes() -> None:
    released = {step.version: step.checksum for step in migrations() if step.version in RELEASED}
    assert released == RELEASED
    assert [step.version for step in migrations()] == list(range(6, SCHEMA_VERSION + 1))


def test_each_database_has_an_identity_of_its_own(database_url: str, url: str) -> None:
    prepare(database_url)
    identity = "SELECT identity FROM trialfleet_storage"
    assert len({*query(database_url, identity), *query(url, identity)}) == 2
    steps = query(database_url, "SELECT version, checksum FROM trialfleet_migrations ORDER BY 1")
    assert steps == [(step.version, step.checksum) for step in migrations()]

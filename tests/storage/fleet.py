"""What the tests of the storage share: workers, studies, and what must hold of any database."""

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import optuna
import psycopg2.extensions
import sqlalchemy as sa
from optuna.distributions import FloatDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from trialfleet import names
from trialfleet.model.budget import Budget
from trialfleet.model.session import GivenUp, WriteId
from trialfleet.model.study import Counts
from trialfleet.model.trial import Param, TrialRecord, TrialUpdate
from trialfleet.storage import Storage
from trialfleet.storage.commands import (
    Command,
    EnsureStudy,
    GiveUp,
    OpenSession,
    OpenTrial,
    UpdateTrial,
)
from trialfleet.storage.writer import Writer

STUDY = "s"
FLOAT = distribution_to_json(FloatDistribution(0, 1))
MINIMIZE, MAXIMIZE = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE


class Worker:
    """One session and the numbers of its writes."""

    def __init__(self, storage: Storage, study_id: int, name: str = "worker") -> None:
        self.storage = storage
        self.study_id = study_id
        self.name = name
        self.session = os.urandom(16)
        self._sequence = itertools.count(1)

    def write(self) -> WriteId:
        return WriteId(self.session, next(self._sequence))

    async def start(self, study: str = STUDY, time_to_live_s: float = 60.0) -> "Worker":
        await self.storage.apply(OpenSession(self.session, self.name, study, time_to_live_s))
        return self

    def opening(self) -> OpenTrial:
        return OpenTrial(self.study_id, self.write())

    async def ask(self, wait_s: float = 0.0) -> Any:
        return await self.storage.open_trial(self.opening(), wait_s)

    async def open(self) -> TrialRecord:
        opened = await self.ask()
        assert isinstance(opened, TrialRecord)
        return opened

    def telling(
        self,
        trial_id: int,
        state: TrialState | None = TrialState.COMPLETE,
        values: Sequence[float] | None = None,
        **update: Any,
    ) -> UpdateTrial:
        if values is None and state == TrialState.COMPLETE:
            values = [0.0]
        return UpdateTrial(self.write(), TrialUpdate(trial_id, **update), state, values)

    async def tell(
        self,
        trial_id: int,
        state: TrialState | None = TrialState.COMPLETE,
        values: Sequence[float] | None = None,
        **update: Any,
    ) -> None:
        await self.storage.apply(self.telling(trial_id, state, values, **update))


def param(name: str = "x", value: float = 0.5) -> Param:
    return Param(name, value, FLOAT)


async def create(
    storage: Storage,
    name: str = STUDY,
    directions: Sequence[StudyDirection] = (MINIMIZE,),
    budget: Budget | None = None,
    **definition: Any,
) -> int:
    """Create a study, or change its definition; return its id."""
    command = EnsureStudy(name, directions, budget or Budget(), **definition)
    return int((await storage.apply(command)).study_id)


@asynccontextmanager
async def storages(url: str, number: int) -> AsyncIterator[list[Storage]]:
    """Several storages on one database, as several proxies have them."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Storage(url)) for _ in range(number)]


@contextmanager
def stock(url: str) -> Iterator[RDBStorage]:
    """Optuna's own storage on the database."""
    storage = RDBStorage(url)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


@contextmanager
def database(url: str) -> Iterator[sa.Connection]:
    """A plain connection; every statement is a transaction of its own."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield connection


def noting(note: Callable[[str], object]) -> dict[str, Any]:
    """Return what psycopg2 has to be given to tell of every statement that it makes."""

    class Cursor(psycopg2.extensions.cursor):
        def execute(self, query: Any, vars: Any = None) -> None:
            note(query)
            super().execute(query, vars)

    return {"cursor_factory": Cursor}


def query(url: str, statement: str, **values: Any) -> Sequence[Any]:
    with database(url) as connection:
        return connection.execute(sa.text(statement), values).all()


def write(url: str, statement: str, **values: Any) -> None:
    with database(url) as connection:
        connection.execute(sa.text(statement), values)


@asynccontextmanager
async def held(url: str, *locks: str) -> AsyncIterator["Held"]:
    """Hold the locks that statements take, until released or left."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        for lock in locks:
            connection.execute(sa.text(lock))
        yield Held(url, connection)


async def together(url: str, commands: Sequence[Command], **settings: Any) -> list[Any]:
    """Apply commands in one batch, as a proxy of their own; return their answers or errors.

    ``settings`` are those of the connection.
    """
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=settings)
    writer = Writer(engine)
    try:
        return await asyncio.to_thread(writer.apply, commands)
    finally:
        writer.close()


class Held:
    def __init__(self, url: str, connection: sa.Connection) -> None:
        self._url = url
        self._connection = connection

    def release(self) -> None:
        self._connection.rollback()

    async def waiters(self, number: int) -> None:
        """Return when so many transactions wait for a lock."""
        statement = """
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0
        """
        async with asyncio.timeout(60):
            while query(self._url, statement)[0][0] < number:
                await asyncio.sleep(0.01)


def recount(url: str, study_id: int) -> Counts:
    """Counts from the trials themselves."""
    rows = query(
        url,
        """
        SELECT CASE WHEN t.state = 'FAIL' AND r.lost THEN 'LOST' ELSE t.state::text END, count(*)
        FROM trials t LEFT JOIN trialfleet_runs r USING (trial_id)
        WHERE t.study_id = :study_id GROUP BY 1
        """,
        study_id=study_id,
    )
    names = {"FAIL": "failed"}
    return Counts(**{names.get(state, state.lower()): number for state, number in rows})


async def give_up_silent(storage: Storage) -> GivenUp:
    """Give up all sessions whose life is a quarter over."""
    silent = tuple(await storage.silent_sessions())
    given_up: GivenUp = await storage.apply(GiveUp(names.REASON_KEEP_ALIVE, silent=silent))
    return given_up


def check(url: str, only: int | None = None) -> None:
    """Assert what must hold of every database, or of one study, whatever was done to it."""
    numbers = query(
        url,
        """
        SELECT trial_id FROM (SELECT trial_id, number, row_number() OVER (
            PARTITION BY study_id ORDER BY trial_id) - 1 AS expected FROM trials) AS t
        WHERE number IS DISTINCT FROM expected
        """,
    )
    assert numbers == [], "numbers are consecutive, in the order of ids"
    orphans = query(
        url,
        """
        SELECT trial_id FROM trials JOIN trialfleet_runs USING (trial_id)
        JOIN trialfleet_sessions USING (session_id)
        WHERE state = 'RUNNING' AND ended_at IS NOT NULL AND NOT taken_away
        """,
    )
    assert orphans == [], "no trial runs in a session that has ended"
    studies = {row[0] for row in query(url, "SELECT study_id FROM studies")}
    if only is not None:
        studies &= {only}
    for study_id in studies:
        rows = query(
            url,
            "SELECT sum(complete), sum(pruned), sum(failed), sum(running), sum(waiting), sum(lost) "
            "FROM trialfleet_counts WHERE study_id = :study_id",
            study_id=study_id,
        )
        assert Counts(*(int(n or 0) for n in rows[0])) == recount(url, study_id)
        lost = "SELECT coalesce(sum(trials), 0) FROM trialfleet_lost WHERE study_id = :study_id"
        assert query(url, lost, study_id=study_id)[0][0] == recount(url, study_id).lost
    check_best(url, studies)


def check_best(url: str, studies: Collection[int]) -> None:
    """Assert that the fronts are those that Optuna finds."""
    with stock(url) as storage:
        for frozen in storage.get_all_studies():
            if frozen._study_id not in studies:
                continue
            rows = query(
                url,
                "SELECT trial_id FROM trialfleet_best WHERE study_id = :study_id",
                study_id=frozen._study_id,
            )
            found = sorted(row[0] for row in rows)
            study = optuna.load_study(study_name=frozen.study_name, storage=storage)
            if len(frozen.directions) > 1:
                assert found == sorted(trial._trial_id for trial in study.best_trials)
                continue
            try:
                best = study.best_trial
            except ValueError:
                assert found == []
            else:
                values = [storage.get_trial(trial_id).values for trial_id in found]
                # Which of several equals is the best, Optuna leaves open.
                assert values == [best.values]


def counts_of(url: str) -> dict[str, int]:
    """Every table of the database with its number of rows."""
    with database(url) as connection:
        tables = sorted(sa.inspect(connection).get_table_names())
        return {
            table: connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()
            for table in tables
        }


def attributes(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {key: json.loads(text) for key, text in pairs}

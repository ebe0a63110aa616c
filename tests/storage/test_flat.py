"""What an operation costs does not grow with the trials of the study.

Counted in statements, and in blocks and rows visited, not in time: PostgreSQL says for every
transaction what it has touched, triggers included.
"""

import asyncio
import datetime
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg2.extensions
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from tests.storage.fleet import (
    FLOAT,
    MAXIMIZE,
    MINIMIZE,
    Worker,
    create,
    database,
    param,
    query,
    storages,
)
from trialfleet.model.budget import Budget, Goal
from trialfleet.model.session import SilentSession
from trialfleet.model.trial import TrialRecord, TrialUpdate
from trialfleet.storage import reading, standing
from trialfleet.storage.commands import (
    Command,
    CreateTrial,
    GiveUp,
    KeepAlive,
    SetStudyAttribute,
    WriteTrial,
)
from trialfleet.storage.sessions import read_silent
from trialfleet.storage.writer import Writer

FEW, MANY = 50, 20_000

FILL = [
    """
    INSERT INTO trials (study_id, number, state, datetime_start, datetime_complete)
    SELECT :study_id, n, 'COMPLETE', now(), now() FROM generate_series(0, :trials - 1) AS n
    """,
    """
    INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT trial_id, 'x' || k, 0.5, :distribution FROM trials, generate_series(1, 3) AS k
    WHERE study_id = :study_id
    """,
    """
    INSERT INTO trial_values (trial_id, objective, value, value_type)
    SELECT trial_id, o, random() + 1, 'FINITE' FROM trials, generate_series(0, :objectives - 1) AS o
    WHERE study_id = :study_id
    """,
    """
    INSERT INTO trialfleet_runs (trial_id, session_id, opened, sequence)
    SELECT trial_id, :session, number + 1, number + 1 FROM trials WHERE study_id = :study_id
    """,
    "UPDATE trials SET datetime_complete = now() WHERE study_id = :study_id AND number % 5 = 0",
]

VISITED = """
    SELECT sum(pg_stat_get_xact_blocks_fetched(oid))::int,
        sum(pg_stat_get_xact_tuples_returned(oid))::int
    FROM pg_class WHERE relnamespace = 'public'::regnamespace
"""


@dataclass
class Cost:
    statements: int = 0
    blocks: int = 0
    rows: int = 0


class Meter:
    """Says what one transaction costs, of a new connection or of one that is kept."""

    def __init__(self, url: str, *, keep: bool = False, claims: str = "on") -> None:
        meter = self

        class Cursor(psycopg2.extensions.cursor):
            def execute(self, query: Any, vars: Any = None) -> None:
                meter.cost.statements += str(query).count(";") + 1
                if str(query).endswith("; COMMIT"):
                    meter._look(super(), str(query).removesuffix("COMMIT"))
                    query = "COMMIT"
                super().execute(query, vars)

        options = {"options": f"-c trialfleet.claims={claims}", "cursor_factory": Cursor}
        pool = sa.StaticPool if keep else sa.NullPool
        self.engine = sa.create_engine(url, poolclass=pool, connect_args=options)
        self.cost = Cost()
        self._keep = keep
        self._writer = Writer(self.engine)

    def _look(self, cursor: Any, before: str = "") -> None:
        # What is left to the end of a transaction is part of its cost.
        cursor.execute(f"{before}SET CONSTRAINTS ALL IMMEDIATE; {VISITED}")
        self.cost.blocks, self.cost.rows = cursor.fetchone()

    def close(self) -> None:
        self._writer.close()
        self.engine.dispose()

    def write(self, *commands: Command) -> tuple[Cost, list[Any]]:
        self.cost = Cost()
        answers = self._writer.apply(commands)
        if not self._keep:
            self._writer.close()
        assert not any(isinstance(answer, Exception) for answer in answers)
        return self.cost, answers

    def read(self, read: Callable[[sa.Connection], Any]) -> Cost:
        self.cost = Cost()
        with self.engine.connect() as connection:
            read(connection)
            statements = self.cost.statements
            self._look(connection.connection.cursor())
            connection.commit()
        self.cost.statements = statements
        return self.cost


async def create_schema(url: str) -> None:
    async with storages(url, 1):
        pass


async def prepare(url: str, name: str, trials: int, objectives: int) -> Worker:
    """Make a study of many trials, all of them run by one worker."""
    async with storages(url, 1) as (storage,):
        directions = [MINIMIZE, MAXIMIZE][:objectives]
        budget = Budget(10**6, 10**6, 1e9, [Goal(0, -100.0)])
        study_id = await create(storage, name, directions, budget, retries=1)
        worker = await Worker(storage, study_id, name).start(name, 3600.0)
    worker._sequence = itertools.count(trials + 1)
    values = {
        "study_id": study_id,
        "trials": trials,
        "objectives": objectives,
        "distribution": FLOAT,
        "session": worker.session,
    }
    with database(url) as connection:
        for statement in FILL:
            connection.execute(sa.text(statement), values)
    return worker


def measure(url: str, worker: Worker, objectives: int) -> Iterator[tuple[str, Cost]]:
    meter = Meter(url)
    study_id = worker.study_id
    values = [0.0] * objectives
    steps: dict[str, Any] = {"intermediate_values": [(0, 1.0)]}

    cost, (trial,) = meter.write(worker.opening())
    yield "open", cost
    cost, trials = meter.write(*(worker.opening() for _ in range(10)))
    yield "open ten", cost
    params = [param(f"x{k}") for k in range(1, 4)]
    report = worker.telling(trial.trial_id, None, params=params, **steps)
    yield "report", meter.write(report)[0]
    report = worker.telling(trial.trial_id, None, params=[param("new")])
    yield "report of a new parameter", meter.write(report)[0]
    yield "tell", meter.write(worker.telling(trial.trial_id, values=values))[0]
    back = worker.telling(trials[0].trial_id, TrialState.WAITING)
    yield "hand back", meter.write(back)[0]
    yield "open a waiting one", meter.write(worker.opening())[0]
    yield "keep alive", meter.write(KeepAlive(worker.session))[0]
    template = TrialRecord(0, 0, TrialState.COMPLETE, values, params=params)
    yield "create", meter.write(CreateTrial(study_id, template, worker.write()))[0]
    update = TrialUpdate(trials[1].trial_id, user_attrs=[("k", "1")])
    yield "write", meter.write(WriteTrial(update))[0]
    attribute = SetStudyAttribute(study_id, "k", "1", True, worker.write())
    yield "study attribute", meter.write(attribute)[0]

    yield "summary", meter.read(lambda c: reading.read_summaries(c, [study_id], 5))
    yield "standing", meter.read(lambda c: standing.read_standings(c, [study_id]))
    yield "trial", meter.read(lambda c: reading.read_trials(c, [trial.trial_id]))
    yield "number", meter.read(lambda c: reading.read_trial_id(c, study_id, 7))
    since, running = trials[-2].trial_id, [trials[1].trial_id]
    yield "news", meter.read(lambda c: reading.read_trials_since(c, study_id, since, running, 99))

    yield "silent sessions", meter.read(read_silent)
    none = SilentSession(b"n" * 16, datetime.datetime.now(datetime.UTC), 60.0)
    yield "expired sessions", meter.write(GiveUp("KeepAliveExpired", silent=(none,)))[0]
    yield "give up", meter.write(GiveUp("Evicted", session=worker.session))[0]


def keep_statistics(url: str) -> None:
    """When they are made is what is tested; and the plans of a connection die with them."""
    with database(url) as connection:
        for table in ("trials", "trial_params", "trial_values", "trialfleet_runs"):
            connection.execute(sa.text(f"ALTER TABLE {table} SET (autovacuum_enabled = false)"))


def analyze(url: str) -> None:
    with database(url) as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))


@pytest.mark.parametrize(("analyzed", "objectives"), [("many", 1), ("few", 1), ("never", 2)])
def test_the_cost_of_every_operation(url: str, analyzed: str, objectives: int) -> None:
    """Also where PostgreSQL's statistics are from before the study grew, or there are none."""
    asyncio.run(create_schema(url))
    keep_statistics(url)
    few = asyncio.run(prepare(url, "few", FEW, objectives))
    small = dict(measure(url, few, objectives))
    if analyzed == "few":
        analyze(url)
    many = asyncio.run(prepare(url, "many", MANY, objectives))
    if analyzed == "many":
        analyze(url)
    for name, cost in measure(url, many, objectives):
        assert cost.statements == small[name].statements, name
        # An index of 400 times the size is one or two levels higher.
        assert cost.blocks <= 1.8 * small[name].blocks + 20, name
        assert cost.rows <= 2 * small[name].rows + 50, name


def test_plans_that_are_as_old_as_the_tables(url: str) -> None:
    """A connection keeps the plans that it made while there was next to nothing to plan for."""
    asyncio.run(create_schema(url))
    keep_statistics(url)
    meter = Meter(url, keep=True)
    few = asyncio.run(prepare(url, "few", FEW, 1))
    for _ in range(8):
        small = _tell_and_open_ten(meter, few)
    asyncio.run(prepare(url, "many", MANY, 1))
    cost = _tell_and_open_ten(meter, few)
    meter.close()
    assert cost.statements == small.statements
    assert cost.blocks <= 1.8 * small.blocks + 20
    assert cost.rows <= 2 * small.rows + 50


def _tell_and_open_ten(meter: Meter, worker: Worker) -> Cost:
    _, trials = meter.write(*(worker.opening() for _ in range(10)))
    tells = [worker.telling(trial.trial_id, values=[0.0]) for trial in trials]
    return meter.write(*tells, *(worker.opening() for _ in range(10)))[0]


@pytest.mark.parametrize("params", [1, 10])
def test_plans_of_a_stock_client_that_are_as_old(url: str, params: int) -> None:
    asyncio.run(create_schema(url))
    keep_statistics(url)
    meter = Meter(url, keep=True, claims="off")
    insert = sa.text(
        "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) "
        "SELECT :trial_id, 'y' || k, 0.5, :distribution FROM generate_series(1, :params) AS k"
    )
    costs = []
    for name, trials in (("few", FEW), ("many", MANY)):
        worker = asyncio.run(prepare(url, name, trials, 1))
        ((trial_id,),) = query(
            url, "SELECT max(trial_id) FROM trials WHERE study_id = :id", id=worker.study_id
        )
        values = {"trial_id": trial_id, "params": params, "distribution": FLOAT}
        costs.append(meter.read(functools.partial(_execute, insert, values)))
    meter.close()
    small, cost = costs
    assert cost.rows <= 2 * small.rows + 50


def _execute(statement: sa.TextClause, values: dict[str, Any], connection: sa.Connection) -> None:
    connection.execute(statement, values)

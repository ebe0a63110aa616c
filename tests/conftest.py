"""Fixtures of all tests: a real PostgreSQL server, and a fresh database in it."""

import os
import random
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from trialfleet.local.postgres import Postgres


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what a soak can be told."""
    group = parser.getgroup("soak")
    group.addoption(
        "--minutes", type=float, default=60, help="a soak lasts so long, all of fuzzing together"
    )
    group.addoption(
        "--seed", type=int, default=None, help="of a soak whose faults or inputs are to come again"
    )


@pytest.fixture
def soak_seed(pytestconfig: pytest.Config) -> int:
    """The number that faults and inputs of a soak follow from; printed."""
    given: int | None = pytestconfig.getoption("--seed")
    number = random.randrange(2**32) if given is None else given
    print(f"--seed {number}", flush=True)
    return number


@pytest.fixture
def soak_minutes(pytestconfig: pytest.Config) -> float:
    """How long a soak lasts."""
    minutes: float = pytestconfig.getoption("--minutes")
    return minutes


def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes run tests: they wait more than they compute."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """SQLAlchemy URL of a running PostgreSQL server's database ``postgres``.

    The server ends with this process, whatever ends it.
    """
    with (
        tempfile.TemporaryDirectory(prefix="tf-", dir="/tmp") as folder,
        Postgres(Path(folder), ephemeral=True) as postgres,
    ):
        yield postgres.url


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """SQLAlchemy URL of a fresh, empty database."""
    name = f"test_{uuid.uuid4().hex}"
    admin = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    try:
        url = sa.make_url(postgres_url).set(database=name)
        yield url.render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))

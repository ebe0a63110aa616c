"""Fixtures of the storage's tests: databases that are ready for use."""

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
import pytest
import sqlalchemy as sa

from tests.storage.fleet import database
from trialfleet.storage import Storage


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep Optuna from telling of every trial."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(verbosity)


def _url(postgres_url: str, name: str) -> str:
    return sa.make_url(postgres_url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def template(postgres_url: str) -> Iterator[str]:
    """Name of a prepared, empty database that nobody is connected to."""
    name = f"template_{uuid.uuid4().hex}"

    async def prepare() -> None:
        async with Storage(_url(postgres_url, name)):
            pass

    with database(postgres_url) as admin:
        admin.execute(sa.text(f"CREATE DATABASE {name}"))
        asyncio.run(prepare())
        yield name
        admin.execute(sa.text(f"DROP DATABASE {name}"))


@contextmanager
def copied_database(postgres_url: str, template: str) -> Iterator[str]:
    """A copy of a database that nobody is connected to, for as long as it is used."""
    name = f"test_{uuid.uuid4().hex}"
    with database(postgres_url) as admin:
        admin.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        yield _url(postgres_url, name)
        admin.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def url(postgres_url: str, template: str) -> Iterator[str]:
    """SQLAlchemy URL of a prepared, empty database of the test's own."""
    with copied_database(postgres_url, template) as url:
        yield url


@pytest.fixture(scope="module")
def shared_url(postgres_url: str, template: str) -> Iterator[str]:
    """SQLAlchemy URL of a prepared database that the tests of a module share."""
    with copied_database(postgres_url, template) as url:
        yield url

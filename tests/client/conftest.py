"""Fixtures of the client's tests: proxies in memory, and real ones on a real database."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import sqlalchemy as sa

from tests.client.fake import FakeProxy
from tests.client.proxies import Proxy
from trialfleet.client import FleetStorage


@pytest.fixture
def start_fake() -> Iterator[Callable[..., FakeProxy]]:
    """Start a proxy in memory, on a database in memory if one is given."""
    with ExitStack() as stack:

        def start(*args: Any, **kwargs: Any) -> FakeProxy:
            fake = FakeProxy(*args, **kwargs)
            stack.callback(fake.stop)
            return fake

        yield start


@pytest.fixture
def fake(start_fake: Callable[..., FakeProxy]) -> FakeProxy:
    """A proxy in memory."""
    return start_fake()


@pytest.fixture
def connect() -> Iterator[Callable[..., FleetStorage]]:
    """Make a storage object that is closed after the test."""
    with ExitStack() as stack:

        def make(*proxies: FakeProxy | Proxy, **options: Any) -> FleetStorage:
            storage = FleetStorage(
                [proxy.address for proxy in proxies], **{"patience_s": 20.0} | options
            )
            stack.callback(storage.close)
            return storage

        yield make


@pytest.fixture
def storage(fake: FakeProxy, connect: Callable[..., FleetStorage]) -> FleetStorage:
    """A storage object over a proxy in memory."""
    return connect(fake)


@pytest.fixture(scope="module")
def proxies(postgres_url: str) -> Iterator[list[Proxy]]:
    """Two proxies on one database that all tests of a module share."""
    name = f"test_{uuid.uuid4().hex}"
    admin = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    url = sa.make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    started: list[Proxy] = []
    try:
        for _ in range(2):
            started.append(Proxy(url))
        yield started
    finally:
        for proxy in started:
            proxy.stop()
        with admin.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))

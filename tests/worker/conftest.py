"""Fixtures of the worker's tests: a proxy on a database, a client, and worker processes."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.client.proxies import Proxy
from tests.worker.fleet import Study, Worker
from trialfleet.client import FleetStorage


@pytest.fixture(scope="session")
def proxy(postgres_url: str) -> Iterator[Proxy]:
    """A proxy that all tests share, each with a study of its own."""
    name = f"worker_{uuid.uuid4().hex}"
    admin = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    url = sa.make_url(postgres_url).set(database=name)
    running = Proxy(url.render_as_string(hide_password=False))
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def storage(proxy: Proxy) -> Iterator[FleetStorage]:
    """A client that is no worker."""
    client = FleetStorage(proxy.address)
    yield client
    client.close()


@pytest.fixture
def make_study(storage: FleetStorage, tmp_path: Path) -> Callable[..., Study]:
    """Make a study of an objective."""
    return partial(Study, storage, tmp_path)


@pytest.fixture
def start_worker(proxy: Proxy, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start a worker of a study with arguments."""
    with ExitStack() as stack:

        def start(
            study: Study | None, *arguments: str, address: str = "", **environment: str
        ) -> Worker:
            log = tmp_path / "worker.log"
            worker = Worker(study, address or proxy.address, log, *arguments, **environment)
            stack.callback(worker.end)
            return worker

        yield start

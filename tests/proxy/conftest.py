"""Fixtures of the proxy's tests: a proxy in this process, and one as a process of its own."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.running import TIMEOUT_S, Process, Running, Session
from trialfleet.wire.v1 import trialfleet_pb2 as pb
from trialfleet.wire.v1.trialfleet_pb2_grpc import TrialFleetStub


@pytest.fixture
def start_proxy() -> Iterator[Callable[..., Running]]:
    """Start a proxy for a URL with options; it serves when this returns, unless told not to."""
    with ExitStack() as stack:

        def start(url: str, *, wait: bool = True, **options: Any) -> Running:
            running = Running(url, **options)
            stack.callback(running.stop)
            if wait:
                assert running.connected.wait(TIMEOUT_S)
            return running

        yield start


@pytest.fixture
def proxy(start_proxy: Callable[..., Running], database_url: str) -> Running:
    """A serving proxy on a fresh database."""
    return start_proxy(database_url)


@pytest.fixture
def stub(proxy: Running) -> TrialFleetStub:
    """A client of a serving proxy on a fresh database."""
    return proxy.stub


@pytest.fixture
def study(stub: TrialFleetStub) -> int:
    """The id of a study named ``study`` without a budget."""
    request = pb.EnsureStudyRequest(name="study", directions=[pb.MINIMIZE])
    return stub.EnsureStudy(request).study_id


@pytest.fixture
def session(stub: TrialFleetStub, study: int) -> Session:
    """A session of the study ``study``."""
    return Session(stub, "study")


@pytest.fixture
def start_process() -> Iterator[Callable[..., Process]]:
    """Start ``trialfleet proxy`` with arguments."""
    with ExitStack() as stack:

        def start(*arguments: str, **environment: str) -> Process:
            process = Process(*arguments, **environment)

            def end() -> None:
                if process.popen.poll() is None:
                    process.popen.kill()
                process.popen.communicate()

            stack.callback(end)
            return process

        yield start


@pytest.fixture
def postgres_folder() -> Iterator[Path]:
    """The folder of a PostgreSQL server of the test's own; a short path, for its socket."""
    with tempfile.TemporaryDirectory(prefix="tf-", dir="/tmp") as folder:
        yield Path(folder)

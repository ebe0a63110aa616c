"""A proxy that stops finishes what is under way, and stays no longer than its grace."""

import signal
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest
import sqlalchemy as sa

from tests.proxy.running import TIMEOUT_S, Process, Session, eventually, free_port
from trialfleet.wire.v1 import trialfleet_pb2 as pb
from trialfleet.wire.v1.trialfleet_pb2_grpc import TrialFleetStub


@contextmanager
def locked(url: str) -> Iterator[sa.Connection]:
    """Let nobody read or write studies until the connection's transaction ends."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text("LOCK TABLE studies IN ACCESS EXCLUSIVE MODE"))
        yield connection


@pytest.fixture
def metrics_port() -> int:
    return free_port()


@pytest.fixture
def process(start_process: Callable[..., Process], database_url: str, metrics_port: int) -> Process:
    return start_process(
        *("--storage", database_url, "--listen", "127.0.0.1:0"),
        *("--metrics", f"127.0.0.1:{metrics_port}", "--grace", "5"),
    )


def waiting_calls(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        (line,) = (
            line
            for line in page.read().decode().splitlines()
            if line.startswith("trialfleet_proxy_waiting_calls ")
        )
    return int(float(line.split()[1]))


def refuses(channel: grpc.Channel) -> bool:
    """Whether a new call is refused."""
    try:
        TrialFleetStub(channel).ListStudies(pb.ListStudiesRequest(), timeout=1)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code == grpc.StatusCode.UNAVAILABLE
    return False


def test_calls_in_flight_are_finished(
    process: Process, database_url: str, metrics_port: int
) -> None:
    with grpc.insecure_channel(process.listening()) as channel:
        stub = TrialFleetStub(channel)
        stub.EnsureStudy(
            pb.EnsureStudyRequest(name="s", directions=[pb.MINIMIZE], budget=pb.Budget(trials=1))
        )
        session = Session(stub, "s")
        session.open_trial()
        request = pb.AskRequest(write=session.write(), study_id=session.study_id, wait_ms=10_000)
        parked = stub.Ask.future(request)
        eventually(lambda: waiting_calls(metrics_port) == 1)
        attribute = pb.SetStudyAttributeRequest(
            write=Session(stub).write(),
            study_id=session.study_id,
            attribute=pb.Attribute(key="k", value_json="1"),
        )
        with locked(database_url) as lock:
            write = stub.SetStudyAttribute.future(attribute)
            eventually(lambda: waiting_calls(metrics_port) == 2)
            process.popen.send_signal(signal.SIGTERM)
            # Closed to new calls while the write goes on.
            eventually(lambda: refuses(channel))
            assert not write.done()
            lock.rollback()
            write.result(TIMEOUT_S)
        assert parked.result(TIMEOUT_S).WhichOneof("outcome") == "wait"
    code, _, log = process.result()
    assert code == 0, log
    assert "Traceback" not in log
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        query = sa.text("SELECT value_json FROM study_user_attributes")
        assert connection.execute(query).scalars().all() == ["1"]


def test_a_database_that_hangs_does_not_hold_the_process(
    start_process: Callable[..., Process], database_url: str, metrics_port: int
) -> None:
    process = start_process(
        *("--storage", database_url, "--listen", "127.0.0.1:0", "--grace", "0.2"),
        *("--metrics", f"127.0.0.1:{metrics_port}", "--log-format", "json"),
    )
    with grpc.insecure_channel(process.listening()) as channel, locked(database_url):
        stub = TrialFleetStub(channel)
        ensure = pb.EnsureStudyRequest(name="s", directions=[pb.MINIMIZE])
        stuck = stub.EnsureStudy.future(ensure)
        eventually(lambda: waiting_calls(metrics_port) == 1)
        process.popen.send_signal(signal.SIGTERM)
        code, _, log = process.result()
        assert code == 1
        assert "not stopped within the grace; leaving at once" in log
        with pytest.raises(grpc.RpcError) as caught:
            stuck.result(TIMEOUT_S)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_while_the_database_is_away(
    start_process: Callable[..., Process], number: signal.Signals
) -> None:
    process = start_process(
        *("--storage", "postgresql+psycopg2://u@127.0.0.1:1/x", "--listen", "127.0.0.1:0")
    )
    process.logged("database away")
    process.popen.send_signal(number)
    code, out, _ = process.result()
    assert (code, out) == (0, "")

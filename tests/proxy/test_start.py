"""What a proxy says when it can't start, and what it keeps to itself."""

import json
from collections.abc import Callable

import grpc
import pytest
import sqlalchemy as sa
from optuna.storages import RDBStorage

from tests.proxy.running import Process, Running
from trialfleet import names
from trialfleet.model import errors
from trialfleet.proxy.ports import Address
from trialfleet.wire.v1 import trialfleet_pb2 as pb
from trialfleet.wire.v1.trialfleet_pb2_grpc import TrialFleetStub

AWAY = "postgresql+psycopg2://user:s3cret@127.0.0.1:1/database"


def test_it_listens_where_it_says(start_process: Callable[..., Process], database_url: str) -> None:
    process = start_process("--listen", "127.0.0.1:0", **{names.ENV_STORAGE_URL: database_url})
    with grpc.insecure_channel(process.listening()) as channel:
        assert not TrialFleetStub(channel).ListStudies(pb.ListStudiesRequest()).studies


def test_a_port_that_is_taken(start_process: Callable[..., Process], proxy: Running) -> None:
    process = start_process("--storage", AWAY, "--listen", proxy.target)
    code, out, err = process.result()
    assert code == errors.EXIT_INVALID
    assert out == ""
    assert err == (
        f"listen: {proxy.target} can't be bound (Address already in use), "
        f"accepted: a free port, or port 0\n"
    )


def test_a_metrics_port_that_is_taken(
    start_process: Callable[..., Process], proxy: Running
) -> None:
    process = start_process("--storage", AWAY, "--listen", "127.0.0.1:0", "--metrics", proxy.target)
    code, _, err = process.result()
    assert code == errors.EXIT_INVALID
    assert err == (
        f"metrics: {proxy.target} can't be bound (Address already in use), "
        f"accepted: a free port, or port 0\n"
    )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "storage: found none, accepted: the database's URL"),
        ("nonsense", "storage: found a text that is no URL"),
        ("sqlite:///:memory:", "storage: found a sqlite database"),
        ("mysql://user:s3cret@host/db", "storage: found a mysql database"),
    ],
)
def test_a_url_that_can_not_be_used(
    start_process: Callable[..., Process], url: str, message: str
) -> None:
    process = start_process("--storage", url, "--listen", "127.0.0.1:0")
    code, out, err = process.result()
    assert (code, out) == (errors.EXIT_INVALID, "")
    assert err.startswith(message) and err.count("\n") == 1
    assert "s3cret" not in err


@pytest.mark.parametrize(
    "text", ["", "localhost", "localhost:", ":13000", "localhost:x", "host:65536", "host:-1"]
)
def test_an_address_that_is_none(text: str) -> None:
    with pytest.raises(errors.InvalidInput, match=f"^listen: found '{text}', accepted: HOST:PORT"):
        Address.parse(text, "listen")


@pytest.mark.parametrize(
    ("text", "address"),
    [("localhost:0", ("localhost", 0)), ("[::1]:13000", ("::1", 13000)), ("a.b:1", ("a.b", 1))],
)
def test_an_address(text: str, address: tuple[str, int]) -> None:
    parsed = Address.parse(text, "listen")
    assert parsed == address
    assert str(parsed) == text


def test_a_database_of_another_version_is_left_alone(
    start_process: Callable[..., Process], database_url: str
) -> None:
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)
    RDBStorage(database_url).engine.dispose()
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'v99.0.0'"))
    before = set(sa.inspect(engine).get_table_names())
    process = start_process("--storage", database_url, "--listen", "127.0.0.1:0")
    code, out, err = process.result()
    assert (code, out) == (errors.EXIT_INVALID, "")
    assert err.splitlines()[-1].startswith("the database has revision v99.0.0 of Optuna's schema")
    assert "Traceback" not in err
    assert set(sa.inspect(engine).get_table_names()) == before


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_password_is_never_logged(start_process: Callable[..., Process], form: str) -> None:
    process = start_process("--storage", AWAY, "--listen", "127.0.0.1:0", "--log-format", form)
    lines = process.logged("database away")
    process.popen.terminate()
    lines += process.result()[2]
    assert "s3cret" not in lines
    for line in lines.splitlines():
        if form == "json":
            assert {"time", "level", "logger", "event"} <= json.loads(line).keys()
        else:
            assert line.startswith("time=")

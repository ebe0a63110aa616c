"""A proxy serves the database that held the trials before, and no other one."""

import uuid
from collections.abc import Callable

import grpc
import pytest
import sqlalchemy as sa

from tests.proxy.running import TIMEOUT_S, Running, eventually
from trialfleet.wire.v1 import trialfleet_pb2 as pb

Start = Callable[..., Running]

LIST = pb.ListStudiesRequest()


def execute(url: str, statement: str) -> None:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(statement))


def tables(url: str) -> list[str]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    return sa.inspect(engine).get_table_names()


def trouble(proxy: Running) -> str:
    """Return what a read is refused with; empty if it is not."""
    return refusal(lambda: proxy.stub.ListStudies(LIST))


def refusal(call: Callable[[], object]) -> str:
    """Return what a call is refused with; empty if it is not."""
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        return str(error.details())
    return ""


def test_its_identity_is_told(start_proxy: Start, database_url: str) -> None:
    first, second = (start_proxy(database_url) for _ in range(2))
    told = first.stub.ListStudies(LIST).identity
    assert str(uuid.UUID(told)) == told
    assert second.stub.ListStudies(LIST).identity == told
    assert start_proxy(database_url, identity=told).stub.ListStudies(LIST).identity == told


def test_an_empty_database_is_not_taken_for_the_one_of_before(
    start_proxy: Start, database_url: str
) -> None:
    """No table is made in it until the loss is accepted."""
    lost = str(uuid.uuid4())
    proxy = start_proxy(database_url, wait=False, identity=lost)
    eventually(lambda: trouble(proxy).startswith("DataLost: the database is empty"))
    assert lost in trouble(proxy)
    assert tables(database_url) == []
    other = start_proxy(database_url, wait=False, identity=lost, accept_data_loss="another")
    eventually(lambda: trouble(other).startswith("DataLost"))
    accepted = start_proxy(database_url, identity=lost, accept_data_loss=lost)
    told = accepted.stub.ListStudies(LIST).identity
    assert told not in ("", lost)
    eventually(lambda: trouble(proxy).startswith(f"DataLost: the database is another one, {told}"))


@pytest.mark.parametrize(
    ("harm", "mend"),
    [
        (
            "ALTER TABLE trialfleet_storage RENAME TO away",
            "ALTER TABLE away RENAME TO trialfleet_storage",
        ),
        ("ALTER SCHEMA public RENAME TO away", "ALTER SCHEMA away RENAME TO public"),
    ],
)
def test_one_that_changes_while_it_is_served_is_not_served_any_more(
    start_proxy: Start, database_url: str, harm: str, mend: str
) -> None:
    proxy = start_proxy(database_url, check_interval_s=0.05)
    ensure = pb.EnsureStudyRequest(name="s", directions=[pb.MINIMIZE])
    proxy.stub.EnsureStudy(ensure)
    execute(database_url, harm)
    eventually(lambda: trouble(proxy).startswith("DataLost: the database is empty"))
    # What is on a connection that was there already is refused when the proxy has looked itself.
    eventually(lambda: refusal(lambda: proxy.stub.EnsureStudy(ensure)).startswith("DataLost"))
    execute(database_url, mend)
    eventually(lambda: trouble(proxy) == "")
    assert not proxy.stub.EnsureStudy(ensure).created


def test_a_new_connection_is_to_the_same_database(start_proxy: Start, database_url: str) -> None:
    """Between two looks of the proxy, nothing is written to another database."""
    proxy = start_proxy(database_url, check_interval_s=3600)
    assert proxy.connected.wait(TIMEOUT_S)
    execute(database_url, "UPDATE trialfleet_storage SET identity = gen_random_uuid()")
    execute(
        database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    told: list[str] = []

    def refused() -> bool:
        with pytest.raises(grpc.RpcError) as caught:
            proxy.stub.EnsureStudy(pb.EnsureStudyRequest(name="s", directions=[pb.MINIMIZE]))
        told.append(str(caught.value.details()))
        return "DataLost: the database is another one" in told[-1]

    # The first call may hear that its connection was cut.
    eventually(refused)
    assert len(told) <= 2

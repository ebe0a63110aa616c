"""Messages that are sent, and asked for, for harm."""

import collections
import contextlib
import os
import socket
import time
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.proxy.running import TIMEOUT_S
from tests.security.doors import MIB, STUDY, Doors, Worker
from trialfleet import names
from trialfleet.proxy.health import MOST_CALLS
from trialfleet.wire.v1 import trialfleet_pb2 as pb
from trialfleet.wire.v1.trialfleet_pb2_grpc import TrialFleetStub

LIMIT = 512
"""MiB, of a proxy's pod."""


def tell(size: int, **fields: Any) -> pb.TellRequest:
    attribute = pb.Attribute(key="k", value_json=f'"{"x" * size}"')
    return pb.TellRequest(
        update=pb.TrialUpdate(trial_id=1, user_attrs=[attribute]), state=pb.COMPLETE, **fields
    )


def codes(calls: list[Any]) -> collections.Counter[str]:
    return collections.Counter(
        "OK" if call.exception(TIMEOUT_S) is None else call.code().name for call in calls
    )


@pytest.mark.parametrize("known", [False, True])
def test_large_messages_at_once(doors: Doors, known: bool) -> None:
    """Of 3 MiB each, with a token that is good and with none."""
    token = doors.token if known else None
    message = tell(3 * MIB)
    with Worker(doors) as worker:
        stubs = [TrialFleetStub(doors.channel()) for _ in range(4)]
        calls = [
            stubs[number % 4].Tell.future(message, metadata=token, timeout=TIMEOUT_S)
            for number in range(100)
        ]
        found = codes(calls)
    expected = {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"} if known else {"UNAUTHENTICATED"}
    assert set(found) <= expected
    assert not worker.failures
    # 125 without them: a message that was refused is not kept.
    assert doors.memory < LIMIT / 2


def test_a_message_over_the_bound(doors: Doors) -> None:
    began = time.monotonic()
    call = doors.stub.Tell.future(tell(60 * MIB), metadata=doors.token, timeout=TIMEOUT_S)
    assert codes([call]) == {"RESOURCE_EXHAUSTED": 1}
    assert f"larger than max ({60 * MIB}"[:20] in call.details()
    assert str(names.MAX_MESSAGE_BYTES) in call.details()
    assert time.monotonic() - began < 10
    assert doors.memory < LIMIT


def test_one_trial_a_thousand_times(doors: Doors) -> None:
    session, token = os.urandom(16), doors.token
    opening = pb.OpenSessionRequest(session=session, worker="w", study=STUDY, time_to_live_s=60)
    doors.stub.OpenSession(opening, metadata=token)
    trials = []
    for number in range(3):
        asked = doors.stub.Ask(
            pb.AskRequest(
                write=pb.WriteId(session=session, sequence=2 * number + 1), study_id=doors.study_id
            ),
            metadata=token,
        )
        trials.append(pb.Trial.FromString(asked.trial.trials[0]))
        write = pb.WriteId(session=session, sequence=2 * number + 2)
        message = tell(3 * MIB, write=write, values=[1.0])
        message.update.trial_id = trials[-1].trial_id
        doors.stub.Tell(message, metadata=token)
    ids = [trial.trial_id for trial in trials]
    for request, number in (
        (pb.GetTrialsRequest(trial_ids=ids[:1] * 1000), 1),
        (pb.GetTrialsRequest(study_id=doors.study_id, numbers=[0] * 1000), 1),
        # Of three trials one fits beside the first, or none.
        (pb.GetTrialsRequest(trial_ids=ids), 1),
    ):
        reply = doors.stub.GetTrials(request, metadata=token, timeout=TIMEOUT_S)
        assert len(reply.trials.trials) == number
    summary = pb.SummaryRequest(study_id=doors.study_id, best=3)
    assert doors.stub.Summary(summary, metadata=token).ByteSize() < 1024
    assert doors.memory < LIMIT


def test_health_checks_take_no_places(doors: Doors) -> None:
    health: Any = HealthStub
    stubs = [health(doors.channel()) for _ in range(10)]
    with Worker(doors) as worker:
        watches = [
            stubs[number % 10].Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
            for number in range(500)
        ]
        eventually_ended = TIMEOUT_S + time.monotonic()
        while sum(watch.done() for watch in watches) < len(watches) - MOST_CALLS:
            assert time.monotonic() < eventually_ended
            time.sleep(0.01)
        assert {watch.code() for watch in watches if watch.done()} == {
            grpc.StatusCode.RESOURCE_EXHAUSTED
        }
        for watch in watches:
            watch.cancel()
    assert not worker.failures


def test_malformed_calls_cost_no_lines_in_the_log(doors: Doors) -> None:
    channel, large = doors.channel(), b"x" * (5 * MIB)
    ours, health = "/trialfleet.v1.TrialFleet/", "/grpc.health.v1.Health/"
    kinds: list[tuple[str, list[bytes], set[str]]] = [
        (f"{ours}Ask", [b"\xff\xfe"], {"INVALID_ARGUMENT"}),
        (f"{ours}Ask", [], {"INVALID_ARGUMENT"}),
        (f"{ours}Tell", [large], {"RESOURCE_EXHAUSTED"}),
        (f"{ours}Work", [large], {"RESOURCE_EXHAUSTED"}),
        (f"{ours}Work", [b"\xff\xfe"], {"OK"}),  # the reply to it is a refusal
        (f"{ours}Work", [], {"OK"}),
        (f"{ours}None", [b""], {"UNIMPLEMENTED"}),
        (f"{health}Check", [large], {"RESOURCE_EXHAUSTED", "OK"}),
    ]
    for method, messages, expected in kinds:
        found = set()
        for _ in range(5):
            call = channel.stream_stream(method)(
                iter(messages), metadata=doors.token, timeout=TIMEOUT_S
            )
            with contextlib.suppress(grpc.RpcError):
                list(call)
            found.add(call.code().name)
        assert found <= expected, method
    for raw in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100):
        for _ in range(5):
            with doors.connect() as connection:
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionError):
                    connection.recv(1)
    doors.process.popen.terminate()
    code, _, log = doors.process.result()
    assert code == 0
    assert "Traceback" not in log
    assert [line for line in log.splitlines() if "level=info" not in line] == []

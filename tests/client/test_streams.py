"""A worker's calls over a stream: one is enough, and whatever ends it loses nothing."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import hpack
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from tests.client.fake import FakeProxy
from tests.client.peer import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    Peer,
    frame,
    number,
)
from trialfleet.client import FleetStorage
from trialfleet.client.calls import TELL
from trialfleet.client.credentials import Credentials
from trialfleet.client.endpoint import ChannelClosed, Endpoint
from trialfleet.client.http2 import Exchange
from trialfleet.client.stream import StreamEnded
from trialfleet.wire.v1 import trialfleet_pb2 as pb

MINIMIZE = [StudyDirection.MINIMIZE]
DEADLINE_S = 10.0

Connect = Callable[..., FleetStorage]


def _run(storage: FleetStorage, study_id: int, value: float = 1.0) -> None:
    trial_id = storage.ask(study_id) or 0
    storage.set_trial_param(trial_id, "x", 0.5, FloatDistribution(0, 1))
    assert storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [value])


def _values(fake: FakeProxy) -> list[float]:
    return [trial.values[0] for trial in fake.database.trials.values()]


def test_all_calls_of_a_worker_go_over_one_stream(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    for value in range(5):
        _run(storage, study_id, value)
    assert _values(fake) == [0, 1, 2, 3, 4]
    assert fake.counts()["Tell"] == 5
    assert fake.counts()["Report"] == 1  # it introduces the parameter
    assert fake.streams == 1


def test_threads_have_streams_of_their_own(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    _run(storage, study_id)
    first, second = storage.ask(study_id) or 0, storage.ask(study_id) or 0
    go_on = threading.Event()
    fake.hold("Tell", go_on)
    held = threading.Thread(
        target=storage.set_trial_state_values, args=(first, TrialState.COMPLETE, [2.0])
    )
    held.start()
    fake.wait_for("Tell", 2)
    assert storage.set_trial_state_values(second, TrialState.COMPLETE, [3.0])
    go_on.set()
    held.join()
    assert _values(fake) == [1, 2, 3]
    assert fake.streams == 2
    _run(storage, study_id)
    assert fake.streams == 2


def test_a_stream_that_ended_while_idle_is_replaced_at_the_same_proxy(
    start_fake: Callable[..., FakeProxy], connect: Connect
) -> None:
    near, far = start_fake(), start_fake()
    far.database = near.database
    storage = connect(near, far)
    study_id = storage.create_new_study(MINIMIZE)
    _run(storage, study_id)
    near.stop()
    again = start_fake(near.database, near.port)
    _run(storage, study_id)
    assert again.counts()["Tell"] == 1
    assert not far.calls


def test_an_answer_that_is_lost_with_its_stream(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    _run(storage, study_id, 1)
    fake.lose_answer("Tell")
    _run(storage, study_id, 2)
    first, second = (request.write for request in fake.requests("Tell")[-2:])
    assert first == second
    assert _values(fake) == [1, 2]
    assert fake.database.finished == [101, 102]


def test_an_error_ends_the_call_as_it_would_alone(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    trial_id = storage.ask(study_id) or 0
    fake.refuse("Tell", grpc.StatusCode.INVALID_ARGUMENT, details="values: found none")
    with pytest.raises(ValueError, match=r"^values: found none$"):
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    assert storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])


def _tell(trial_id: int) -> bytes:
    write = pb.WriteId(session=b"s" * 16, sequence=1)
    update = pb.TrialUpdate(trial_id=trial_id)
    return pb.TellRequest(write=write, update=update, state=pb.COMPLETE).SerializeToString()


@pytest.fixture
def proxy(fake: FakeProxy) -> Endpoint:
    """An endpoint, and a trial of the session of ``_tell``."""
    fake.database.sessions[b"s" * 16] = True
    fake._open(b"s" * 16)
    return Endpoint(fake.address, Credentials("", "", ""))


def test_a_proxy_that_does_not_answer(fake: FakeProxy, proxy: Endpoint) -> None:
    go_on = threading.Event()
    fake.hold("Tell", go_on)
    with pytest.raises(grpc.RpcError) as caught:
        proxy.call(TELL, _tell(101), 0.2)
    go_on.set()
    assert isinstance(caught.value, StreamEnded)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    proxy.call(TELL, _tell(101), DEADLINE_S)
    proxy.disconnect()


def test_each_call_has_a_deadline_of_its_own(fake: FakeProxy, proxy: Endpoint) -> None:
    for deadline_s in (DEADLINE_S, 2 * DEADLINE_S, DEADLINE_S / 2):
        proxy.call(TELL, _tell(101), deadline_s)
        assert fake.streams == 1
    proxy.disconnect()


def test_a_channel_that_is_closed_in_the_middle_of_a_call(fake: FakeProxy, proxy: Endpoint) -> None:
    go_on = threading.Event()
    fake.hold("Tell", go_on)
    found: list[BaseException] = []

    def call() -> None:
        try:
            proxy.call(TELL, _tell(101), DEADLINE_S)
        except (grpc.RpcError, ChannelClosed) as error:
            found.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    fake.wait_for("Tell")
    proxy.disconnect()
    thread.join()
    go_on.set()
    (error,) = found
    assert isinstance(error, ChannelClosed) or error.code() == grpc.StatusCode.CANCELLED  # type: ignore[attr-defined]


def test_an_interrupt_in_the_middle_of_a_call(
    fake: FakeProxy, proxy: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.call(TELL, _tell(101), DEADLINE_S)
    with monkeypatch.context() as patch:

        def interrupt(_: Exchange) -> None:
            raise KeyboardInterrupt

        # Ctrl-C, while the answer is awaited.
        patch.setattr(Exchange, "receive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            proxy.call(TELL, _tell(101), DEADLINE_S)
    # The answer to the request that was interrupted is not taken for that to the next.
    proxy.call(TELL, _tell(101), DEADLINE_S)
    assert fake.streams == 2
    proxy.disconnect()


def test_a_request_that_is_larger_than_any_window(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    trial_id = storage.ask(study_id) or 0
    text = "x" * 4_000_000
    storage.set_trial_user_attr(trial_id, "k", text)
    assert storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    (request,) = fake.requests("Tell")
    assert json.loads(request.update.user_attrs[0].value_json) == text


@contextmanager
def _answering(*frames: bytes) -> Iterator[Endpoint]:
    """Yield an endpoint where the first connection gets an answer of such frames."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connected, _ = server.accept()
            peer = Peer(connected)
            peer.preface()
            peer.skip(DATA)
            peer.send(*frames)
            peer.close()

        thread = threading.Thread(target=answer)
        thread.start()
        proxy = Endpoint(f"127.0.0.1:{server.getsockname()[1]}", Credentials("", "", ""))
        yield proxy
        proxy.disconnect()
        thread.join()


def _headers(*pairs: tuple[str, str], flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, flags, 1, hpack.Encoder().encode(pairs))


@pytest.mark.parametrize(
    ("frames", "code", "details"),
    [
        (
            [_headers((":status", "503"), flags=END_HEADERS | END_STREAM)],
            grpc.StatusCode.UNAVAILABLE,
            "found HTTP status 503, expected gRPC",
        ),
        (
            [
                _headers(
                    ("grpc-status", "3"),
                    ("grpc-message", "10%25%0A"),
                    flags=END_HEADERS | END_STREAM,
                )
            ],
            grpc.StatusCode.INVALID_ARGUMENT,
            "10%\n",
        ),
        (
            [_headers(("grpc-status", "0"), flags=END_HEADERS | END_STREAM)],
            grpc.StatusCode.INTERNAL,
            "the stream ended without an answer",
        ),
        (
            [_headers(("grpc-status", "99"), flags=END_HEADERS | END_STREAM)],
            grpc.StatusCode.UNKNOWN,
            "",
        ),
        (
            [frame(RST_STREAM, 0, 1, number(7))],
            grpc.StatusCode.UNAVAILABLE,
            "the stream was reset with code 7",
        ),
        (
            [_headers((":status", "200")), frame(DATA, 0, 1, b"\1\0\0\0\1x")],
            grpc.StatusCode.INTERNAL,
            "found a compressed message, expected a plain one",
        ),
        (
            # The number 2, field 15, and no answer.
            [_headers((":status", "200")), frame(DATA, 0, 1, b"\0\0\0\0\2\x78\2")],
            grpc.StatusCode.INTERNAL,
            "found the answer to request 2, expected 1",
        ),
        (
            [_headers((":status", "200")), frame(DATA, 0, 1, b"\0\0\0\0\2\x78\1")],
            grpc.StatusCode.INTERNAL,
            "found an answer to None, expected one to tell",
        ),
        (
            [_headers((":status", "200")), frame(DATA, 0, 1, b"\0\0\0\0\2x")],
            grpc.StatusCode.UNAVAILABLE,
            "the other end closed the connection",
        ),
    ],
)
def test_an_answer_that_is_none(frames: list[bytes], code: grpc.StatusCode, details: str) -> None:
    with _answering(*frames) as proxy, pytest.raises(StreamEnded) as caught:
        proxy.call(TELL, b"", DEADLINE_S)
    assert (caught.value.code(), caught.value.details()) == (code, details)

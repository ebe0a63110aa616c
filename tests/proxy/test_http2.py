"""HTTP/2 connections as our own server keeps them: windows, floods, and how they end."""

import socket
import threading
from collections.abc import Iterator

import grpc
import pytest
from h2 import events
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from tests.proxy.running import TIMEOUT_S, eventually
from tests.proxy.serving import DEAF, ECHO, PARK, Client, Serving, framed
from trialfleet import names
from trialfleet.proxy import http2
from trialfleet.proxy.rpc import Call, Refused

Code = grpc.StatusCode

POUR = "/test.Test/Pour"
REFUSE = "/test.Test/Refuse"
OTHER = "/test.Test/Other"
KIB, MIB = 1024, 1024 * 1024
LARGEST_WINDOW = 2**31 - 1


class Pour:
    """A method that writes as many messages as the request says, each of 64 KiB."""

    def __init__(self) -> None:
        self.written = 0
        self.cancelled = threading.Event()

    async def __call__(self, call: Call) -> None:
        try:
            for _ in range(int(await call.read() or b"")):
                await call.write(b"x" * (64 * KIB))
                self.written += 1
        finally:
            self.cancelled.set()


async def refuse(call: Call) -> None:
    raise Refused(Code.NOT_FOUND, (await call.read() or b"").decode())


@pytest.fixture
def pour() -> Pour:
    return Pour()


@pytest.fixture
def serving(pour: Pour) -> Iterator[Serving]:
    with Serving({POUR: pour, REFUSE: refuse}, send_buffer=64 * KIB) as serving:
        yield serving


@pytest.fixture
def client(serving: Serving) -> Client:
    return serving.client()


def serves(client: Client) -> bool:
    return client.reply(client.request(body=framed(b"x"))).messages == [b"x"]


def connection_of(serving: Serving) -> http2.Connection:
    (connection,) = serving.server._connections
    return connection


# -- responses -------------------------------------------------------------------------------------


def test_a_response_waits_for_its_streams_window(serving: Serving, pour: Pour) -> None:
    client = serving.client(grants=False, window=1000)
    client.h2.increment_flow_control_window(MIB)
    stream = client.request(POUR, framed(b"2"))
    reply = client.replies[stream]
    client.until(lambda: len(reply.body) == 1000)
    client.settle()
    assert len(reply.body) == 1000 and pour.written == 0
    for step in [1, 2, 3, 500, 1, 20_000]:
        had = len(reply.body)
        client.h2.increment_flow_control_window(step, stream)
        client.flush()
        client.until(lambda: len(reply.body) == had + step)  # noqa: B023
        client.settle()
        assert len(reply.body) == had + step
    client.h2.increment_flow_control_window(MIB, stream)
    client.flush()
    assert client.reply(stream).messages == [b"x" * (64 * KIB)] * 2


def test_responses_share_the_connections_window(serving: Serving) -> None:
    client = serving.client(grants=False, window=MIB)
    streams = [client.request(POUR, framed(b"1")) for _ in range(3)]
    replies = [client.replies[stream] for stream in streams]
    client.until(lambda: sum(len(reply.body) for reply in replies) == 65_535)
    client.settle()
    assert sum(len(reply.body) for reply in replies) == 65_535
    while not all(reply.over for reply in replies):
        client.h2.increment_flow_control_window(10_000)
        client.flush()
        client.settle()
    assert all(reply.messages == [b"x" * (64 * KIB)] for reply in replies)


def test_a_window_that_is_taken_back(serving: Serving) -> None:
    """A client may shrink the windows of streams under way below zero."""
    client = serving.client(grants=False, window=10_000)
    client.h2.increment_flow_control_window(MIB)
    stream = client.request(POUR, framed(b"1"))
    reply = client.replies[stream]
    client.until(lambda: len(reply.body) == 10_000)
    client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    client.flush()
    client.settle()
    client.h2.increment_flow_control_window(10_000, stream)
    client.flush()
    client.settle()
    assert len(reply.body) == 10_000
    client.h2.increment_flow_control_window(100_000, stream)
    client.flush()
    assert client.reply(stream).messages == [b"x" * (64 * KIB)]


def test_a_client_that_does_not_read_holds_the_method_back(pour: Pour) -> None:
    with Serving({POUR: pour}, send_buffer=64 * KIB) as serving:
        client = serving.client(window=LARGEST_WINDOW, receive_buffer=64 * KIB)
        client.h2.increment_flow_control_window(LARGEST_WINDOW - 65_535)
        stream = client.request(POUR, framed(b"300"))
        connection = connection_of(serving)
        eventually(lambda: connection.full)
        # Once full, it is full for as long as nobody reads.
        assert pour.written < 200
        buffered = connection._transport.get_write_buffer_size()
        assert http2._BUFFERED <= buffered < 2 * http2._BUFFERED
        # The connection lives; another call is held back as well, and answered in the end.
        other = client.request(body=framed(b"x"))
        reply = client.reply(stream)
        assert len(reply.messages) == 300 and reply.code == Code.OK
        assert client.reply(other).messages == [b"x"]


@pytest.mark.parametrize("how", ["reset", "deadline", "close"])
def test_a_method_that_is_held_back_ends_with_its_caller(
    serving: Serving, pour: Pour, how: str
) -> None:
    client = serving.client(grants=False)
    headers = {"grpc-timeout": "200m"} if how == "deadline" else {}
    stream = client.request(POUR, framed(b"1000"), headers=headers)
    reply = client.replies[stream]
    client.until(lambda: len(reply.body) == 65_535 or reply.over)
    if how == "reset":
        client.h2.reset_stream(stream, ErrorCodes.CANCEL)
        client.flush()
    elif how == "close":
        client.close()
    else:
        assert client.reply(stream).code == Code.DEADLINE_EXCEEDED
    assert pour.cancelled.wait(TIMEOUT_S)
    eventually(lambda: serving.calls == 0)


# -- requests --------------------------------------------------------------------------------------


def fill(client: Client, stream: int) -> int:
    """Send on a stream for as long as the server lets the client; return how many bytes."""
    body, sent = framed(bytes(KIB - 5)) * 17, 0
    while sent < 2 * http2._STREAM_WINDOW:
        if room := client.h2.local_flow_control_window(stream):
            part = min(room, client.h2.max_outbound_frame_size)
            client.h2.send_data(stream, body[sent % KIB :][:part])
            client.flush()
            sent += part
        client.settle()
        if not client.h2.local_flow_control_window(stream):
            break
    return sent


def test_a_stream_that_is_not_read_is_not_read_ahead(serving: Serving, client: Client) -> None:
    stream = client.request(DEAF, framed(b"x"), end=False)
    assert serving.deaf.begun.acquire(timeout=TIMEOUT_S)
    assert fill(client, stream) + len(framed(b"x")) == http2._STREAM_WINDOW
    assert serves(client)
    serving.release()
    client.until(lambda: client.h2.local_flow_control_window(stream) > 0)
    client.h2.reset_stream(stream)
    client.flush()


def test_a_message_larger_than_the_window_is_taken(serving: Serving, client: Client) -> None:
    stream = client.request(body=framed(b"", size=3 * MIB), end=False)
    for _ in range(3 * 64):
        client.until(lambda: client.h2.local_flow_control_window(stream) >= 16 * KIB)
        client.h2.send_data(stream, b"y" * (16 * KIB))
        client.flush()
    client.h2.end_stream(stream)
    client.flush()
    assert client.reply(stream).messages == [b"y" * (3 * MIB)]


def test_a_small_message_before_a_large_one(client: Client) -> None:
    """The first is read, and its window given back, while the second is under way."""
    stream = client.request(body=framed(b"first") + framed(b"", size=2 * MIB), end=False)
    for _ in range(2 * 64):
        client.until(lambda: client.h2.local_flow_control_window(stream) >= 16 * KIB)
        client.h2.send_data(stream, b"y" * (16 * KIB))
        client.flush()
    client.h2.end_stream(stream)
    client.flush()
    assert client.reply(stream).messages == [b"first", b"y" * (2 * MIB)]


@pytest.mark.parametrize("why", ["path", "size", "reset", "unread"])
def test_window_is_given_back_when_calls_end_early(
    serving: Serving, client: Client, why: str
) -> None:
    """More bodies than the connection's window holds, of calls that end before they are read."""
    size = names.MAX_MESSAGE_BYTES + 1 if why == "size" else None
    part = framed(bytes(16 * KIB - 5), size=size)
    for _ in range(320):
        # At once: some of it comes together with what is refused, and some after that.
        stream = client.request({"path": OTHER, "unread": DEAF}.get(why, ECHO), None)
        for _ in range(4):
            client.until(lambda: client.h2.local_flow_control_window(stream) >= len(part))  # noqa: B023
            client.h2.send_data(stream, part)
        if why in ("reset", "unread"):
            client.h2.reset_stream(stream, ErrorCodes.CANCEL)
        client.flush()
        if why in ("path", "size"):
            client.reply(stream)
    eventually(lambda: serving.calls == 0)
    client.settle()
    assert client.h2.outbound_flow_control_window > 8 * MIB
    assert serves(client)


# -- floods ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [ECHO, PARK, OTHER])
@pytest.mark.parametrize("body", [None, framed(b"x"), framed(b"", compressed=True)])
def test_a_client_that_resets_at_once(
    serving: Serving, client: Client, path: str, body: bytes | None
) -> None:
    for _ in range(5):
        for _ in range(100):
            stream = client.request(path, None)
            if body is not None:
                client.h2.send_data(stream, body)
            client.h2.reset_stream(stream, ErrorCodes.CANCEL)
        client.flush()
    assert serves(client)
    eventually(lambda: serving.calls == 0)


def test_resets_at_once_beyond_the_calls_that_may_be() -> None:
    with Serving(max_calls=0) as serving:
        client = serving.client()
        for _ in range(10):
            client.h2.reset_stream(client.request(body=None), ErrorCodes.CANCEL)
        client.flush()
        refused = client.reply(client.request(body=framed(b"x")))
        assert refused.code == Code.RESOURCE_EXHAUSTED


def test_a_client_that_asks_for_answers_and_does_not_read_them(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http2, "_MAX_BUFFERED", 64 * KIB)
    client = serving.client(receive_buffer=16 * KIB)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        for _ in range(5_000):  # more than the system takes in between
            for _ in range(1000):
                client.h2.ping(b"12345678")
            client.flush()
    eventually(serving.is_idle)


def test_a_table_of_headers_stays_small(serving: Serving) -> None:
    """A client may offer memory for the server's headers; that is the server's memory too."""
    client = serving.client(table=64 * MIB)
    for number in range(100):
        details = f"{number}" * 300
        refused = client.reply(client.request(REFUSE, framed(details.encode())))
        assert refused.details == details
    assert connection_of(serving).h2.encoder.header_table_size <= 4096


# -- clients that are none, or go away -------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00" * 10, b"\0", b"PRI * HTTP/1.1"]
)
def test_what_does_not_begin_as_http2(serving: Serving, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", serving.port), timeout=TIMEOUT_S) as connected:
        connected.sendall(garbage)
        while connected.recv(1000):
            pass
    eventually(serving.is_idle)


def test_garbage_after_the_beginning(serving: Serving, client: Client) -> None:
    client.request(PARK, framed(b""))
    assert serving.park.begun.acquire(timeout=TIMEOUT_S)
    client.socket.sendall(b"\0" * 100)
    client.to_the_end()
    assert client.saw(events.ConnectionTerminated)
    assert serving.park.cancelled.acquire(timeout=TIMEOUT_S)


def test_a_client_that_says_nothing(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "_GREETING_S", 0.05)
    with socket.create_connection(("127.0.0.1", serving.port), timeout=TIMEOUT_S) as connected:
        # An abort may be seen as one.
        try:
            while connected.recv(1000):
                pass
        except ConnectionResetError:
            pass
    eventually(serving.is_idle)


def test_a_client_that_goes_away_ends_its_calls(serving: Serving, client: Client) -> None:
    for _ in range(2):
        client.request(PARK, framed(b""))
        assert serving.park.begun.acquire(timeout=TIMEOUT_S)
    client.request(PARK, None)
    client.h2.close_connection()
    client.flush()
    for _ in range(2):
        assert serving.park.cancelled.acquire(timeout=TIMEOUT_S)
    eventually(serving.is_idle)


def test_one_connection_does_not_end_with_another(serving: Serving, client: Client) -> None:
    other = serving.client()
    other.request(PARK, framed(b""))
    assert serving.park.begun.acquire(timeout=TIMEOUT_S)
    other.socket.sendall(b"\0" * 100)
    other.to_the_end()
    assert serves(client)

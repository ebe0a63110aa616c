"""A server that stops: what is under way ends well, and nothing new begins."""

import asyncio
import contextlib
import datetime
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import grpc
import pytest
from h2 import events
from h2.errors import ErrorCodes

from tests.proxy.running import TIMEOUT_S, eventually
from tests.proxy.serving import ECHO, PARK, Client, Serving, framed
from trialfleet.proxy import rpc
from trialfleet.proxy.encryption import server_context
from trialfleet.proxy.rpc import Call
from trialfleet.wire import certificates

Code = grpc.StatusCode

POUR = "/test.Test/Pour"
KIB = 1024


class Pour:
    """A method that writes as many messages as the request says, each of 64 KiB."""

    def __init__(self) -> None:
        self.done = threading.Event()

    async def __call__(self, call: Call) -> None:
        for _ in range(int(await call.read() or b"")):
            await call.write(b"x" * (64 * KIB))
        self.done.set()


@pytest.fixture
def pour() -> Pour:
    return Pour()


@pytest.fixture
def serving(pour: Pour) -> Iterator[Serving]:
    with Serving({POUR: pour}, send_buffer=64 * KIB) as serving:
        yield serving


@pytest.fixture
def client(serving: Serving) -> Client:
    return serving.client()


def stop(serving: Serving, grace_s: float = TIMEOUT_S) -> "Future[None]":
    """Begin to stop a server; what it does at once is done when this returns."""
    stopping = serving.start(serving.server.stop(grace_s))
    serving.run(asyncio.sleep(0))
    return stopping


def park(serving: Serving, client: Client) -> int:
    """Make a call that waits; return its stream."""
    stream = client.request(PARK, framed(b""))
    assert serving.park.begun.acquire(timeout=TIMEOUT_S)
    return stream


def leaving(client: Client) -> Callable[[], bool]:
    return lambda: client.saw(events.ConnectionTerminated)


def test_calls_under_way_finish(serving: Serving, client: Client) -> None:
    stream = park(serving, client)
    stopping = stop(serving)
    client.until(leaving(client))
    assert client.last_stream == stream
    assert not stopping.done()
    serving.release()
    reply = client.reply(stream)
    assert (reply.code, reply.messages) == (Code.OK, [b"released"])
    client.to_the_end()
    client.close()
    stopping.result(TIMEOUT_S)


def test_calls_that_come_late_are_refused(serving: Serving, client: Client) -> None:
    stream = park(serving, client)
    stopping = stop(serving)
    late = client.request(body=framed(b"x"))
    reply = client.reply(late)
    assert (reply.reset, reply.headers) == (ErrorCodes.REFUSED_STREAM, {})
    assert client.last_stream < late
    serving.release()
    assert client.reply(stream).code == Code.OK
    client.to_the_end()
    client.close()
    stopping.result(TIMEOUT_S)


def test_requests_under_way_are_taken_to_their_end(serving: Serving, client: Client) -> None:
    stream = client.request(body=framed(b"first") + framed(b"second")[:7], end=False)
    client.until(lambda: bool(client.replies[stream].body))
    stopping = stop(serving)
    client.until(leaving(client))
    client.h2.send_data(stream, framed(b"second")[7:], end_stream=True)
    client.flush()
    assert client.reply(stream).messages == [b"first", b"second"]
    client.to_the_end()
    client.close()
    stopping.result(TIMEOUT_S)


def test_calls_beyond_the_grace(serving: Serving, client: Client) -> None:
    streams = [park(serving, client) for _ in range(3)]
    streams.append(client.request(body=framed(b"cut")[:3], end=False))
    client.settle()
    stopping = stop(serving, 0.05)
    for stream in streams:
        reply = client.reply(stream)
        assert (reply.code, reply.details) == (Code.UNAVAILABLE, "the proxy is stopping")
    for _ in range(3):
        assert serving.park.cancelled.acquire(timeout=TIMEOUT_S)
    client.to_the_end()
    client.close()
    stopping.result(TIMEOUT_S)


def test_a_last_call_that_is_cancelled(
    serving: Serving, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "_CLOSE_S", 10 * TIMEOUT_S)
    stream = park(serving, client)
    stopping = stop(serving)
    client.h2.reset_stream(stream, ErrorCodes.CANCEL)
    client.flush()
    client.to_the_end()
    client.close()
    stopping.result(TIMEOUT_S)


def test_grpcs_own_client(serving: Serving) -> None:
    channel = serving.channel(("grpc.enable_retries", 0))
    slow = channel.stream_stream(PARK)(iter([b""]), timeout=TIMEOUT_S)
    assert serving.park.begun.acquire(timeout=TIMEOUT_S)
    stopping = stop(serving)

    def refused() -> bool:
        try:
            channel.unary_unary(ECHO)(b"x", timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code == Code.UNAVAILABLE
        return False

    eventually(refused)
    assert not stopping.done()
    serving.release()
    assert list(slow) == [b"released"]
    stopping.result(TIMEOUT_S)


def test_nobody_can_connect_any_more(serving: Serving, client: Client) -> None:
    park(serving, client)
    stopping = stop(serving)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", serving.port))
    serving.release()
    client.to_the_end()
    client.close()
    stopping.result(TIMEOUT_S)


def test_connections_without_calls_are_closed_at_once(serving: Serving, client: Client) -> None:
    assert client.reply(client.request(body=framed(b"x"))).code == Code.OK
    other = serving.client()
    stream = park(serving, other)
    stopping = stop(serving)
    client.to_the_end()
    assert leaving(client)()
    assert not stopping.done()
    serving.release()
    assert other.reply(stream).code == Code.OK
    for each in (client, other):
        each.close()
    stopping.result(TIMEOUT_S)


def test_the_last_response_arrives_whole(serving: Serving, pour: Pour) -> None:
    """Although the client sends, as it does while it reads, when the server has said all."""
    client = serving.client(window=2**31 - 1, receive_buffer=16 * KIB)
    client.h2.increment_flow_control_window(2**30)
    stream = client.request(POUR, framed(b"4"))
    assert pour.done.wait(TIMEOUT_S)
    eventually(lambda: serving.calls == 0)
    stopping = stop(serving)
    client.h2.ping(b"12345678")
    client.flush()
    reply = client.reply(stream)
    assert (reply.code, len(reply.messages)) == (Code.OK, 4)
    client.to_the_end()
    assert leaving(client)()
    client.close()
    stopping.result(TIMEOUT_S)


def test_a_client_that_does_not_read_holds_nothing_up(serving: Serving) -> None:
    client = serving.client(window=2**31 - 1, receive_buffer=16 * KIB)
    client.h2.increment_flow_control_window(2**30)
    client.request(POUR, framed(b"1000"))
    (connection,) = serving.server._connections
    eventually(lambda: connection.full)
    stop(serving, 0).result(TIMEOUT_S)
    eventually(serving.is_idle)


def test_a_client_that_is_lost_as_it_stops(serving: Serving, client: Client) -> None:
    linger = struct.pack("ii", 1, 0)  # reset the connection on close
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async def lose_and_stop() -> None:
        client.close()
        await serving.server.stop(TIMEOUT_S)

    serving.run(lose_and_stop())
    assert serving.is_idle()


@pytest.fixture
def encryption(tmp_path: Path) -> ssl.SSLContext:
    now = datetime.datetime.now(datetime.UTC)
    authority = certificates.make_authority("a", certificates.derive_key(b"a" * 32), now)
    issued = certificates.issue(authority, ["host"], certificates.derive_key(b"1" * 32), now)
    (tmp_path / "crt").write_bytes(issued.certificate_pem)
    (tmp_path / "key").write_bytes(issued.key_pem)
    return server_context(tmp_path / "crt", tmp_path / "key")


def test_a_connection_that_is_made_while_it_stops(encryption: ssl.SSLContext) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    taken, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(taken, sent)
    with Serving(tls=encryption) as serving, socket.socket() as connected:
        connected.settimeout(TIMEOUT_S)
        connected.connect(("127.0.0.1", serving.port))
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        connected.sendall(sent.read())
        # Its answer: the server has the connection, and knows no client of it yet.
        taken.write(connected.recv(64 * KIB))
        stopping = stop(serving)
        told = b""
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                told += tls.read(64 * KIB)
            with contextlib.suppress(ConnectionError):
                connected.sendall(sent.read())
            try:
                data = connected.recv(64 * KIB)
            except ConnectionResetError:
                break
            if not data:
                break
            taken.write(data)
        assert not told
        stopping.result(TIMEOUT_S)

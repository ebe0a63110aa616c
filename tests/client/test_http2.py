"""The frames of an exchange, against the other end of a socket that a test writes to."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator

import hpack
import pytest

from tests.client.peer import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Peer,
    frame,
    number,
    settings,
)
from trialfleet.client import http2
from trialfleet.client.http2 import REFUSED_STREAM, Broken, Exchange

TIMEOUT_S = 30.0
SENT = [(":method", "POST"), ("te", "trailers")]


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Peer]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(TIMEOUT_S)
    theirs.settimeout(TIMEOUT_S)
    peer = Peer(theirs)
    yield ours, peer
    ours.close()
    peer.close()


@pytest.fixture
def peer(ends: tuple[socket.socket, Peer]) -> Peer:
    return ends[1]


@pytest.fixture
def exchange(ends: tuple[socket.socket, Peer]) -> Exchange:
    return Exchange(ends[0], SENT)


def _until(exchange: Exchange, condition: Callable[[], bool]) -> None:
    while not condition():
        exchange.receive()


def test_how_it_begins(exchange: Exchange, peer: Peer) -> None:
    assert peer.preface() == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    kind, flags, stream, payload = peer.read()
    assert (kind, flags, stream) == (SETTINGS, 0, 0)
    assert dict(struct.iter_unpack(">HL", payload)) == {2: 0, 4: 2**31 - 1, 5: 2**20}
    # Together with the first 65,535 the connection's window is as large as the stream's.
    assert peer.read() == (WINDOW_UPDATE, 0, 0, number(2**31 - 1 - 65_535))
    kind, flags, stream, payload = peer.read()
    assert (kind, flags, stream) == (HEADERS, END_HEADERS, 1)
    assert [(str(k), str(v)) for k, v in hpack.Decoder().decode(payload)] == SENT


@pytest.mark.parametrize("at_once", [True, False])
def test_a_response_in_every_form(exchange: Exchange, peer: Peer, at_once: bool) -> None:
    first = peer.headers((":status", "200"), ("content-type", "application/grpc"))
    last = peer.headers(("grpc-status", "0"), ("grpc-message", "fine"))
    sent = b"".join(
        (
            frame(SETTINGS, 0, 0, settings(max_frame_size=20_000)),
            frame(HEADERS, PADDED | PRIORITY, 1, bytes((3,)) + bytes(5) + first[:4] + bytes(3)),
            frame(CONTINUATION, 0, 1, first[4:6]),
            frame(CONTINUATION, END_HEADERS, 1, first[6:]),
            frame(DATA, 0, 1, b"one"),
            frame(0xFA, 0xFF, 1, b"of a kind that nobody knows"),
            frame(DATA, PADDED, 1, bytes((2,)) + b"two" + bytes(2)),
            frame(DATA),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, last),
        )
    )
    if at_once:
        peer.send(sent)
        _until(exchange, lambda: exchange.ended)
    else:
        for byte in sent:
            assert not exchange.ended
            peer.send(bytes((byte,)))
            exchange.receive()
    assert exchange.ended
    assert exchange.data == b"onetwo"
    assert exchange.headers == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": "0",
        "grpc-message": "fine",
    }
    assert exchange.reset is None
    assert not exchange.going_away


def test_settings_and_pings_are_acknowledged(exchange: Exchange, peer: Peer) -> None:
    peer.send(
        frame(SETTINGS, 0, 0),
        frame(PING, 0, 0, b"12345678"),
        frame(SETTINGS, ACK, 0),
        frame(PING, ACK, 0, b"87654321"),
        frame(DATA, END_STREAM),
    )
    _until(exchange, lambda: exchange.ended)
    peer.preface()
    for _ in range(3):
        peer.read()
    assert peer.read() == (SETTINGS, ACK, 0, b"")
    assert peer.read() == (PING, ACK, 0, b"12345678")


def test_a_request_waits_for_the_windows(exchange: Exchange, peer: Peer) -> None:
    request = bytes(range(256)) * 1000
    sending = threading.Thread(target=exchange.send, args=(request,))
    sending.start()
    peer.preface()
    peer.skip(HEADERS)
    received = b""

    def read(*lengths: int) -> None:
        nonlocal received
        for length in lengths:
            kind, _, _, payload = peer.skip(DATA)
            assert (kind, len(payload)) == (DATA, length)
            received += payload

    # What is allowed without a word: 65,535 in frames of 16,384.
    read(16_384, 16_384, 16_384, 16_383)
    # The stream's window alone is of no use, nor is the connection's.
    peer.send(frame(WINDOW_UPDATE, 0, 1, number(100)), frame(PING, 0, 0, b"12345678"))
    assert peer.read()[:2] == (PING, ACK)
    peer.send(frame(WINDOW_UPDATE, 0, 0, number(70)))
    read(70)
    peer.send(frame(WINDOW_UPDATE, 0, 0, number(10**6)))
    read(30)
    # A larger window is for streams that there are, too; a larger frame from now on.
    peer.send(
        frame(SETTINGS, 0, 0, settings(max_frame_size=40_000, initial_window_size=65_535 + 50_000))
    )
    read(40_000, 10_000)
    peer.send(frame(WINDOW_UPDATE, 0, 1, number(10**6)))
    while len(received) < len(request):
        received += peer.skip(DATA)[3]
    sending.join()
    assert received == request


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (frame(RST_STREAM, 0, 1, number(8)), 8),
        (frame(GOAWAY, 0, 0, number(0) + number(0)), REFUSED_STREAM),
    ],
)
def test_a_request_that_is_refused_in_the_middle(
    exchange: Exchange, peer: Peer, last: bytes, code: int
) -> None:
    peer.send(last)
    exchange.send(bytes(10**6))
    assert exchange.ended
    assert exchange.reset == code


def test_a_connection_that_is_about_to_close(exchange: Exchange, peer: Peer) -> None:
    peer.send(frame(GOAWAY, 0, 0, number(1) + number(0)), frame(DATA, 0, 1, b"last"))
    _until(exchange, lambda: bool(exchange.data))
    assert exchange.going_away
    assert not exchange.ended


def test_windows_are_opened_again(
    exchange: Exchange, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http2, "_REPLENISH", 100)
    peer.send(frame(DATA, 0, 1, bytes(99)), frame(DATA, PADDED, 1, bytes((9,)) + bytes(9)))
    _until(exchange, lambda: len(exchange.data) == 99)
    peer.preface()
    peer.skip(HEADERS)
    # Padding counts.
    assert {peer.read(), peer.read()} == {(WINDOW_UPDATE, 0, s, number(109)) for s in (0, 1)}


@pytest.mark.parametrize(
    "sent",
    [
        frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"),
        frame(WINDOW_UPDATE, 0, 0, b"12"),
        frame(SETTINGS, 0, 0, b"12345"),
        frame(DATA, PADDED),
    ],
)
def test_what_is_not_http2(exchange: Exchange, peer: Peer, sent: bytes) -> None:
    peer.send(sent)
    with pytest.raises(Broken, match="does not speak HTTP/2"):
        exchange.receive()


def test_an_end_that_closes(exchange: Exchange, peer: Peer) -> None:
    peer.preface()
    for _ in range(3):
        peer.read()
    peer.close()
    with pytest.raises(Broken, match="the other end closed the connection"):
        exchange.receive()

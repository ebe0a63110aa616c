"""One HTTP/2 connection (RFC 9113) that carries one exchange, driven by the thread that uses it."""

import socket
import struct
from collections.abc import Iterable
from typing import Final

import hpack

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Types of frames.
_DATA: Final = 0x0
_HEADERS: Final = 0x1
_RST_STREAM: Final = 0x3
_SETTINGS: Final = 0x4
_PING: Final = 0x6
_GOAWAY: Final = 0x7
_WINDOW_UPDATE: Final = 0x8
_CONTINUATION: Final = 0x9

# Flags of frames.
_ACK: Final = 0x1
_END_STREAM: Final = 0x1
_END_HEADERS: Final = 0x4
_PADDED: Final = 0x8
_PRIORITY: Final = 0x20

# Settings.
_ENABLE_PUSH: Final = 0x2
_INITIAL_WINDOW_SIZE: Final = 0x4
_MAX_FRAME_SIZE: Final = 0x5

_OURS: Final = 1
"""The stream's number: a client's first."""
_FRAME: Final = struct.Struct(">HBBBL")
_SETTING: Final = struct.Struct(">HL")

_DEFAULT_WINDOW: Final = 65_535
_DEFAULT_MAX_FRAME: Final = 16_384
_WINDOW: Final = 2**31 - 1
"""We read all that comes: the sender need not wait for us."""
_REPLENISH: Final = 2**30
_READ: Final = 64 * 1024

REFUSED_STREAM: Final = 0x7
"""Code of a reset of which nothing was processed."""

Headers = Iterable[tuple[str, str]]


class Broken(ConnectionError):
    """The other end closed the connection, or does not speak HTTP/2."""


class Exchange:
    """A request and its response, which both go on as long as they like.

    Methods raise ``OSError``, :class:`Broken` and ``TimeoutError`` among them, after which the
    connection is of no more use.
    """

    def __init__(self, connected: socket.socket, headers: Headers) -> None:
        """Begin a request on a new connection. Waits for nothing."""
        self._socket = connected
        self._decoder = hpack.Decoder()
        self._incoming = bytearray()
        self._block = bytearray()
        self._ends = False  # whether the block of headers that is being read is the last
        self._replies: list[bytes] = []
        self._unacknowledged = 0
        self._max_frame = _DEFAULT_MAX_FRAME
        self._initial_window = _DEFAULT_WINDOW
        self._window = _DEFAULT_WINDOW
        self._connection_window = _DEFAULT_WINDOW
        self.headers: dict[str, str] = {}
        """Of the response; and its trailers, once it has ended."""
        self.data = bytearray()
        """What came of the response's body and was not taken yet."""
        self.ended = False
        """Whether the response is complete, or was given up."""
        self.reset: int | None = None
        """The code with which the other end gave it up."""
        self.going_away = False
        """Whether the other end is about to close the connection."""
        settings = ((_ENABLE_PUSH, 0), (_INITIAL_WINDOW_SIZE, _WINDOW), (_MAX_FRAME_SIZE, 2**20))
        connected.sendall(
            b"".join(
                (
                    _PREFACE,
                    _frame(_SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in settings)),
                    _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">L", _WINDOW - _DEFAULT_WINDOW)),
                    _frame(_HEADERS, _END_HEADERS, _OURS, _encode(headers)),
                )
            )
        )

    def send(self, data: bytes) -> None:
        """Send a part of the request's body. Stops if the response ends meanwhile."""
        sent = 0
        while sent < len(data):
            room = min(self._window, self._connection_window, self._max_frame)
            if room <= 0:
                self.receive()
                if self.ended:
                    return
                continue
            part = data[sent : sent + room]
            self._window -= len(part)
            self._connection_window -= len(part)
            self._socket.sendall(_frame(_DATA, 0, _OURS, part))
            sent += len(part)

    def receive(self) -> None:
        """Wait until something comes, and take it."""
        read = self._socket.recv(_READ)
        if not read:
            raise Broken("the other end closed the connection")
        incoming = self._incoming
        incoming += read
        at = 0
        while len(incoming) - at >= 9:
            high, low, kind, flags, stream = _FRAME.unpack_from(incoming, at)
            end = at + 9 + (high << 8 | low)
            if len(incoming) < end:
                break
            try:
                self._take(kind, flags, stream & _WINDOW, bytes(incoming[at + 9 : end]))
            except (IndexError, struct.error, hpack.HPACKError) as error:
                raise Broken("the other end does not speak HTTP/2") from error
            at = end
        del incoming[:at]
        if self._replies:
            self._socket.sendall(b"".join(self._replies))
            self._replies.clear()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._acknowledge(len(payload))
            self.data += _unpadded(payload, flags)
            self.ended |= bool(flags & _END_STREAM)
        elif kind == _HEADERS:
            payload = _unpadded(payload, flags)
            self._block[:] = payload[5:] if flags & _PRIORITY else payload
            self._ends = bool(flags & _END_STREAM)
            self._take_headers(flags)
        elif kind == _CONTINUATION:
            self._block += payload
            self._take_headers(flags)
        elif kind == _RST_STREAM:
            (self.reset,) = struct.unpack(">L", payload)
            self.ended = True
        elif kind == _SETTINGS and not flags & _ACK:
            for name, value in _SETTING.iter_unpack(payload):
                self._set(name, value)
            self._replies.append(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._replies.append(_frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY:
            self.going_away = True
            (last,) = struct.unpack_from(">L", payload)
            if last & _WINDOW < _OURS:
                self.reset = REFUSED_STREAM
                self.ended = True
        elif kind == _WINDOW_UPDATE:
            (more,) = struct.unpack(">L", payload)
            if stream:
                self._window += more & _WINDOW
            else:
                self._connection_window += more & _WINDOW

    def _take_headers(self, flags: int) -> None:
        if flags & _END_HEADERS:
            for name, value in self._decoder.decode(bytes(self._block)):
                self.headers[str(name)] = str(value)
            self.ended |= self._ends

    def _set(self, name: int, value: int) -> None:
        if name == _INITIAL_WINDOW_SIZE:
            self._window += value - self._initial_window
            self._initial_window = value
        elif name == _MAX_FRAME_SIZE:
            self._max_frame = value

    def _acknowledge(self, length: int) -> None:
        self._unacknowledged += length
        if self._unacknowledged >= _REPLENISH:
            more = struct.pack(">L", self._unacknowledged)
            self._replies += (_frame(_WINDOW_UPDATE, 0, stream, more) for stream in (0, _OURS))
            self._unacknowledged = 0


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    length = len(payload)
    return _FRAME.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def _unpadded(payload: bytes, flags: int) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & _PADDED else payload


def _encode(headers: Headers) -> bytes:
    return hpack.Encoder().encode(headers, huffman=False)

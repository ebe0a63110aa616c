"""The calls of a worker, one behind the other, over one stream: a fraction of the cost of each.

gRPC's client reads sockets in threads of its own and hands every message over, which costs a worker
several times what the message itself does. Here the calling thread writes to a socket and reads
from it: gRPC's protocol over :mod:`~trialfleet.client.http2`, one connection for each stream.
"""

import contextlib
import socket
import struct
import time
import urllib.parse
from typing import Final

import grpc
from google.protobuf.message import DecodeError

from trialfleet.client.calls import WORK, Call, Reply
from trialfleet.client.credentials import Metadata
from trialfleet.client.http2 import REFUSED_STREAM, Exchange
from trialfleet.client.target import Target

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

_PREFIX: Final = struct.Struct(">BL")
"""Of a message: whether it is compressed, and its length."""

_CANCEL: Final = 0x8
_RESETS: Final = {
    REFUSED_STREAM: grpc.StatusCode.UNAVAILABLE,
    _CANCEL: grpc.StatusCode.CANCELLED,
}


class StreamEnded(grpc.RpcError):
    """A stream has ended, and with it the call that was made over it."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self._code = code
        self._details = details

    def code(self) -> grpc.StatusCode:
        """Return the status."""
        return self._code

    def details(self) -> str:
        """Return what was said beside it."""
        return self._details


class Stream:
    """One stream of ``Work``. Belongs to one thread at a time, but for :meth:`cancel`.

    Any number of requests may be sent before their answers are read, in the same order.
    """

    def __init__(self, target: Target, metadata: Metadata | None) -> None:
        """Prepare it; it is opened by the first call."""
        self._target = target
        self._metadata = metadata
        self._headers = (
            (":method", "POST"),
            (":scheme", "http" if target.authorities is None else "https"),
            (":path", WORK),
            (":authority", target.authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *(metadata or ()),
        )
        self._socket: socket.socket | None = None
        self._exchange: Exchange | None = None
        self._cancelled = False
        self._sent = 0
        self._answered = 0

    @property
    def awaited(self) -> int:
        """How many answers are to come."""
        return self._sent - self._answered

    def serves(self, metadata: Metadata | None) -> bool:
        """Whether a call that shows such metadata can be made over it."""
        assert self._exchange is not None
        return metadata == self._metadata and not self._exchange.going_away

    def make(self, call: Call[Reply], request: bytes, deadline_s: float) -> Reply:
        """Make a call. If it raises the stream is of no more use.

        Raises :class:`StreamEnded`.
        """
        ends_at = time.monotonic() + deadline_s
        number = self.begin(call, request, deadline_s)
        return self.finish(call, number, max(0.0, ends_at - time.monotonic()))

    def begin(self, call: Call[Reply], request: bytes, deadline_s: float) -> int:
        """Send a request; return its number, for :meth:`finish`. Raises as :meth:`make`."""
        message = call.wrap(request, self._sent + 1)
        ends_at = time.monotonic() + deadline_s
        try:
            exchange = self._exchange or self._open(deadline_s)
            assert self._socket is not None
            self._socket.settimeout(_left(ends_at))
            exchange.send(_PREFIX.pack(0, len(message)) + message)
            self._sent += 1
            return self._sent
        except OSError as error:
            raise self._ended_by(error, deadline_s) from error

    def finish(self, call: Call[Reply], number: int, deadline_s: float) -> Reply:
        """Wait for the answer to a request, the first that has none yet. Raises as :meth:`make`."""
        exchange, ends_at = self._exchange, time.monotonic() + deadline_s
        if exchange is None:
            # Of what had come by then nobody knows any more which request it answers.
            raise StreamEnded(grpc.StatusCode.UNAVAILABLE, "the stream was closed")
        assert self._socket is not None
        try:
            while (message := _message(exchange.data)) is None:
                if exchange.ended:
                    raise _status(exchange)
                self._socket.settimeout(_left(ends_at))
                exchange.receive()
            self._answered += 1
            return call.unwrap(message, number)
        except OSError as error:
            raise self._ended_by(error, deadline_s) from error
        except (ValueError, DecodeError) as error:
            raise StreamEnded(grpc.StatusCode.INTERNAL, str(error)) from error

    def cancel(self) -> None:
        """Let the call that is under way in another thread fail."""
        self._cancelled = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # Not the method of an encrypted one: that is not for two threads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._exchange = None
        if self._socket is not None:
            self._socket.close()

    def _ended_by(self, error: OSError, deadline_s: float) -> StreamEnded:
        """Return in gRPC's words how the connection ended."""
        if isinstance(error, TimeoutError):
            return StreamEnded(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {deadline_s:g} s"
            )
        if self._cancelled:
            return StreamEnded(grpc.StatusCode.CANCELLED, "the stream was closed")
        return StreamEnded(grpc.StatusCode.UNAVAILABLE, str(error))

    def _open(self, deadline_s: float) -> Exchange:
        self._socket = self._target.connect(deadline_s)
        if self._cancelled:
            raise ConnectionError("the stream was closed")
        self._exchange = Exchange(self._socket, self._headers)
        return self._exchange


def _left(ends_at: float) -> float:
    """Return how many seconds are left. Raises ``TimeoutError`` if there are none."""
    left_s = ends_at - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _message(data: bytearray) -> bytes | None:
    """Take a message from the beginning of what came; None if it is not whole."""
    if len(data) < _PREFIX.size:
        return None
    compressed, length = _PREFIX.unpack_from(data)
    end = _PREFIX.size + length
    if len(data) < end:
        return None
    if compressed:
        raise StreamEnded(
            grpc.StatusCode.INTERNAL, "found a compressed message, expected a plain one"
        )
    message = bytes(data[_PREFIX.size : end])
    del data[:end]
    return message


def _status(exchange: Exchange) -> StreamEnded:
    """Return how an exchange ended, as gRPC says it."""
    headers = exchange.headers
    status = headers.get("grpc-status", "")
    if status.isdecimal():
        code = _CODES.get(int(status), grpc.StatusCode.UNKNOWN)
        if code is grpc.StatusCode.OK:
            return StreamEnded(grpc.StatusCode.INTERNAL, "the stream ended without an answer")
        return StreamEnded(code, urllib.parse.unquote(headers.get("grpc-message", "")))
    if exchange.reset is not None:
        code = _RESETS.get(exchange.reset, grpc.StatusCode.INTERNAL)
        return StreamEnded(code, f"the stream was reset with code {exchange.reset}")
    # Not a proxy of ours, but one in between.
    answered = headers.get(":status", "none")
    return StreamEnded(grpc.StatusCode.UNAVAILABLE, f"found HTTP status {answered}, expected gRPC")

"""gRPC over HTTP/2, as a server: calls, their messages, their deadlines, and how they end.

See gRPC's "gRPC over HTTP2". Every proxy's caller is served by this; gRPC's own server for Python
hands each message from thread to thread, which costs several times what the message does.
"""

import asyncio
import contextlib
import logging
import re
import struct
import urllib.parse
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from socket import socket as Socket
from ssl import SSLContext
from typing import Final

import grpc
from h2.errors import ErrorCodes

from trialfleet import names
from trialfleet.proxy.http2 import Connection, Exchange, Gone

_log = logging.getLogger(__name__)

_PREFIX: Final = struct.Struct(">BL")
"""Of a message: whether it is compressed, and its length."""

_LARGE: Final = 64 * 1024

_BEGIN: Final = ((":status", "200"), ("content-type", "application/grpc"))
_PRINTABLE: Final = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}"
"""What a status' details hold as it is, beside letters and digits."""

_KIND: Final = re.compile(r"application/grpc([+;]|$)")
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

_FIRST_REQUEST_S: Final = 60.0
"""For the first request of a call without a deadline."""
_HANDSHAKE_S: Final = 20.0
_CLOSE_S: Final = 1.0
"""For clients to take what was last sent to them, when the server stops."""


class Refused(Exception):
    """A call ends with a status other than OK."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


class Call:
    """One call from a client: of one request, or of a stream of them. Belongs to the event loop."""

    __slots__ = (
        "_buffer",
        "_end",
        "_ended",
        "_exchange",
        "_messages",
        "_method",
        "_reader",
        "_responding",
        "_task",
        "_timer",
        "_unacknowledged",
        "limited",
        "metadata",
        "on_more",
    )

    def __init__(
        self,
        exchange: Exchange,
        metadata: Mapping[str, str],
        method: "Method",
        end: Callable[["Call"], None],
    ) -> None:
        self._exchange = exchange
        self._method = method
        self._end = end
        self.metadata = metadata
        """What the caller sent beside the messages, the first value of each name."""
        self.on_more: Callable[[], None] | None = None
        """Is called when requests come while none is waited for."""
        self._buffer = bytearray()
        self._messages: deque[bytes] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._unacknowledged = 0
        self._ended = False
        self._responding = False
        timeout_s = _timeout_s(metadata.get("grpc-timeout", ""))
        self.limited = timeout_s is not None
        """Whether the caller set a deadline."""
        self._timer = asyncio.get_running_loop().call_later(
            _FIRST_REQUEST_S if timeout_s is None else timeout_s, self._expire
        )

    # -- for the method ------------------------------------------------------------------------

    async def read(self) -> bytes | None:
        """Return the next request; None if there are no more."""
        while not self._messages:
            if self._ended:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        message = self._messages.popleft()
        if not self._messages:
            self._acknowledge()
        return message

    def read_more(self, most: int) -> list[bytes]:
        """Return up to ``most`` requests that have come already."""
        messages = self._messages
        taken = [messages.popleft() for _ in range(min(most, len(messages)))]
        if taken and not messages:
            self._acknowledge()
        return taken

    async def write(self, *messages: bytes) -> None:
        """Send replies; waits while the caller takes no more. Raises ``CancelledError``."""
        try:
            if not self._responding:
                self._responding = True
                self._exchange.begin(_BEGIN)
            small = b""
            for message in messages:
                small += _PREFIX.pack(0, len(message))
                if len(message) <= _LARGE:
                    small += message
                    continue
                await self._exchange.send(small)  # rather than a copy of all of it
                await self._exchange.send(message)
                small = b""
            if small:
                await self._exchange.send(small)
        except Gone:
            raise asyncio.CancelledError from None

    # -- for the server ------------------------------------------------------------------------

    def received(self, data: bytes, length: int) -> None:
        """Take a part of the body."""
        self._unacknowledged += length
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _PREFIX.size:
            compressed, size = _PREFIX.unpack_from(buffer)
            if compressed:
                self._finish(grpc.StatusCode.UNIMPLEMENTED, "messages may not be compressed")
                return
            if size > names.MAX_MESSAGE_BYTES:
                # In the words of gRPC's own servers, by which clients know it.
                self._finish(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"Received message larger than max ({size} vs. {names.MAX_MESSAGE_BYTES})",
                )
                return
            end = _PREFIX.size + size
            if len(buffer) < end:
                break
            self._messages.append(bytes(buffer[_PREFIX.size : end]))
            del buffer[:end]
        if self._messages:
            self._go_on()
        else:
            self._acknowledge()

    def ended(self) -> None:
        """Take note that no more requests come."""
        self._ended = True
        self._go_on()

    def gone(self) -> None:
        """Take note that the caller gave the call up."""
        self._leave()

    def stop(self) -> None:
        """End the call because the server ends."""
        self._finish(grpc.StatusCode.UNAVAILABLE, "the proxy is stopping")

    def _go_on(self) -> None:
        if self._task is None:
            if not self.limited:
                self._timer.cancel()  # from now on the method sees to how long it takes
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._done)
        elif self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        elif self._reader is None and self.on_more is not None and self._messages:
            self.on_more()

    async def _run(self) -> None:
        try:
            await self._method(self)
            if not self._responding:
                self._exchange.begin(_BEGIN)
            self._exchange.end((("grpc-status", "0"),))
        except Refused as refused:
            self._respond(refused.code, refused.details)
        except Gone:
            pass

    def _done(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            # A method answers for its errors: this one is a defect.
            _log.error("a call failed", exc_info=error)
            self._respond(grpc.StatusCode.INTERNAL, "a defect; the proxy's log has more")
        self._exchange.refuse(ErrorCodes.CANCEL)
        self._close()

    def _expire(self) -> None:
        self._finish(grpc.StatusCode.DEADLINE_EXCEEDED, "the call's deadline has passed")

    def _finish(self, code: grpc.StatusCode, details: str) -> None:
        self._respond(code, details)
        self._leave()

    def _leave(self) -> None:
        # Callers leave when it is due: a method that cleans up is not cancelled again.
        self._timer.cancel()
        if self._task is None:
            self._close()
        else:
            self._task.cancel()

    def _respond(self, code: grpc.StatusCode, details: str) -> None:
        _end(self._exchange, code, details, begun=self._responding)

    def _acknowledge(self) -> None:
        length, self._unacknowledged = self._unacknowledged, 0
        self._exchange.acknowledge(length)

    def _close(self) -> None:
        self._timer.cancel()
        self._acknowledge()
        self._end(self)


Method = Callable[[Call], Awaitable[None]]
"""Reads requests from a call and writes replies to it. Raises :class:`Refused`."""


class Server:
    """Serves methods, by their paths, on any number of sockets, on one event loop."""

    def __init__(self, methods: Mapping[str, Method], max_calls: int) -> None:
        """Take the methods; of calls beyond ``max_calls`` at once each is refused."""
        self._methods = methods
        self._max_calls = max_calls
        self._listeners: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._calls: set[Call] = set()
        self._changed: asyncio.Future[None] | None = None
        self._stopping = False

    async def listen(self, sockets: Sequence[Socket], tls: SSLContext | None) -> None:
        """Serve who connects to sockets that are bound."""
        loop = asyncio.get_running_loop()
        for bound in sockets:
            listener = await loop.create_server(
                lambda: Connection(self._accept, self._opened, self._lost),
                sock=bound,
                backlog=1024,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else _HANDSHAKE_S,
            )
            self._listeners.append(listener)

    async def stop(self, grace_s: float) -> None:
        """Take no more calls; end those that are not done within the grace."""
        self._stopping = True
        for listener in self._listeners:
            listener.close()
        for connection in list(self._connections):
            connection.leave()
        await self._until(lambda: not self._calls, grace_s)
        for call in list(self._calls):
            call.stop()
        await self._until(lambda: not self._connections, _CLOSE_S)
        for connection in list(self._connections):
            connection.abort()

    def _accept(self, exchange: Exchange, headers: dict[str, str]) -> Call | None:
        kind = headers.get("content-type", "")
        if headers.get(":method") != "POST" or not _KIND.match(kind):
            exchange.end(((":status", "415"),))
            return None
        path = headers.get(":path", "")
        method = self._methods.get(path)
        if method is None:
            _end(exchange, grpc.StatusCode.UNIMPLEMENTED, f"no method has the path {path!r}")
            return None
        if len(self._calls) >= self._max_calls:
            details = f"{self._max_calls} calls are under way already"
            _end(exchange, grpc.StatusCode.RESOURCE_EXHAUSTED, details)
            return None
        call = Call(exchange, headers, method, self._ended)
        self._calls.add(call)
        return call

    def _ended(self, call: Call) -> None:
        self._calls.discard(call)
        self._wake()

    def _opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._stopping:  # it shook hands meanwhile
            connection.abort()

    def _lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def _until(self, condition: Callable[[], bool], within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not condition():
                    self._changed = asyncio.get_running_loop().create_future()
                    await self._changed


def _end(exchange: Exchange, code: grpc.StatusCode, details: str, *, begun: bool = False) -> None:
    """End a response with a status, with its headers if they were not sent yet."""
    trailers = (
        ("grpc-status", str(code.value[0])),
        ("grpc-message", urllib.parse.quote(details, safe=_PRINTABLE)),
    )
    exchange.end(trailers if begun else (*_BEGIN, *trailers))


def _timeout_s(text: str) -> float | None:
    """Return the seconds of a ``grpc-timeout`` header, None if there is none."""
    found = _TIMEOUT.fullmatch(text)
    return None if found is None else int(found[1]) * _UNITS[found[2]]

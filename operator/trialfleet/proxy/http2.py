"""The server's end of HTTP/2 connections: bytes to requests, responses to bytes.

What a frame means, and whether it may come, is h2's to say; here is what h2 leaves to its user:
sockets, and how much may wait to be read or written.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

_CONFIG: Final = H2Configuration(
    client_side=False,
    header_encoding=None,
    # What we send is right, and checked by tests.
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)

_STREAM_WINDOW: Final = 1024 * 1024
"""Bytes that a client may send of a request before we have read them."""
_CONNECTION_WINDOW: Final = 16 * 1024 * 1024
_MAX_HEADER_LIST: Final = 16 * 1024

_HEADER_TABLE: Final = 4096
"""Bytes of headers that were sent, remembered to be sent shorter."""

_BUFFERED: Final = 256 * 1024
"""Bytes that wait for a slow reader before we wait for it."""
_MAX_BUFFERED: Final = 16 * 1024 * 1024
"""Beyond it a client asks for answers, to pings and the like, and does not read them."""

_GREETING_S: Final = 20.0
"""For a client to say that it speaks HTTP/2."""

# An idle client whose node is gone is noticed within minutes.
_IDLE_S: Final = 60
_PROBE_S: Final = 10
_PROBES: Final = 3
_UNACKNOWLEDGED_MS: Final = 90_000

Headers = Iterable[tuple[str, str]]


class Gone(ConnectionError):
    """The client gave the request up, or its connection is lost."""


class Request(Protocol):
    """What takes a request: called on the event loop, in the order in which things come."""

    def received(self, data: bytes, length: int) -> None:
        """Take a part of its body; :meth:`Exchange.acknowledge` its length when there is room."""

    def ended(self) -> None:
        """Take note that its body is complete."""

    def gone(self) -> None:
        """Take note that nobody waits for the response any more."""


class Exchange:
    """A request and its response: one stream of a connection."""

    __slots__ = ("_connection", "_h2", "_id", "open")

    def __init__(self, connection: "Connection", stream_id: int) -> None:
        self._connection = connection
        self._h2 = connection.h2
        self._id = stream_id
        self.open = True
        """Whether more of a response can be sent."""

    def acknowledge(self, length: int) -> None:
        """Let the client send so many bytes more."""
        if length:
            self._h2.acknowledge_received_data(length, self._id)
            self._connection.flush_soon()

    def begin(self, headers: Headers) -> None:
        """Send the response's headers, together with what comes next."""
        if not self.open:
            raise Gone
        self._h2.send_headers(self._id, headers)

    async def send(self, data: bytes) -> None:
        """Send a part of the response's body; waits while the client takes no more.

        Raises :class:`Gone`.
        """
        connection, h2, sent = self._connection, self._h2, 0
        while True:
            if not self.open:
                raise Gone
            room = min(h2.local_flow_control_window(self._id), h2.max_outbound_frame_size)
            if connection.full or room <= 0:
                connection.flush()
                await connection.room()
                continue
            part = data[sent : sent + room]
            h2.send_data(self._id, part)
            sent += len(part)
            if sent >= len(data):
                connection.flush()
                return
            if sent % _BUFFERED < room:
                connection.flush()

    def end(self, headers: Headers) -> None:
        """End the response, with trailers, or with its only headers.

        Without effect if nobody waits for it.
        """
        if self.open:
            # The client may have reset it in the very bytes that are being taken.
            if not self._connection.is_closed(self._id):
                self._h2.send_headers(self._id, headers, end_stream=True)
            self._close(ErrorCodes.NO_ERROR)

    def refuse(self, code: ErrorCodes) -> None:
        """End the exchange without a response."""
        if self.open:
            self._close(code)

    def _close(self, code: ErrorCodes) -> None:
        self.open = False
        self._connection.forget(self._id, code)


class Connection(asyncio.Protocol):
    """One client's connection. ``accept`` is called with each request's headers.

    ``opened`` and ``lost`` are called with the connection when it is made and when it has ended.
    """

    def __init__(
        self,
        accept: Callable[[Exchange, dict[str, str]], Request | None],
        opened: Callable[["Connection"], None],
        lost: Callable[["Connection"], None],
    ) -> None:
        self._accept = accept
        self._opened = opened
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._requests: dict[int, tuple[Exchange, Request | None]] = {}
        self._room: asyncio.Future[None] | None = None
        self._flushing = False
        self._leaving = False
        self._parted = False
        self.full = False
        """Whether so much waits to be written that no more should be."""
        self.h2 = H2Connection(_CONFIG)
        self.h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: _MAX_HEADER_LIST,
                # How many calls there may be is the server's to say, call by call.
                SettingCodes.MAX_CONCURRENT_STREAMS: 2**31 - 1,
            },
        )

    # -- asyncio.Protocol ----------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Greet the client."""
        self._transport = transport
        transport.set_write_buffer_limits(_BUFFERED)
        _watch(transport.get_extra_info("socket"))
        self._greeting = self._loop.call_later(_GREETING_S, transport.abort)
        self._opened(self)
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(_CONNECTION_WINDOW)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        try:
            for event in self.h2.receive_data(data):
                self._take(event)
        except (ProtocolError, UnicodeDecodeError):
            self._end()  # h2 has said what was wrong
            return
        self.flush()

    def pause_writing(self) -> None:
        """Let who sends responses wait."""
        self.full = True

    def resume_writing(self) -> None:
        """Let who sends responses go on."""
        self.full = False
        self._make_room()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell all whom it concerns."""
        self._greeting.cancel()
        self._end()
        self._lost(self)

    # -- for exchanges -------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what there is to be sent."""
        data = self.h2.data_to_send()
        if data and not self._parted and not self._transport.is_closing():
            self._transport.write(data)
            if self._transport.get_write_buffer_size() > _MAX_BUFFERED:
                self._transport.abort()

    def flush_soon(self) -> None:
        """Write what there is to be sent when this turn of the event loop is over."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_now)

    async def room(self) -> None:
        """Wait until more may be sent than before, or the connection is lost."""
        if self._room is None:
            self._room = self._loop.create_future()
        await asyncio.shield(self._room)

    def forget(self, stream_id: int, code: ErrorCodes) -> None:
        """Take note that an exchange has ended on our side."""
        self._requests.pop(stream_id, None)
        with contextlib.suppress(ProtocolError):
            # Also after a whole response: what is left of the request is of no use.
            if code is not ErrorCodes.NO_ERROR or not self.is_closed(stream_id):
                self.h2.reset_stream(stream_id, code)
        self.flush()
        self._part()

    def is_closed(self, stream_id: int) -> bool:
        """Whether nothing can be sent on a stream any more."""
        stream = self.h2.streams.get(stream_id)
        return stream is None or stream.closed

    # -- for the server ------------------------------------------------------------------------

    def leave(self) -> None:
        """Take no more requests, and close the connection after those that are under way."""
        if self._leaving:
            return
        self._leaving = True
        # h2's own way to say it ends all that is under way.
        farewell = GoAwayFrame(0, last_stream_id=self.h2.highest_inbound_stream_id)
        self.flush()
        self._transport.write(farewell.serialize())
        self._part()

    def abort(self) -> None:
        """Close the connection now."""
        self._transport.abort()

    # ------------------------------------------------------------------------------------------

    def _take(self, event: events.Event) -> None:
        if isinstance(event, events.DataReceived):
            length = event.flow_controlled_length or 0
            exchange, request = self._requests.get(event.stream_id or 0, (None, None))
            if exchange is None or request is None:
                if length:
                    self.h2.acknowledge_received_data(length, event.stream_id or 0)
                return
            request.received(event.data or b"", length)
        elif isinstance(event, events.RequestReceived):
            self._begin(event)
        elif isinstance(event, events.StreamEnded):
            exchange, request = self._requests.get(event.stream_id or 0, (None, None))
            if request is not None:
                request.ended()
        elif isinstance(event, events.StreamReset):
            exchange, request = self._requests.pop(event.stream_id or 0, (None, None))
            if exchange is not None:
                _tell_gone(exchange, request)
            self._make_room()
            self._part()
        elif isinstance(event, events.WindowUpdated):
            self._make_room()
        elif isinstance(event, events.RemoteSettingsChanged):
            self._greeting.cancel()
            # It may offer more, of our memory as of its own.
            encoder = self.h2.encoder
            encoder.header_table_size = min(encoder.header_table_size, _HEADER_TABLE)
            self._make_room()
        elif isinstance(event, events.ConnectionTerminated):
            self._end()  # h2 lets nothing be sent any more

    def _begin(self, event: events.RequestReceived) -> None:
        stream_id = event.stream_id or 0
        exchange = Exchange(self, stream_id)
        if self._leaving:
            exchange.refuse(ErrorCodes.REFUSED_STREAM)
            return
        headers: dict[str, str] = {}
        for name, value in event.headers or ():
            headers.setdefault(bytes(name).decode("ascii"), bytes(value).decode("latin-1"))
        self._requests[stream_id] = exchange, None
        request = self._accept(exchange, headers)
        if request is not None and exchange.open:
            self._requests[stream_id] = exchange, request

    def _part(self) -> None:
        """Close the connection if it is over, so that the client gets all that was sent.

        The system drops it if something comes after our end is closed, such as news of a window:
        the client's end is closed first. Encryption has a farewell of its own.
        """
        if self._leaving and not self._requests and not self._parted:
            self._parted = True
            if self._transport.can_write_eof():
                with contextlib.suppress(OSError):  # the client's end is gone already
                    self._transport.write_eof()
            else:
                self._transport.close()

    def _end(self) -> None:
        requests = list(self._requests.values())
        self._requests.clear()
        for exchange, request in requests:
            _tell_gone(exchange, request)
        self._make_room()
        self.flush()
        self._transport.close()

    def _flush_now(self) -> None:
        self._flushing = False
        self.flush()

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.set_result(None)
            self._room = None


def _tell_gone(exchange: Exchange, request: Request | None) -> None:
    exchange.open = False
    if request is not None:
        request.gone()


def _watch(connected: socket.socket | None) -> None:
    """Have the system end a connection whose other end is silent."""
    if connected is None:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)

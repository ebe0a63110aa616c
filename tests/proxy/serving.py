"""The proxy's gRPC server with methods of a test's own, and a client that may misbehave."""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, Self, TypeVar

import grpc
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame

from tests.proxy.running import LOCALHOST, TIMEOUT_S, eventually
from trialfleet.proxy.ports import bind
from trialfleet.proxy.rpc import Call, Method, Server

ECHO, PARK, DEAF = "/test.Test/Echo", "/test.Test/Park", "/test.Test/Deaf"
T = TypeVar("T")


async def echo(call: Call) -> None:
    """Write every request back."""
    while (message := await call.read()) is not None:
        await call.write(message)


class Parked:
    """A method that waits until it is cancelled, or released."""

    def __init__(self, *, reads: bool = True) -> None:
        self.begun = threading.Semaphore(0)
        self.cancelled = threading.Semaphore(0)
        self.released = asyncio.Event()
        self._reads = reads

    async def __call__(self, call: Call) -> None:
        if self._reads:
            await call.read()
        self.begun.release()
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.cancelled.release()
            raise
        await echo(call)
        await call.write(b"released")


class Serving:
    """A server on an event loop of its own, in a thread of this process."""

    def __init__(
        self,
        methods: Mapping[str, Method] | None = None,
        *,
        max_calls: int = 1000,
        send_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.park = Parked()
        self.deaf = Parked(reads=False)
        self.errors: list[Any] = []
        self._stack = ExitStack()
        self._methods: Mapping[str, Method] = {
            ECHO: echo,
            PARK: self.park,
            DEAF: self.deaf,
            **(methods or {}),
        }
        self._max_calls = max_calls
        self._send_buffer = send_buffer
        self._tls = tls
        self._ready: Future[int] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self.port = self._ready.result(TIMEOUT_S)

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self._end = asyncio.Event()
        self.server = Server(self._methods, self._max_calls)
        sockets, address = bind(LOCALHOST, "listen")
        for bound in sockets:
            if self._send_buffer is not None:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)
        await self.server.listen(sockets, self._tls)
        self._ready.set_result(address.port)
        await self._end.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
        try:
            self.run(self.server.stop(0))
            eventually(self.is_idle)
        finally:
            self.loop.call_soon_threadsafe(self._end.set)
            self._thread.join()
        assert not self.errors

    def is_idle(self) -> bool:
        """Whether no call is counted, no connection open, and no task left."""

        async def idle() -> bool:
            mine = {asyncio.current_task()}
            others = [task for task in asyncio.all_tasks() - mine if "_serve" not in repr(task)]
            return not (self.server._calls or self.server._connections or others)

        return self.run(idle())

    @property
    def calls(self) -> int:
        """How many calls are counted."""
        return len(self.server._calls)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's loop."""
        return self.start(coroutine).result(TIMEOUT_S)

    def start(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        """Begin a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def release(self) -> None:
        """Let the parked calls go on."""
        self.loop.call_soon_threadsafe(self.park.released.set)
        self.loop.call_soon_threadsafe(self.deaf.released.set)

    def client(self, **options: Any) -> "Client":
        """Return a client that may misbehave."""
        client = Client(self.port, **options)
        self._stack.callback(client.close)
        return client

    def channel(self, *options: tuple[str, Any]) -> Any:
        """Return a channel of gRPC's own client; without codecs, its methods take bytes."""
        channel = grpc.insecure_channel(f"127.0.0.1:{self.port}", options)
        self._stack.callback(channel.close)
        return channel


def framed(message: bytes, *, compressed: bool = False, size: int | None = None) -> bytes:
    """Return a message as gRPC sends it; ``size`` is a lie about its length."""
    length = len(message) if size is None else size
    return struct.pack(">BL", compressed, length) + message


class Reply:
    """What came back on one stream."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.ended = False
        self.reset: int | None = None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def code(self) -> grpc.StatusCode:
        number = int(self.headers["grpc-status"])
        return next(code for code in grpc.StatusCode if code.value[0] == number)

    @property
    def details(self) -> str:
        return self.headers["grpc-message"]

    @property
    def messages(self) -> list[bytes]:
        return list(self._messages())

    def _messages(self) -> Iterator[bytes]:
        body = bytes(self.body)
        while body:
            _, size = struct.unpack_from(">BL", body)
            assert len(body) >= 5 + size
            yield body[5 : 5 + size]
            body = body[5 + size :]


class Client:
    """An HTTP/2 client over a plain socket, frame by frame.

    It gives window back as data comes only if ``grants``; ``window`` is what each stream begins
    with.
    """

    def __init__(
        self,
        port: int,
        *,
        grants: bool = True,
        window: int = 65535,
        table: int = 4096,
        receive_buffer: int | None = None,
    ) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(("127.0.0.1", port))
        self._grants = grants
        self.h2 = H2Connection(
            H2Configuration(
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.h2.local_settings = Settings(
            initial_values={
                SettingCodes.INITIAL_WINDOW_SIZE: window,
                SettingCodes.HEADER_TABLE_SIZE: table,
            }
        )
        self.h2.decoder.max_allowed_table_size = table
        # h2 takes and sends nothing more when a server says that it leaves.
        self.h2._frame_dispatch_table[GoAwayFrame] = self._leaving
        self.replies: dict[int, Reply] = {}
        self.events: list[events.Event] = []
        self.h2.initiate_connection()
        self.flush()
        # The server's settings hold for what is sent from here on.
        self.until(lambda: self.saw(events.RemoteSettingsChanged))

    def close(self) -> None:
        self.socket.close()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def request(
        self,
        path: str = ECHO,
        body: bytes | None = b"",
        *,
        headers: Mapping[str, str] | None = None,
        end: bool = True,
    ) -> int:
        """Begin a call; without a body, only its headers are prepared. Return its stream."""
        stream = self.h2.get_next_available_stream_id()
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
            **(headers or {}),
        }
        self.replies[stream] = Reply()
        self.h2.send_headers(stream, list(fields.items()))
        if body is not None:
            self.h2.send_data(stream, body, end_stream=end)
            self.flush()
        return stream

    def saw(self, kind: type[events.Event]) -> bool:
        """Whether an event of a kind has come."""
        return any(isinstance(event, kind) for event in self.events)

    def receive(self) -> bool:
        """Take what comes next; return whether the connection is open."""
        try:
            data = self.socket.recv(64 * 1024)
        except ConnectionResetError:
            return False
        for event in self.h2.receive_data(data):
            self._take(event)
        if data:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.flush()
        return bool(data)

    def until(self, condition: Callable[[], bool]) -> None:
        """Take what comes until a condition holds."""
        while not condition():
            assert self.receive(), "the connection is closed"

    def to_the_end(self) -> None:
        """Take what comes until the server closes the connection."""
        while self.receive():
            pass

    def reply(self, stream: int) -> Reply:
        """Return what comes back on a stream, when it is over."""
        reply = self.replies[stream]
        self.until(lambda: reply.over)
        return reply

    def settle(self) -> None:
        """Wait until the server has taken all that was sent, and all that it sent has come."""
        self.h2.ping(b"settled?")
        self.flush()
        before = len(self.events)
        self.until(lambda: any(isinstance(e, events.PingAckReceived) for e in self.events[before:]))

    def _leaving(self, frame: GoAwayFrame) -> tuple[list[Frame], list[events.Event]]:
        event = events.ConnectionTerminated()
        event.error_code, event.last_stream_id = frame.error_code, frame.last_stream_id
        self.last_stream = frame.last_stream_id
        return [], [event]

    def _take(self, event: events.Event) -> None:
        self.events.append(event)
        stream = getattr(event, "stream_id", None)
        reply = self.replies.get(stream or 0)
        if reply is None:
            return
        if isinstance(event, events.ResponseReceived | events.TrailersReceived):
            for name, value in event.headers or ():
                reply.headers[str(name)] = str(value)
        elif isinstance(event, events.DataReceived):
            reply.body += event.data or b""
            if self._grants:
                self.h2.acknowledge_received_data(event.flow_controlled_length or 0, stream or 0)
        elif isinstance(event, events.StreamEnded):
            reply.ended = True
        elif isinstance(event, events.StreamReset):
            reply.reset = int(event.error_code or 0)

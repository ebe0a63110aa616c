"""One proxy's address, and the channel to it."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import grpc
from grpc.experimental import ChannelOptions

from trialfleet.client.calls import Call, Reply
from trialfleet.client.credentials import Credentials, Metadata
from trialfleet.client.stream import Stream, StreamEnded
from trialfleet.model.errors import InvalidInput

_OPTIONS: Final = (
    # The proxy is the one that limits messages; the client checks before it sends.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A proxy that was restarted is found again within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Retries are ours: they go to another proxy.
    ("grpc.enable_retries", 0),
    # A channel made anew must not share the broken connection of the one before.
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy is a neighbour, whatever http_proxy says of the way to the internet.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    # A stream is read by the thread that asked for it.
    (ChannelOptions.SingleThreadedUnaryStream, 1),
)


_T = TypeVar("_T")


class ChannelClosed(Exception):
    """The channel was closed by another thread before the call began."""


class _Channel:
    def __init__(self, address: str, credentials: Credentials) -> None:
        self.authorities = credentials.authorities
        self._address = address
        self._credentials = credentials
        self._target = credentials.target(address)
        self._lock = threading.Lock()
        # Made when it is needed: most workers never do.
        self._grpc: grpc.Channel | None = None
        self._unary: dict[Call[Any], Callable[..., Any]] = {}
        self._streams: set[Stream] = set()
        # Those that no thread uses: as many as threads made calls at once.
        self._idle: list[Stream] = []
        # That of calls whose answers are yet to be read.
        self._begun: Stream | None = None
        self.closed = False
        self.answered_at = time.monotonic()

    def call(
        self, call: Call[Reply], request: bytes, deadline_s: float, metadata: Metadata | None
    ) -> Reply:
        if not call.work:
            return self._method(call)(request, timeout=deadline_s, metadata=metadata)
        stream = self._take_fitting(metadata)
        if stream is not None:
            try:
                return self._make(call, stream, request, deadline_s)
            except StreamEnded as error:
                # It may have ended while nobody used it.
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
        return self._make(call, Stream(self._target, metadata), request, deadline_s)

    def begin(
        self, call: Call[Reply], request: bytes, deadline_s: float, metadata: Metadata | None
    ) -> Callable[[float], Reply]:
        begun = self._begun
        if begun is None or not begun.serves(metadata):
            begun = self._take_fitting(metadata) or Stream(self._target, metadata)
        stream = begun
        number = self._use(stream, lambda: stream.begin(call, request, deadline_s))
        self._begun = stream

        def finish(deadline_s: float) -> Reply:
            reply = self._use(stream, lambda: stream.finish(call, number, deadline_s))
            if not stream.awaited:
                if self._begun is stream:
                    self._begun = None
                self._give_back(stream)
            return reply

        return finish

    def _make(self, call: Call[Reply], stream: Stream, request: bytes, deadline_s: float) -> Reply:
        reply = self._use(stream, lambda: stream.make(call, request, deadline_s))
        self._give_back(stream)
        return reply

    def _use(self, stream: Stream, work: Callable[[], _T]) -> _T:
        self._streams.add(stream)
        try:
            if self.closed:  # before close() could see the stream
                raise ChannelClosed
            return work()
        except BaseException:
            self._end(stream)
            raise

    def _take_fitting(self, metadata: Metadata | None) -> Stream | None:
        while (stream := self._take_idle()) is not None and not stream.serves(metadata):
            self._end(stream)
        return stream

    def _give_back(self, stream: Stream) -> None:
        self._idle.append(stream)
        if self.closed:
            self._close_idle()

    def _end(self, stream: Stream) -> None:
        if self._begun is stream:
            self._begun = None
        self._streams.discard(stream)
        stream.close()

    def _take_idle(self) -> Stream | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _channel(self) -> grpc.Channel:
        with self._lock:
            if self.closed:
                raise ChannelClosed
            if self._grpc is None:
                self._grpc = self._credentials.connect(self._address, _OPTIONS)
            return self._grpc

    def _method(self, call: Call[Reply]) -> Callable[..., Reply]:
        found = self._unary.get(call)
        if found is None:
            found = self._channel().unary_unary(call.path, None, call.decode)
            self._unary[call] = found
        return found

    def stream(self, call: Call[Reply]) -> Callable[..., Iterator[Reply]]:
        return self._channel().unary_stream(call.path, None, call.decode)

    def close(self) -> None:
        with self._lock:
            self.closed = True
        self._close_idle()
        for stream in list(self._streams):
            stream.cancel()
        if self._grpc is not None:
            self._grpc.close()

    def _close_idle(self) -> None:
        while (stream := self._take_idle()) is not None:
            self._end(stream)


class Endpoint:
    """A proxy's address. Thread-safe; connects at the first call."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        """Take ``host:port``. Raises :class:`~trialfleet.model.errors.InvalidInput`."""
        host, colon, port = address.rpartition(":")
        if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
            raise InvalidInput(f"endpoints: found {address!r}, accepted: HOST:PORT[,HOST:PORT...]")
        self.address = address
        self._credentials = credentials
        self._lock = threading.Lock()
        self._channel: _Channel | None = None

    def call(self, call: Call[Reply], request: bytes, deadline_s: float) -> Reply:
        """Make one attempt, which takes ``deadline_s`` at most.

        Raises ``grpc.RpcError`` and :class:`ChannelClosed`.
        """
        channel = self._channel or self._connect()
        try:
            reply = channel.call(call, request, deadline_s, self._credentials.metadata)
        except ValueError as error:
            if channel.closed:
                raise ChannelClosed from error
            raise
        channel.answered_at = time.monotonic()
        return reply

    def begin(
        self, call: Call[Reply], request: bytes, deadline_s: float
    ) -> Callable[[float], Reply]:
        """Send a request of a worker's stream, within ``deadline_s``. Raises as :meth:`call`.

        What is returned waits for the answer, as long as it is told to; raises as :meth:`call`.
        Others may be begun before; the answers are waited for in the order of the requests.
        This and that are for one thread at a time.
        """
        channel = self._channel or self._connect()
        finish = channel.begin(call, request, deadline_s, self._credentials.metadata)

        def answered(deadline_s: float) -> Reply:
            reply = finish(deadline_s)
            channel.answered_at = time.monotonic()
            return reply

        return answered

    def stream(self, call: Call[Reply], request: bytes, deadline_s: float) -> Iterator[Reply]:
        """Make one attempt to read a stream. Raises as :meth:`call`, while it is read."""
        channel = self._channel or self._connect()
        metadata = self._credentials.metadata
        try:
            for reply in channel.stream(call)(request, timeout=deadline_s, metadata=metadata):
                channel.answered_at = time.monotonic()
                yield reply
        except ValueError as error:
            if channel.closed:
                raise ChannelClosed from error
            raise

    def renew(self) -> None:
        """Let the next call make another channel if the authorities to trust have changed."""
        channel = self._channel
        if channel is not None and channel.authorities != self._credentials.authorities:
            self.disconnect()

    def disconnect(self, silent_since: float | None = None) -> None:
        """Close the channel; the next call makes another. Calls under way are cancelled.

        If a time of the monotonic clock is given, only if nothing was answered since.
        """
        with self._lock:
            channel = self._channel
            if channel is None:
                return
            if silent_since is not None and channel.answered_at >= silent_since:
                return
            self._channel = None
        channel.close()

    def _connect(self) -> _Channel:
        with self._lock:
            if self._channel is None:
                self._channel = _Channel(self.address, self._credentials)
            return self._channel

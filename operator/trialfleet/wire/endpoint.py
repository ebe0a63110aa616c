"""One proxy's address, and the channel to it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, cast

import grpc

from trialfleet.model.errors import InvalidInput
from trialfleet.wire.credentials import Credentials, Metadata
from trialfleet.wire.methods import WORK, Method, Reply
from trialfleet.wire.v1 import trialfleet_pb2 as pb

_OPTIONS: Final[tuple[tuple[str, object], ...]] = (
    # The proxy is the one that limits messages; the client checks before it sends.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # How often a proxy that is away is tried, the caller's pauses say: see connection.py. A longer
    # back-off of gRPC's own would only be added to them. The minimum is for one attempt.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 250),
    # Retries are ours: they go to another proxy.
    ("grpc.enable_retries", 0),
    # A channel made anew must not share the broken connection of the one before.
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy is a neighbour, whatever http_proxy says of the way to the internet.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
)

_STATUS_LOST: Final = "Internal error from Core"
"""grpc.aio's own word for a call that ended while a message was being sent: the status that the
other end gave is lost, and asking again brings it."""

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class CallFailed(Exception):
    """A call ended with a status other than OK."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        if code is grpc.StatusCode.INTERNAL and details == _STATUS_LOST:
            code, details = grpc.StatusCode.UNAVAILABLE, "the call ended while it was written to"
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


class _WorkStream:
    """A ``Work`` stream: any number of calls at a time, each answered when it is done."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata | None) -> None:
        self.metadata = metadata
        self.ended = False
        self._call: Any = channel.stream_stream(WORK)(metadata=metadata)
        self._writing = asyncio.Lock()
        self._waiting: dict[int, asyncio.Future[pb.WorkReply]] = {}
        self._number = 0
        self.reader = asyncio.create_task(self._read())

    @property
    def idle(self) -> bool:
        """Whether no call is under way."""
        return not self._waiting

    async def call(self, method: Method[Reply], request: bytes, deadline_s: float) -> Reply:
        self._number += 1
        number = self._number
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(deadline_s):
                # An error of the stream comes to all who wait for a reply.
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    async with self._writing:
                        await self._call.write(method.wrap(request, number))
                reply = await waiting
        except TimeoutError:
            raise CallFailed(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {deadline_s:g} s"
            ) from None
        finally:
            del self._waiting[number]
        found = reply.WhichOneof("answer")
        if found == "refusal":
            code = _CODES.get(reply.refusal.code, grpc.StatusCode.UNKNOWN)
            raise CallFailed(code, reply.refusal.details)
        if found != method.work:
            raise CallFailed(
                grpc.StatusCode.INTERNAL, f"found an answer to {found}, expected {method.work}"
            )
        return cast(Reply, getattr(reply, found))

    def close(self) -> None:
        self.ended = True
        self._call.cancel()

    async def _read(self) -> None:
        code, details = grpc.StatusCode.UNAVAILABLE, "the stream was closed"
        try:
            while (message := await self._call.read()) is not grpc.aio.EOF:
                reply = pb.WorkReply.FromString(message)
                waiting = self._waiting.get(reply.number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(reply)
            code, details = await self._call.code(), await self._call.details() or ""
            if code is grpc.StatusCode.OK:
                code, details = grpc.StatusCode.INTERNAL, "the stream ended without an answer"
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
        except asyncio.CancelledError:
            if not self.ended:
                raise
        finally:
            self.ended = True
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(CallFailed(code, details))


class _Channel:
    """A channel, with what belongs to it."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        self.authorities = credentials.authorities
        self.grpc = credentials.channel(address, _OPTIONS)
        self.answered_at = time.monotonic()
        self._methods: dict[Method[Any], Callable[..., Awaitable[Any]]] = {}
        self._work: _WorkStream | None = None

    def method(self, method: Method[Reply]) -> Callable[..., Awaitable[Reply]]:
        found = self._methods.get(method)
        if found is None:
            found = self.grpc.unary_unary(method.path, None, method.decode)
            self._methods[method] = found
        return found

    def work(self, metadata: Metadata | None) -> _WorkStream:
        work = self._work
        if work is None or work.ended or work.metadata != metadata:
            if work is not None and work.idle:
                work.close()
            work = self._work = _WorkStream(self.grpc, metadata)
        return work

    async def close(self) -> None:
        if self._work is not None:
            self._work.close()
            await asyncio.wait((self._work.reader,))
        await self.grpc.close()


class Endpoint:
    """A proxy's address; connects at the first call. Belongs to one event loop."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        """Take ``host:port``, or ``unix:/PATH`` for a socket of this machine.

        Raises :class:`~trialfleet.model.errors.InvalidInput`.
        """
        host, colon, port = address.rpartition(":")
        if not address.startswith("unix:/") and not (
            colon and host and port.isdecimal() and 0 < int(port) < 65536
        ):
            raise InvalidInput(f"endpoints: found {address!r}, accepted: HOST:PORT[,HOST:PORT...]")
        self.address = address
        self._credentials = credentials
        self._channel: _Channel | None = None

    async def call(self, method: Method[Reply], request: bytes, deadline_s: float) -> Reply:
        """Make one attempt, which takes ``deadline_s`` at most. Raises :class:`CallFailed`."""
        channel, metadata = self._connect(), self._credentials.metadata
        try:
            if method.work:
                reply = await channel.work(metadata).call(method, request, deadline_s)
            else:
                call = channel.method(method)
                reply = await call(request, timeout=deadline_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise CallFailed(error.code(), error.details() or "") from error
        except grpc.aio.UsageError as error:
            raise CallFailed(grpc.StatusCode.CANCELLED, "the channel was closed") from error
        channel.answered_at = time.monotonic()
        return reply

    async def stream(
        self, method: Method[Reply], request: bytes, deadline_s: float
    ) -> AsyncIterator[Reply]:
        """Make one attempt to read a stream. Raises :class:`CallFailed`."""
        channel, metadata = self._connect(), self._credentials.metadata
        call: Any = channel.grpc.unary_stream(method.path, None, method.decode)
        try:
            async for reply in call(request, timeout=deadline_s, metadata=metadata):
                channel.answered_at = time.monotonic()
                yield reply
        except grpc.aio.AioRpcError as error:
            raise CallFailed(error.code(), error.details() or "") from error
        except grpc.aio.UsageError as error:
            raise CallFailed(grpc.StatusCode.CANCELLED, "the channel was closed") from error

    async def renew(self) -> None:
        """Let the next call make another channel if the authorities to trust have changed."""
        channel = self._channel
        if channel is not None and channel.authorities != self._credentials.authorities:
            await self.disconnect()

    async def disconnect(self, silent_since: float | None = None) -> None:
        """Close the channel; the next call makes another. Calls under way are cancelled.

        If a time of the monotonic clock is given, only if nothing was answered since.
        """
        channel = self._channel
        if channel is None:
            return
        if silent_since is not None and channel.answered_at >= silent_since:
            return
        self._channel = None
        await channel.close()

    def _connect(self) -> _Channel:
        if self._channel is None:
            self._channel = _Channel(self.address, self._credentials)
        return self._channel

"""How every call is answered: deadline, status code, metrics."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from time import perf_counter
from traceback import clear_frames
from typing import Any, Final, Protocol

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from trialfleet import names
from trialfleet.model.errors import Overloaded, TrialfleetError, grpc_code
from trialfleet.proxy import bounds
from trialfleet.proxy.bounds import Room, Rooms
from trialfleet.proxy.log_events import event
from trialfleet.proxy.proxy_metrics import ProxyMetrics
from trialfleet.wire.fields import encode_field, tag

_log = logging.getLogger(__name__)

# Details travel in a header, which clients limit to 8 KiB, percent-encoded.
_DETAILS_CHARACTERS: Final = 1000

_END: Final[Any] = grpc.aio.EOF

_MOST_AT_ONCE: Final = 32
"""So many requests of one stream are handled at the same time at most."""


class Refused(Exception):
    """A call ends with a status other than OK."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


class _TooLong(Exception):
    """A call without a deadline of its own took longer than the proxy allows."""


def serialize(reply: Message | bytes) -> bytes:
    """Encode a reply, unless its method has done so."""
    return reply if isinstance(reply, bytes) else reply.SerializeToString()


def status(error: Exception, method: str) -> tuple[grpc.StatusCode, str]:
    """Return the code and the one line that tell a caller of an error."""
    if isinstance(error, TrialfleetError):
        line = " ".join(str(error).split())
        return grpc_code(error), line[:_DETAILS_CHARACTERS]
    if isinstance(error, _TooLong):
        return grpc.StatusCode.DEADLINE_EXCEEDED, str(error)
    event(_log, logging.ERROR, "unexpected error", exc_info=error, method=method)
    return grpc.StatusCode.INTERNAL, f"{method}: {type(error).__name__}; the proxy's log has more"


class Guard(Protocol):
    """Checks every call before anything is done for it."""

    def caller(self) -> str:
        """Return whose share of the proxy the current call uses."""

    def check(self, method: str) -> Callable[[Any], Awaitable[None]]:
        """Return what raises if the caller may not call a method with a request.

        Raises ``KeyError`` if that is not settled for the method.
        """


_Answer = Callable[[Any, bool], Awaitable[Any]]
"""From a request, and whether its caller set a deadline, to what its method returns."""


class Calls:
    """Makes gRPC handlers of the methods of services.

    Methods are coroutine functions from request to reply, or, of a streaming method, asynchronous
    generator functions. One with a stream of requests is not implemented: each of its requests
    holds one of another method, and each of its replies that one's reply. ``gate`` is called
    before each call and raises while the proxy can't serve, and so does ``guard`` if it refuses
    the call. A call without a deadline gets one of ``limit_s`` seconds.
    """

    def __init__(
        self,
        metrics: ProxyMetrics,
        gate: Callable[[], None],
        limit_s: float,
        rooms: Rooms,
        guard: Guard | None = None,
    ) -> None:
        self._metrics = metrics
        self._rooms = rooms
        self._gate = gate
        self._limit_s = limit_s
        self._guard = guard
        self._stopping = False
        self._reading: set[asyncio.Task[Any]] = set()

    def stop(self) -> None:
        """End each stream that waits for a request, and the others after their replies."""
        self._stopping = True
        for task in self._reading:
            task.cancel()

    def handlers(
        self, service: ServiceDescriptor, implementation: object
    ) -> grpc.GenericRpcHandler:
        """Return the handlers of a service's methods; all must be implemented."""
        handlers: dict[str, Any] = {
            name: self._stream(method, implementation)
            if method.client_streaming
            else self._method(method, implementation)
            for name, method in service.methods_by_name.items()
        }
        return grpc.method_handlers_generic_handler(service.full_name, handlers)

    def _method(self, method: MethodDescriptor, implementation: object) -> Any:
        decode = GetMessageClass(method.input_type).FromString
        function = getattr(implementation, method.name)
        part_bytes = names.HISTORY_PART_BYTES
        answer: _Answer
        if not method.server_streaming:
            answer = self._answer(method, function)

            async def respond(context: Any) -> None:
                limited = context.time_remaining() is not None
                with self._holding() as hold:
                    message = await self._receive(context)
                    await self._fit(self._rooms.handled, len(message))
                    hold(self._rooms.handled, len(message))
                    reply = serialize(await answer(_decoded(decode, message), limited))
                    await self._fit(self._rooms.replies, len(reply))
                    hold(self._rooms.replies, len(reply))
                    await _send(context, reply)

            async def unary(_: Any, context: Any) -> None:
                try:
                    await respond(context)
                except Refused as refused:
                    # The message is not kept until the caller has read the refusal.
                    clear_frames(refused.__traceback__)
                    await refuse(context, refused.code, refused.details)

            return grpc.stream_stream_rpc_method_handler(unary)

        async def parts(_: Any, context: Any) -> None:
            async def write(request: Message) -> None:
                # The place is taken before a part is made.
                with self._holding() as hold:
                    await self._rooms.replies.wait(self._caller(), part_bytes)
                    hold(self._rooms.replies, part_bytes)
                    async for part in function(request):
                        await _send(context, serialize(part))

            try:
                limited = context.time_remaining() is not None
                message = await self._receive(context)
                await self._answer(method, write)(_decoded(decode, message), limited)
            except Refused as refused:
                await refuse(context, refused.code, refused.details)

        return grpc.stream_stream_rpc_method_handler(parts)

    def _caller(self) -> str:
        return "" if self._guard is None else self._guard.caller()

    async def _fit(self, room: Room, size: int) -> None:
        """Wait until a message fits, if its caller may be a stock client: it does not try again."""
        if self._guard is None:
            try:
                await room.wait("", size)
            except Overloaded as error:
                raise Refused(grpc_code(error), str(error)) from error

    @contextlib.contextmanager
    def _holding(self) -> Iterator[Callable[[Room, int], None]]:
        """Give what holds messages of the current call in a room, until the end."""
        caller = self._caller()
        with contextlib.ExitStack() as held:

            def hold(room: Room, size: int) -> None:
                try:
                    held.enter_context(room.hold(caller, size))
                except Overloaded as error:
                    raise Refused(grpc_code(error), str(error)) from error

            yield hold

    async def _receive(self, context: Any) -> bytes:
        """Return the only message of a call. Raises ``Refused`` if there is none in time.

        What a call has sent is in memory from when somebody reads it: so few are read at a time.
        """
        size, arriving = names.MAX_MESSAGE_BYTES, self._rooms.arriving
        try:
            await arriving.wait(self._caller(), size)
        except Overloaded as error:
            raise Refused(grpc_code(error), str(error)) from error
        with self._holding() as hold:
            hold(arriving, size)
            return await first_message(context)

    def _stream(self, method: MethodDescriptor, implementation: object) -> Any:
        """Return the handler of a stream of calls of other methods.

        Each reply bears the number of its request.
        """
        request: Any = GetMessageClass(method.input_type)
        reply: Any = GetMessageClass(method.output_type)
        (choice,) = method.input_type.oneofs
        by_request: dict[Any, MethodDescriptor] = {
            other.input_type: other for other in method.containing_service.methods
        }
        answers: dict[str, tuple[_Answer, bytes]] = {}
        for field in choice.fields:
            other = by_request[field.message_type]
            answer = self._answer(other, getattr(implementation, other.name))
            answers[field.name] = answer, tag(reply, field.name)

        async def handle(message: bytes, hold: Callable[[Room, int], None]) -> bytes:
            number = 0
            try:
                asked = _decoded(request.FromString, message)
                number = asked.number
                name = asked.WhichOneof(choice.name)
                if name is None:
                    raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"{choice.name}: found none")
                answer, opening = answers[name]
                hold(self._rooms.handled, len(message))
                answered = serialize(await answer(getattr(asked, name), False))
                hold(self._rooms.replies, len(answered))
                return encode_field(opening, answered) + serialize(reply(number=number))
            except Refused as refused:
                code, details = refused.code.value[0], refused.details
                return serialize(reply(number=number, refusal={"code": code, "details": details}))

        async def stream(_: Any, context: Any) -> None:
            writing = asyncio.Lock()
            under_way: set[asyncio.Task[None]] = set()
            owner = asyncio.current_task()
            assert owner is not None

            async def make(message: bytes) -> None:
                with self._holding() as hold:
                    answered = await handle(message, hold)
                    async with writing:
                        try:
                            await _send(context, answered)
                        except (grpc.aio.BaseError, asyncio.CancelledError):
                            owner.cancel()  # the caller is gone, or does not read

            try:
                message = await self._read(context, first=True)
                while message is not None:
                    task = asyncio.create_task(make(message))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                    if len(under_way) >= _MOST_AT_ONCE:
                        await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                    message = await self._read(context)
                if under_way:
                    await asyncio.wait(under_way)
            except Refused as refused:
                await refuse(context, refused.code, refused.details)
            finally:
                for task in under_way:
                    task.cancel()
            if self._stopping:
                await refuse(context, grpc.StatusCode.UNAVAILABLE, "the proxy is stopping")

        return grpc.stream_stream_rpc_method_handler(stream)

    async def _read(self, context: Any, *, first: bool = False) -> bytes | None:
        """Return the next request of a stream; None if there are no more, or the proxy stops."""
        task = asyncio.current_task()
        assert task is not None
        self._reading.add(task)
        try:
            if self._stopping:
                return None
            message: bytes = await (_arriving(context) if first else context.read())
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            return None
        finally:
            self._reading.discard(task)
        return None if message is _END else message

    def _answer(
        self, method: MethodDescriptor, function: Callable[[Any], Awaitable[Any]]
    ) -> _Answer:
        name = method.full_name
        metrics, gate, limit_s = self._metrics, self._gate, self._limit_s
        check = None if self._guard is None else self._guard.check(method.name)
        observe = metrics.method(name)

        async def make(request: Message) -> Any:
            gate()
            if check is not None:
                await check(request)
            return await function(request)

        async def answer(request: Message, limited: bool) -> Any:
            started = perf_counter()
            metrics.waiting += 1
            code = grpc.StatusCode.OK
            try:
                if limited:
                    return await make(request)
                try:
                    async with asyncio.timeout(limit_s) as limit:
                        return await make(request)
                except TimeoutError as error:
                    if not limit.expired():
                        raise
                    raise _TooLong(f"{name}: not done within {limit_s:g} s") from error
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as error:
                code, details = status(error, name)
                # Frames refer to the error, and it to them: what they hold, the request too,
                # would stay until the garbage collector finds it.
                clear_frames(error.__traceback__)
                raise Refused(code, details) from error
            finally:
                metrics.waiting -= 1
                observe(code, perf_counter() - started)

        return answer


async def first_message(context: Any) -> bytes:
    """Return the first message of a call. Raises ``Refused``."""
    message = await _arriving(context)
    if message is _END:
        # Of a message over the bound gRPC has told the caller.
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "found no message, accepted: one")
    return message


async def _arriving(context: Any) -> bytes:
    try:
        async with asyncio.timeout(bounds.PATIENCE_S):
            message: bytes = await context.read()
    except TimeoutError as error:
        raise Refused(
            grpc.StatusCode.DEADLINE_EXCEEDED, f"found no message within {bounds.PATIENCE_S:g} s"
        ) from error
    return message


async def refuse(context: Any, code: grpc.StatusCode, details: str) -> None:
    """End a call with a status, without a word if it has ended: gRPC would log a traceback."""
    try:
        await context.abort(code, details)
    except grpc.aio.AbortError:
        raise
    except grpc.aio.BaseError as error:
        raise asyncio.CancelledError from error


async def _send(context: Any, reply: bytes) -> None:
    """Send a reply. The call ends without a word if its caller does not read what was sent."""
    try:
        async with asyncio.timeout(bounds.PATIENCE_S):
            await context.write(reply)
    except TimeoutError as error:
        raise asyncio.CancelledError from error


def _decoded(decode: Callable[[bytes], Any], message: bytes) -> Any:
    try:
        return decode(message)
    except DecodeError as error:
        raise Refused(
            grpc.StatusCode.INVALID_ARGUMENT, f"found no message of the method's: {error}"
        ) from error

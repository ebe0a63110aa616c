"""How every call is answered: deadline, status code, metrics."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any, Final, Protocol

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from trialfleet.model.errors import TrialfleetError, grpc_code
from trialfleet.proxy.conversation import Conversation
from trialfleet.proxy.logs import event
from trialfleet.proxy.metrics import Metrics
from trialfleet.proxy.rpc import Call, Method, Refused
from trialfleet.wire.fields import encode_field, tag

_log = logging.getLogger(__name__)

# Details travel in a header, which clients limit to 8 KiB, percent-encoded.
_DETAILS_CHARACTERS: Final = 1000


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

    def check(self, method: str) -> Callable[[Message, Call], Awaitable[None]]:
        """Return what raises if the sender of a message may not call a method with it.

        Raises ``KeyError`` if that is not settled for the method.
        """


_Function = Callable[[Any, Call], Awaitable[Any]]
"""From a request to what its method returns."""


class Calls:
    """Makes methods that are served of the methods of services.

    Those are coroutine functions from request to reply, or, of a streaming method, asynchronous
    generator functions. One with a stream of requests is not implemented: its requests are those of
    other methods, one of which each holds, and so are its replies. ``gate`` is called before each
    call and raises while the proxy can't serve, and so does ``guard`` if it refuses the call. A
    call without a deadline gets one of ``limit_s`` seconds.
    """

    def __init__(
        self,
        metrics: Metrics,
        gate: Callable[[], None],
        limit_s: float,
        guard: Guard | None = None,
    ) -> None:
        self._metrics = metrics
        self._gate = gate
        self._limit_s = limit_s
        self._guard = guard
        self._stopping = False
        self._idle: set[asyncio.Task[Any]] = set()

    def stop(self) -> None:
        """End the streams on which no call is under way; the others end after their call."""
        self._stopping = True
        for task in self._idle:
            task.cancel()

    def methods(self, service: ServiceDescriptor, implementation: object) -> Mapping[str, Method]:
        """Return the methods of a service by their paths; all must be implemented."""
        return {
            f"/{service.full_name}/{name}": self._conversation(method, implementation)
            if method.client_streaming
            else self._method(method, implementation)
            for name, method in service.methods_by_name.items()
        }

    def _method(self, method: MethodDescriptor, implementation: object) -> Method:
        decode: Callable[[bytes], Message] = GetMessageClass(method.input_type).FromString
        if not method.server_streaming:
            answer = self._unary(method, implementation)

            async def unary(call: Call) -> None:
                await call.write(await answer(await _only(call, decode), call))

            return unary
        function = getattr(implementation, method.name)

        async def parts(request: Message, call: Call) -> None:
            async for part in function(request):
                await call.write(serialize(part))

        stream = self._answer(method, parts)

        async def streaming(call: Call) -> None:
            await stream(await _only(call, decode), call)

        return streaming

    def _conversation(self, method: MethodDescriptor, implementation: object) -> Method:
        """Return what makes calls of other methods over a stream.

        An answer bears the number of its request.
        """
        request: Any = GetMessageClass(method.input_type)
        reply: Any = GetMessageClass(method.output_type)
        (choice,) = method.input_type.oneofs
        by_request: dict[Any, MethodDescriptor] = {
            other.input_type: other for other in method.containing_service.methods
        }
        answers = {
            field.name: (
                self._unary(by_request[field.message_type], implementation),
                tag(reply, field.name),
            )
            for field in choice.fields
        }

        async def make(message: bytes, call: Call) -> bytes:
            asked = _decoded(request.FromString, message)
            name = asked.WhichOneof(choice.name)
            if name is None:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"{choice.name}: found none")
            answer, opening = answers[name]
            answered = encode_field(opening, await answer(getattr(asked, name), call))
            return answered + serialize(reply(number=asked.number))

        return lambda call: Conversation(call, self._next, make).run()

    async def _next(self, call: Call) -> bytes | None:
        task = asyncio.current_task()
        assert task is not None
        self._idle.add(task)
        try:
            if not self._stopping:
                return await call.read()
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        finally:
            self._idle.discard(task)
        raise Refused(grpc.StatusCode.UNAVAILABLE, "the proxy is stopping")

    def _unary(
        self, method: MethodDescriptor, implementation: object
    ) -> Callable[[Message, Call], Awaitable[bytes]]:
        function: Callable[[Message], Awaitable[Any]] = getattr(implementation, method.name)

        async def unary(request: Message, _: Call) -> bytes:
            return serialize(await function(request))

        return self._answer(method, unary)

    def _answer(
        self, method: MethodDescriptor, function: _Function
    ) -> Callable[[Message, Call], Awaitable[Any]]:
        name = method.full_name
        metrics, gate, limit_s = self._metrics, self._gate, self._limit_s
        check = None if self._guard is None else self._guard.check(method.name)
        observe = metrics.method(name)

        async def make(request: Message, call: Call) -> Any:
            gate()
            if check is not None:
                await check(request, call)
            return await function(request, call)

        async def answer(request: Message, call: Call) -> Any:
            started = perf_counter()
            metrics.waiting += 1
            code = grpc.StatusCode.OK
            try:
                if call.limited:
                    return await make(request, call)
                try:
                    async with asyncio.timeout(limit_s) as limit:
                        return await make(request, call)
                except TimeoutError as error:
                    if not limit.expired():
                        raise
                    raise _TooLong(f"{name}: not done within {limit_s:g} s") from error
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as error:
                code, details = status(error, name)
                raise Refused(code, details) from error
            finally:
                metrics.waiting -= 1
                observe(code, perf_counter() - started)

        return answer


async def _only(call: Call, decode: Callable[[bytes], Message]) -> Any:
    message = await call.read()
    if message is None:
        raise Refused(grpc.StatusCode.INTERNAL, "found no request, expected one")
    return _decoded(decode, message)


def _decoded(decode: Callable[[bytes], Any], message: bytes) -> Any:
    try:
        return decode(message)
    except DecodeError as error:
        raise Refused(
            grpc.StatusCode.INVALID_ARGUMENT, f"found no message of the method's: {error}"
        ) from error

"""How every call is answered: deadline, status code, metrics.

Handlers are wrapped as they are registered; an interceptor of ``grpc.aio`` would cost more
than most calls.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any, Final, Protocol

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from trialfleet.errors import TrialfleetError, grpc_code
from trialfleet.proxy.logs import event
from trialfleet.proxy.metrics import Metrics

_log = logging.getLogger(__name__)

# Details travel in a header, which clients limit to 8 KiB, percent-encoded.
_DETAILS_CHARACTERS: Final = 1000

Context = grpc.aio.ServicerContext[Any, Any]


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

    def check(self, method: str) -> Callable[[Message, Context], Awaitable[None]]:
        """Return what raises if the sender of a message may not call a method with it.

        Raises ``KeyError`` if that is not settled for the method.
        """


class Calls:
    """Makes handlers of the methods of services.

    A method is a coroutine function from request to reply, or, of a streaming method, an
    asynchronous generator function. ``gate`` is called before each and raises while the proxy
    can't serve, and so does ``guard`` if it refuses the call. A call without a deadline gets one of
    ``limit_s`` seconds.
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

    def handlers(
        self, service: ServiceDescriptor, implementation: object
    ) -> "Mapping[str, grpc.RpcMethodHandler[Any, Any]]":
        """Return a handler for each method of a service, which all must be implemented."""
        return {
            method.name: self._handler(method, getattr(implementation, method.name))
            for method in service.methods
        }

    def _handler(
        self, method: MethodDescriptor, function: Callable[[Any], Any]
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        name = method.full_name
        request: Any = GetMessageClass(method.input_type)
        if method.server_streaming:

            async def stream(message: Message, context: Context) -> None:
                async for part in function(message):
                    await context.write(part)

            return grpc.unary_stream_rpc_method_handler(
                self._answer(name, self._guarded(method, stream)), request.FromString, serialize
            )

        def unary(message: Message, _: Context) -> Awaitable[Any]:
            answer: Awaitable[Any] = function(message)
            return answer

        return grpc.unary_unary_rpc_method_handler(
            self._answer(name, self._guarded(method, unary)), request.FromString, serialize
        )

    def _guarded(
        self, method: MethodDescriptor, function: Callable[[Any, Context], Awaitable[Any]]
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        if self._guard is None:
            return function
        check = self._guard.check(method.name)

        async def guarded(message: Message, context: Context) -> Any:
            await check(message, context)
            return await function(message, context)

        return guarded

    def _answer(
        self, name: str, function: Callable[[Any, Context], Awaitable[Any]]
    ) -> Callable[[Any, Context], Any]:
        metrics, gate, limit_s = self._metrics, self._gate, self._limit_s
        observe = metrics.method(name)

        async def answer(message: Message, context: Context) -> Any:
            started = perf_counter()
            metrics.waiting += 1
            code = grpc.StatusCode.OK
            try:
                gate()
                if context.time_remaining() is not None:
                    return await function(message, context)
                try:
                    async with asyncio.timeout(limit_s) as limit:
                        return await function(message, context)
                except TimeoutError as error:
                    if not limit.expired():
                        raise
                    raise _TooLong(f"{name}: not done within {limit_s:g} s") from error
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as error:
                code, details = status(error, name)
                await context.abort(code, details)
            finally:
                metrics.waiting -= 1
                observe(code, perf_counter() - started)

        return answer

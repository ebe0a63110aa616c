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


_STREAM: Final = "Stream"
"""Ends the name of a method that makes the calls of another over one stream."""


class Calls:
    """Makes handlers of the methods of services.

    A method is a coroutine function from request to reply, or, of a streaming method, an
    asynchronous generator function. One with a stream of requests is named ``METHODStream`` and
    makes the calls of ``METHOD``. ``gate`` is called before each call and raises while the proxy
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
        self._stopping = False
        self._idle: set[asyncio.Task[Any]] = set()

    def stop(self) -> None:
        """End the streams on which no call is under way; the others end after their call."""
        self._stopping = True
        for task in self._idle:
            task.cancel()

    def handlers(
        self, service: ServiceDescriptor, implementation: object
    ) -> "Mapping[str, grpc.RpcMethodHandler[Any, Any]]":
        """Return a handler for each method of a service, which all must be implemented."""
        methods = service.methods_by_name
        return {
            name: self._conversation(methods[name.removesuffix(_STREAM)], implementation)
            if method.client_streaming
            else self._handler(method, implementation)
            for name, method in methods.items()
        }

    def _handler(
        self, method: MethodDescriptor, implementation: object
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        request: Any = GetMessageClass(method.input_type)
        if method.server_streaming:
            function = getattr(implementation, method.name)

            async def stream(message: Message, context: Context) -> None:
                async for part in function(message):
                    await context.write(part)

            return grpc.unary_stream_rpc_method_handler(
                self._answer(method.full_name, self._guarded(method, stream)),
                request.FromString,
                serialize,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, implementation), request.FromString, serialize
        )

    def _conversation(
        self, method: MethodDescriptor, implementation: object
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """Return a handler of a stream that makes a unary method's calls, one after the other.

        That costs a third of what as many calls would. The first that fails ends it.
        """
        answer = self._unary(method, implementation)
        request: Any = GetMessageClass(method.input_type)

        async def converse(_: object, context: Context) -> None:
            while (message := await self._next(context)) is not grpc.aio.EOF:
                await context.write(await answer(message, context))

        return grpc.stream_stream_rpc_method_handler(converse, request.FromString, serialize)

    async def _next(self, context: Context) -> Any:
        task = asyncio.current_task()
        assert task is not None
        self._idle.add(task)
        try:
            if not self._stopping:
                return await context.read()
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        finally:
            self._idle.discard(task)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the proxy is stopping")

    def _unary(
        self, method: MethodDescriptor, implementation: object
    ) -> Callable[[Any, Context], Any]:
        function: Callable[[Message], Awaitable[Any]] = getattr(implementation, method.name)

        def unary(message: Message, _: Context) -> Awaitable[Any]:
            return function(message)

        return self._answer(method.full_name, self._guarded(method, unary))

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

"""The standard health service, ``grpc.health.v1``, which ends when the proxy stops."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2

from trialfleet import names
from trialfleet.proxy.calls import Refused, first_message, refuse

SERVICES: Final = ("", "trialfleet.v1.TrialFleet", "optuna.StorageService")
"""The names that a client may ask for; all have the same status."""

MOST_CALLS: Final = 20
"""Of one address at a time: who shows no token is not to take the places of those who do."""

_NAME: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health.aio.HealthServicer):
    """Not serving until it is told otherwise. Belongs to one event loop.

    Two more names are for a kubelet's probes: ``names.HEALTH_STARTUP`` is answered when the proxy
    serves the first time, ``names.HEALTH_LIVENESS`` at once, whatever its database does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.serving = False
        self._begun = False
        self._decided = asyncio.Event()
        self._stopping = False
        self._callers: Counter[str] = Counter()
        self._watching: set[asyncio.Task[None]] = set()

    async def register(self, server: grpc.aio.Server, *, read: bool) -> None:
        """Let a server that does not run yet answer health checks.

        Without ``read`` nothing that a caller sends is read: it is answered for the proxy as a
        whole, whichever service it names.
        """
        for service in SERVICES:
            await self.set(service, _NOT_SERVING)
        handlers = {
            "Check": self._handler(self._check, read),
            "Watch": self._handler(self.Watch, read),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_NAME, handlers),))

    def _handler(self, answer: Callable[..., Awaitable[None]], read: bool) -> Any:
        async def handle(_: Any, context: Any) -> None:
            host = str(context.peer()).rpartition(":")[0]
            if self._callers[host] >= MOST_CALLS:
                code = grpc.StatusCode.RESOURCE_EXHAUSTED
                await refuse(context, code, f"{MOST_CALLS} health checks are under way already")
            self._callers[host] += 1
            try:
                message = await first_message(context) if read else b""
                await answer(health_pb2.HealthCheckRequest.FromString(message), context)
            except Refused as refused:
                await refuse(context, refused.code, refused.details)
            except DecodeError as error:
                await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
            finally:
                self._callers[host] -= 1
                if not self._callers[host]:
                    del self._callers[host]

        # Of all kinds of handlers it is the one that reads no message first.
        return grpc.stream_stream_rpc_method_handler(
            handle, response_serializer=health_pb2.HealthCheckResponse.SerializeToString
        )

    async def _check(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        await context.write(await self.Check(request, context))

    async def tell(self, serving: bool) -> None:
        """Set the status of all services; without effect once :meth:`stop` was called."""
        if serving != self.serving and not self._stopping:
            self.serving = serving
            if serving:
                self._begun = True
                self._decided.set()
            for service in SERVICES:
                await self.set(service, _SERVING if serving else _NOT_SERVING)

    async def stop(self) -> None:
        """Tell all clients that the server stops, and end their watching.

        Otherwise each of them would hold the stop up until the grace is over.
        """
        self.serving = False
        self._stopping = True
        self._decided.set()
        for task in self._watching:
            task.cancel()
        await self.enter_graceful_shutdown()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        """Return the status of a service."""
        if request.service == names.HEALTH_LIVENESS:
            return health_pb2.HealthCheckResponse(status=_SERVING)
        if request.service == names.HEALTH_STARTUP:
            await self._decided.wait()
            status = _SERVING if self._begun else _NOT_SERVING
            return health_pb2.HealthCheckResponse(status=status)
        return await super().Check(request, context)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """Send the status and every change of it, until the server stops."""
        watching = asyncio.create_task(super().Watch(request, context))
        self._watching.add(watching)
        try:
            await watching
        except asyncio.CancelledError:
            watching.cancel()
            if not self._stopping:
                raise
            await context.write(health_pb2.HealthCheckResponse(status=_NOT_SERVING))
        finally:
            self._watching.discard(watching)

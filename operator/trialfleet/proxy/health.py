"""The standard health service, ``grpc.health.v1``, which ends when the proxy stops."""

import asyncio
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from trialfleet import names

SERVICES: Final = ("", "trialfleet.v1.TrialFleet", "optuna.StorageService")
"""The names that a client may ask for; all have the same status."""

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
        self._watching: set[asyncio.Task[None]] = set()

    async def register(self, server: grpc.aio.Server) -> None:
        """Let a server that does not run yet answer health checks."""
        for service in SERVICES:
            await self.set(service, _NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self, server)

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

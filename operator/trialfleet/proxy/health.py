"""The standard health service, ``grpc.health.v1``."""

import asyncio
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2

SERVICES: Final = ("", "trialfleet.v1.TrialFleet", "optuna.StorageService")
"""The names that a client may ask for; all have the same status."""

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health.aio.HealthServicer):
    """Not serving until it is told otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self._server_status = dict.fromkeys(SERVICES, _NOT_SERVING)
        self._stopping = asyncio.Event()
        self.serving = False

    async def tell(self, serving: bool) -> None:
        """Set the status of all services; without effect once :meth:`stop` was called."""
        self.serving = serving and not self._stopping.is_set()
        for service in SERVICES:
            await self.set(service, _SERVING if serving else _NOT_SERVING)

    async def stop(self) -> None:
        """Tell all clients that the server stops, and end their watching."""
        self.serving = False
        await self.enter_graceful_shutdown()
        self._stopping.set()

    async def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Send the status and every change of it.

        Ends when the server stops: a client that watches must not hold the stop up until the
        grace is over.
        """
        watching = asyncio.ensure_future(super().Watch(request, context))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((watching, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            watching.cancel()
            stopping.cancel()
            await asyncio.gather(watching, stopping, return_exceptions=True)
        await context.write(health_pb2.HealthCheckResponse(status=_NOT_SERVING))

"""The standard health service, ``grpc.health.v1``."""

import asyncio
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICES: Final = frozenset({"", "trialfleet.v1.TrialFleet", "optuna.StorageService"})
"""The names that a client may ask for; all have the same status."""

_Context = grpc.aio.ServicerContext[Any, Any]

_SERVING: Final = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
_NOT_SERVING: Final = health_pb2.HealthCheckResponse(
    status=health_pb2.HealthCheckResponse.NOT_SERVING
)
_UNKNOWN: Final = health_pb2.HealthCheckResponse(
    status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
)


class Health(health_pb2_grpc.HealthServicer):
    """Not serving until it is told otherwise.

    Unlike the servicer that comes with gRPC it ends the watching of clients when the server
    stops; otherwise each of them would hold the stop up until the grace is over. Belongs to one
    event loop.
    """

    def __init__(self) -> None:
        self.serving = False
        self._stopping = False
        self._changed = asyncio.Event()

    def tell(self, serving: bool) -> None:
        """Set the status of all services; without effect once :meth:`stop` was called."""
        if serving != self.serving and not self._stopping:
            self.serving = serving
            self._wake()

    def stop(self) -> None:
        """Tell all clients that the server stops, and end their watching."""
        self.serving = False
        self._stopping = True
        self._wake()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> health_pb2.HealthCheckResponse:
        """Return the status; NOT_FOUND for an unknown service."""
        if request.service not in SERVICES:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"no service has the name {request.service!r}"
            )
        return self._status(request.service)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: _Context) -> None:
        """Send the status and every change of it, until the server stops."""
        last = None
        while True:
            changed, stopping = self._changed, self._stopping
            status = self._status(request.service)
            if status != last:
                await context.write(status)
            if stopping:
                return
            last = status
            await changed.wait()

    def _status(self, service: str) -> health_pb2.HealthCheckResponse:
        if service not in SERVICES:
            return _UNKNOWN
        return _SERVING if self.serving else _NOT_SERVING

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

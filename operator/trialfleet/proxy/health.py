"""The standard health service, ``grpc.health.v1``."""

import asyncio
from collections.abc import Mapping
from typing import Final

import grpc
from grpc_health.v1 import health_pb2

from trialfleet.proxy.rpc import Call, Method, Refused

SERVICES: Final = frozenset({"", "trialfleet.v1.TrialFleet", "optuna.StorageService"})
"""The names that a client may ask for; all have the same status."""

_SERVICE: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_SERVING: Final = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
_NOT_SERVING: Final = health_pb2.HealthCheckResponse(
    status=health_pb2.HealthCheckResponse.NOT_SERVING
)
_UNKNOWN: Final = health_pb2.HealthCheckResponse(
    status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
)


class Health:
    """Not serving until it is told otherwise. Belongs to one event loop."""

    def __init__(self) -> None:
        self.serving = False
        self._stopping = False
        self._changed = asyncio.Event()

    def methods(self) -> Mapping[str, Method]:
        """Return what is served, by path: to anyone, at any time."""
        return {f"/{_SERVICE}/Check": self._check, f"/{_SERVICE}/Watch": self._watch}

    def tell(self, serving: bool) -> None:
        """Set the status of all services; without effect once :meth:`stop` was called."""
        if serving != self.serving and not self._stopping:
            self.serving = serving
            self._wake()

    def stop(self) -> None:
        """Tell all clients that the server stops, and end their watching.

        Otherwise each of them would hold the stop up until the grace is over.
        """
        self.serving = False
        self._stopping = True
        self._wake()

    async def _check(self, call: Call) -> None:
        """Answer with the status; NOT_FOUND for an unknown service."""
        service = await _service(call)
        if service not in SERVICES:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"no service has the name {service!r}")
        await call.write(self._status(service).SerializeToString())

    async def _watch(self, call: Call) -> None:
        """Send the status and every change of it, until the server stops."""
        service = await _service(call)
        last = None
        while True:
            changed, stopping = self._changed, self._stopping
            status = self._status(service)
            if status != last:
                await call.write(status.SerializeToString())
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


async def _service(call: Call) -> str:
    return health_pb2.HealthCheckRequest.FromString(await call.read() or b"").service

"""Probes of the stand-in's kubelets: of readiness, and of liveness."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.controller.standin.objects import Object

PROBE_S = 0.3
"""Between two probes of readiness."""
_LIFE_S = 1.0
"""Between two probes of liveness: a kubelet's 10 s would only make the tests wait."""

Run = Callable[[list[str]], Awaitable[int]]
"""Runs a command as in the container; returns its exit code."""


async def watch(
    container: Object,
    address: str,
    run: Run,
    tell: Callable[[bool], None],
    kill: Callable[[], None],
) -> None:
    """Tell whether a container is ready, whenever that changes, and kill it when it hangs."""
    await asyncio.gather(
        _watch_readiness(container, address, tell), _watch_life(container, address, run, kill)
    )


async def _watch_readiness(container: Object, address: str, tell: Callable[[bool], None]) -> None:
    probe = container.get("readinessProbe")
    ready = probe is None
    while probe is not None:
        await asyncio.sleep(PROBE_S)
        passed = await passes(probe, container, address)
        if passed != ready:
            ready = passed
            tell(ready)


async def _watch_life(container: Object, address: str, run: Run, kill: Callable[[], None]) -> None:
    probe = container.get("livenessProbe")
    if probe is None:
        return
    start = container.get("startupProbe")
    while start is not None and not await _lives(start, container, address, run):
        await asyncio.sleep(_LIFE_S)
    failures = 0
    while failures < probe["failureThreshold"]:
        await asyncio.sleep(_LIFE_S)
        failures = 0 if await _lives(probe, container, address, run) else failures + 1
    kill()


async def _lives(probe: Object, container: Object, address: str, run: Run) -> bool:
    if "exec" not in probe:
        return await passes(probe, container, address)
    try:
        async with asyncio.timeout(probe["timeoutSeconds"]):
            return await run(probe["exec"]["command"]) == 0
    except TimeoutError:
        return False


async def passes(probe: Object, container: Object, address: str) -> bool:
    """Return whether a container of a pod with an address passes a probe by gRPC or TCP."""
    if "grpc" in probe:
        asked = probe["grpc"]
        return await _serving(
            f"{address}:{asked['port']}", asked.get("service", ""), probe["timeoutSeconds"]
        )
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    return await _listening(address, ports[probe["tcpSocket"]["port"]])


async def _listening(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def _serving(address: str, service: str, timeout_s: float) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            reply = await stub.Check(request, timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

"""Readiness probes of the stand-in's kubelets."""

import asyncio
import contextlib
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.controller.standin.objects import Object


async def passes(probe: Object, container: Object, address: str) -> bool:
    """Return whether a container of a pod with an address passes a probe by gRPC or TCP."""
    if "grpc" in probe:
        return await _serving(f"{address}:{probe['grpc']['port']}")
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


async def _serving(address: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

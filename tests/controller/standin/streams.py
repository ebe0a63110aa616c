"""What the API server passes on from nodes: a pod's port, and what its containers write."""

import asyncio
import contextlib
from collections.abc import Callable

from aiohttp import WSMsgType, web

from tests.controller.standin.objects import Object, Objects, Place, Refused

_PROTOCOL = "v4.channel.k8s.io"
_DATA, _ERROR = b"\x00", b"\x01"

_LOOK_S = 0.1


async def forward(request: web.Request, pod: Object) -> web.StreamResponse:
    """Pass the bytes of a WebSocket's first channel to a pod's port, and back."""
    port = int(request.query["ports"])
    socket = web.WebSocketResponse(protocols=(_PROTOCOL,))
    await socket.prepare(request)
    for channel in (_DATA, _ERROR):
        await socket.send_bytes(channel + port.to_bytes(2, "little"))
    try:
        reader, writer = await asyncio.open_connection(pod["status"]["podIP"], port)
    except OSError as error:
        await socket.send_bytes(_ERROR + f"error forwarding port {port}: {error}".encode())
        await socket.close()
        return socket

    async def answer() -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65536):
                await socket.send_bytes(_DATA + chunk)
        await socket.close()

    answering = asyncio.create_task(answer())
    try:
        async for message in socket:
            if message.type == WSMsgType.BINARY and message.data[:1] == _DATA:
                writer.write(message.data[1:])
                await writer.drain()
    finally:
        writer.close()
        answering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await answering
    return socket


async def log(
    request: web.Request, objects: Objects, place: Place, log_of: Callable[[str, str], bytes]
) -> web.StreamResponse:
    """Answer with what a container wrote, and with ``follow`` with what it still writes."""
    query = request.query
    pod = objects.get(place)
    container = query.get("container") or pod["spec"]["containers"][0]["name"]
    if not pod.get("status", {}).get("containerStatuses"):
        message = f'container "{container}" in pod "{place[2]}" is waiting to start'
        raise Refused(400, "BadRequest", message)
    said = log_of(place[2], container)
    lines = said.splitlines(keepends=True)
    shown = b"".join(lines[len(lines) - int(query.get("tailLines", len(lines))) :])
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    await response.write(shown)
    while query.get("follow") == "true":
        ended = _has_ended(objects, place)
        now = log_of(place[2], container)
        await response.write(now[len(said) :])
        said = now
        if ended:
            break
        await asyncio.sleep(_LOOK_S)
    return response


def _has_ended(objects: Objects, place: Place) -> bool:
    try:
        pod = objects.get(place)
    except Refused:
        return True
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")

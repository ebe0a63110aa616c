"""The stand-in's Services: an address each, and whoever connects is led to a ready pod."""

import asyncio
import contextlib
import itertools
import random

from tests.controller.standin.objects import Object, Objects, Refused


class Services:
    """Gives every Service an address in 127.0.0.0/8, one for each node if its traffic is local."""

    def __init__(self, objects: Objects, network: str) -> None:
        """``network``: the first two parts of the Services' addresses."""
        self._objects = objects
        self._network = network
        self._addresses: dict[tuple[str, str, str], str] = {}
        self._numbers = itertools.count(1)
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def resolve(self, namespace: str, name: str, node: str) -> str:
        """Return the address of a Service, as a pod on a node sees it."""
        try:
            service = self._objects.get(("services", namespace, name))
        except Refused:
            return f"{name}.{namespace}.svc"
        local = service["spec"].get("internalTrafficPolicy") == "Local"
        key = (namespace, name, node if local else "")
        if key not in self._addresses:
            number = next(self._numbers)
            address = f"{self._network}.{128 + number // 250}.{number % 250 + 1}"
            self._addresses[key] = address
            for port in service["spec"]["ports"]:
                self._spawn(self._serve(key, address, port["port"]))
        return self._addresses[key]

    async def close(self) -> None:
        """Close all connections."""
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, key: tuple[str, str, str], address: str, port: int) -> None:
        async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            try:
                await self._lead(key, port, reader, writer)
            finally:
                writer.close()

        server = await asyncio.start_server(lead, address, port)
        self._servers.append(server)

    async def _lead(
        self,
        key: tuple[str, str, str],
        port: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        targets = self._targets(key)
        if not targets:
            return
        try:
            there, back = await asyncio.open_connection(random.choice(targets), port)
        except OSError:
            return
        try:
            await asyncio.wait(
                [
                    asyncio.ensure_future(_copy(reader, back)),
                    asyncio.ensure_future(_copy(there, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            back.close()

    def _targets(self, key: tuple[str, str, str]) -> list[str]:
        namespace, name, node = key
        try:
            spec = self._objects.get(("services", namespace, name))["spec"]
        except Refused:
            return []
        return [
            pod["status"]["podIP"]
            for pod in self._objects.list("pods", namespace)
            if _matches(pod, spec) and node in ("", pod["spec"]["nodeName"])
        ]


def _matches(pod: Object, spec: Object) -> bool:
    """Whether a Service leads to a pod."""
    labels, status = pod["metadata"].get("labels", {}), pod.get("status", {})
    if any(labels.get(key) != text for key, text in spec["selector"].items()):
        return False
    if spec.get("publishNotReadyAddresses"):
        return "podIP" in status
    conditions = status.get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()

"""The whole stand-in for a cluster, on a thread of its own."""

import asyncio
import contextlib
import fcntl
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import yaml

from tests.controller.standin.apiserver import ApiServer, Request
from tests.controller.standin.kubelet import Pods
from tests.controller.standin.objects import Object
from tests.controller.standin.services import Services
from tests.controller.standin.workloads import Workloads, disrupt

T = TypeVar("T")


class StandIn:
    """An API server, two nodes that run processes, and the controllers between them."""

    def __init__(self, folder: Path) -> None:
        self.kubeconfig = folder / "kubeconfig.yaml"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stand-in")

    def __enter__(self) -> Self:
        self._network, self._lock = reserve_network()
        self._thread.start()
        self._run(self._start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run(self._stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        os.close(self._lock)

    @property
    def requests(self) -> list[Request]:
        """All requests so far."""
        return list(self._server.requests)

    def log(self, pod: str) -> str:
        """Return what a pod wrote."""
        return self._pods.log(pod)

    def process(self, pod: str) -> int:
        """Return the id of a pod's process."""
        return self._pods.process(pod)

    def evict(self, namespace: str, pod: str) -> None:
        """Evict a pod."""

        async def evict() -> None:
            disrupt(self._server.objects, namespace, pod, "EvictionByEvictionAPI")

        self._run(evict)

    def refuse_pods(self, why: str) -> None:
        """Create no pod from now on, as a quota does; empty: create them again."""
        self._workloads.refusal = why

    def break_api(self, broken: bool) -> None:
        """Refuse a share of the operator's requests, and drop its watches; or no more."""
        self._run(lambda: self._server.breaks(broken))

    def lose_node(self, node: str) -> None:
        """Hear nothing of a node any more."""
        self._run(lambda: self._workloads.lose_node(node))

    def return_node(self, node: str) -> None:
        """Have a node back."""
        self._run(lambda: self._workloads.return_node(node))

    async def _start(self) -> None:
        self._server = ApiServer()
        await self._server.start()
        services = self._services = Services(self._server.objects, self._network)
        self._pods = Pods(self._server.objects, services.resolve, self._network)
        self._workloads = Workloads(self._server.objects, self._pods)
        self._server.objects.grace_of = _grace_of
        self._server.log_of = self._pods.container_log
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "standin", "cluster": {"server": self._server.url}}],
            "users": [{"name": "tester", "user": {}}],
            "contexts": [{"name": "it", "context": {"cluster": "standin", "user": "tester"}}],
            "current-context": "it",
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))

    async def _stop(self) -> None:
        await self._pods.close()
        await self._services.close()
        await self._server.stop()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _run(self, work: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()


def reserve_network() -> tuple[str, int]:
    """Return the first two parts of addresses that no other stand-in uses, and a lock on them.

    Every port is free there, but addresses are the whole machine's.
    """
    for number in range(16, 250):
        lock = os.open(f"/tmp/trialfleet-stand-in-{number}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return f"127.{number}", lock
        os.close(lock)
    raise RuntimeError("too many stand-ins on this machine")


def _grace_of(obj: Object) -> float:
    """Return for how long an object goes on after its deletion: a pod that runs, for its grace."""
    if obj["kind"] != "Pod" or obj.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return 0.0
    if not obj.get("status", {}).get("phase"):
        return 0.0
    return float(obj["spec"].get("terminationGracePeriodSeconds", 30))

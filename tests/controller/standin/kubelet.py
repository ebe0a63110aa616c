"""Runs the containers of the stand-in's pods as processes of this machine.

A pod has an address of its own in 127.0.0.0/8, so every port is free. A mount is a folder whose
path takes the mount's place in arguments and variables; a Service's name is replaced by its
address.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.controller.standin.containers import (
    DIE_WITH_PARENT,
    SERVICE,
    SERVICES_S,
    base_environment,
    begun,
    data_of,
    execute,
    make_programs,
    now,
    services_of,
    set_condition,
    terminated,
)
from tests.controller.standin.events import warn
from tests.controller.standin.objects import Object, Objects, Refused
from tests.controller.standin.probes import PROBE_S, watch

_KILLED = 128 + signal.SIGKILL
"""The exit code of a container that was not run because its pod is to end."""


class Pods:
    """All pods of a cluster of two nodes."""

    def __init__(
        self, objects: Objects, resolve: Callable[[str, str, str], str], network: str
    ) -> None:
        """``network``: the first two parts of the pods' addresses."""
        self._objects = objects
        self._resolve = resolve
        self._running: dict[str, _Pod] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="tf-pods-", dir="/tmp"))
        self._folder.chmod(0o755)
        self._addresses = iter(
            f"{network}.{high}.{low}" for high in range(128) for low in range(1, 255)
        )
        self._tasks: set[asyncio.Task[None]] = set()
        make_programs(self._folder / "bin")
        self.frozen: set[str] = set()
        """Nodes that are away: their pods go on, and nobody hears of them."""

    def begin(self, pod: Object) -> None:
        """Run a pod that was bound to a node."""
        address = next(self._addresses)
        running = _Pod(pod, self._objects, self._folder, address, self._resolve, self.frozen)
        uid = pod["metadata"]["uid"]
        self._running[uid] = running
        task = asyncio.create_task(running.live(), name=f"pod {pod['metadata']['name']}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._running.pop(uid, None))

    def end(self, pod: Object) -> None:
        """Stop a pod that was deleted, or is gone."""
        running = self._running.get(pod["metadata"]["uid"])
        if running is not None:
            running.stop()

    def freeze(self, node: str) -> None:
        """Lose a node: its processes end, and nobody hears of it."""
        self.frozen.add(node)
        for running in list(self._running.values()):
            if running.node == node:
                running.kill()

    def process(self, name: str) -> int:
        """Return the id of the process of a pod's first container."""
        for running in self._running.values():
            if running.name == name and running.processes:
                return running.processes[-1].pid
        raise KeyError(name)

    def log(self, name: str) -> str:
        """Return what a pod's containers wrote."""
        return "".join(
            path.read_text(errors="replace") for path in sorted(self._folder.glob(f"{name}/*.log"))
        )

    def container_log(self, pod: str, container: str) -> bytes:
        """Return what a container wrote, in all of its lives."""
        path = self._folder / pod / f"{container}.log"
        return path.read_bytes() if path.exists() else b""

    async def close(self) -> None:
        """End all processes and remove their folders."""
        self.frozen.clear()
        for running in list(self._running.values()):
            running.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self._folder, ignore_errors=True)


class _Pod:
    def __init__(
        self,
        pod: Object,
        objects: Objects,
        folder: Path,
        address: str,
        resolve: Callable[[str, str, str], str],
        frozen: set[str],
    ) -> None:
        metadata = pod["metadata"]
        self.name, self._namespace, self._uid = (
            metadata["name"],
            metadata["namespace"],
            metadata["uid"],
        )
        self._pod, self._spec = pod, pod["spec"]
        self.node = self._spec["nodeName"]
        self._objects = objects
        self._folder = folder / self.name
        self._bin = folder / "bin"
        self._address = address
        self._resolve = resolve
        self._frozen = frozen
        self._stopping = asyncio.Event()
        self.processes: list[asyncio.subprocess.Process] = []
        self._killed = False
        self._restarts: dict[str, int] = {}

    async def live(self) -> None:
        """Run the containers to their end, and say how far they are."""
        codes: dict[str, int] = {}
        try:
            codes = await self._live()
        finally:
            # However it ended: a pod that was deleted goes only when this is written.
            self._write_end(codes)

    async def _live(self) -> dict[str, int]:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o777)
        self._update(begun)
        volumes = await self._volumes()
        if volumes is None:
            return {}
        for container in self._spec.get("initContainers", ()):
            code = await self._run(container, volumes)
            if code != 0:
                ended = {"terminated": self._terminated(container["name"], code)}
                self._write(container, ended, ready=False)
                return {}
        codes = await asyncio.gather(
            *(self._keep(container, volumes) for container in self._spec["containers"])
        )
        return dict(zip([one["name"] for one in self._spec["containers"]], codes, strict=True))

    def stop(self) -> None:
        """Ask the processes to end, after their hooks, and kill them after the grace."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        loop = asyncio.get_running_loop()
        hooks = [one.get("lifecycle", {}).get("preStop", {}) for one in self._spec["containers"]]
        sleep = max(hook.get("sleep", {}).get("seconds", 0) for hook in hooks)
        loop.call_later(sleep, self._signal, signal.SIGTERM)
        loop.call_later(self._spec.get("terminationGracePeriodSeconds", 30), self.kill)

    def kill(self) -> None:
        """Kill the processes."""
        self._killed = True
        self._stopping.set()
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

    async def _keep(self, container: Object, volumes: dict[str, Path]) -> int:
        while True:
            probing = asyncio.create_task(self._probe(container))
            try:
                code = await self._run(container, volumes)
            finally:
                probing.cancel()
            again = self._spec.get("restartPolicy", "Always") == "Always"
            if not again or self._stopping.is_set():
                if len(self._spec["containers"]) > 1:
                    ended = {"terminated": self._terminated(container["name"], code)}
                    self._write(container, ended, ready=False)
                return code
            self._restarts[container["name"]] = self._restarts.get(container["name"], 0) + 1
            self._write(
                container,
                {"waiting": {"reason": "CrashLoopBackOff"}},
                ready=False,
                last=self._terminated(container["name"], code),
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._stopping.wait()

    async def _find_services(self, container: Object) -> None:
        """Wait for the Services that a container calls: addresses take the place of their names."""
        called = services_of(container)
        for _ in range(round(SERVICES_S / PROBE_S)):
            there = [self._resolve(*one, self.node) != f"{one[1]}.{one[0]}.svc" for one in called]
            if all(there) or self._stopping.is_set():
                return
            await asyncio.sleep(PROBE_S)

    async def _run(self, container: Object, volumes: dict[str, Path]) -> int:
        await self._find_services(container)
        mounts = [
            (mount["mountPath"], str(volumes[mount["name"]]))
            for mount in container.get("volumeMounts", ())
        ]
        env = await self._environment(container, mounts)
        if env is None:
            return _KILLED
        command = [*container.get("command", ()), *container.get("args", ())]
        command = [self._expand(part, env, mounts) for part in command]
        env = {**base_environment(self._bin), **env}
        with (self._folder / f"{container['name']}.log").open("ab") as log:
            if shutil.which(command[0], path=env["PATH"]) is None:
                log.write(f"exec: {command[0]!r}: not found".encode())
                return 127
            process = await asyncio.create_subprocess_exec(
                *DIE_WITH_PARENT,
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=env,
                start_new_session=True,
            )
        self.processes.append(process)
        if self._stopping.is_set():
            self._signal(signal.SIGKILL)
        probed = "readinessProbe" in container
        self._write(container, {"running": {"startedAt": now()}}, ready=not probed)
        code = await process.wait()
        self.processes.remove(process)
        return code if code >= 0 else 128 - code

    async def _volumes(self) -> dict[str, Path] | None:
        """Return the folders of the pod's volumes; waits for what they are made of."""
        folders: dict[str, Path] = {}
        for volume in self._spec.get("volumes", ()):
            folder = self._folder / "volumes" / volume["name"]
            if claim := volume.get("persistentVolumeClaim"):
                folder = self._folder.parent / "claims" / self._namespace / claim["claimName"]
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o777)
            folders[volume["name"]] = folder
            for source in volume.get("projected", {}).get("sources", [volume]):
                if not await self._fill(folder, source):
                    return None
        return folders

    async def _fill(self, folder: Path, source: Object) -> bool:
        for kind, resource, key in (
            ("configMap", "configmaps", "name"),
            ("secret", "secrets", "secretName"),
        ):
            if kind not in source:
                continue
            data = await self._data(resource, source[kind][key])
            if data is None:
                return False
            items = source[kind].get("items") or [{"key": name, "path": name} for name in data]
            for item in items:
                (folder / item["path"]).write_bytes(data[item["key"]])
        return True

    async def _data(self, resource: str, name: str) -> dict[str, bytes] | None:
        warned = False
        while not self._stopping.is_set():
            try:
                return data_of(self._objects.get((resource, self._namespace, name)))
            except Refused:
                if not warned:
                    kind = resource.removesuffix("s")
                    message = f'MountVolume.SetUp failed: {kind} "{name}" not found'
                    warn(self._objects, self._pod, "FailedMount", message)
                warned = True
                await asyncio.sleep(PROBE_S)
        return None

    async def _environment(
        self, container: Object, mounts: list[tuple[str, str]]
    ) -> dict[str, str] | None:
        """Return the variables of a container; waits for what they are read from."""
        env = {"STANDIN_ADDRESS": self._address}
        for variable in container.get("env", ()):
            source = variable.get("valueFrom", {})
            if path := source.get("fieldRef", {}).get("fieldPath"):
                value = self._address if path == "status.podIP" else self.name
            elif reference := source.get("configMapKeyRef"):
                with contextlib.suppress(Refused):
                    held = self._objects.get(("configmaps", self._namespace, reference["name"]))
                    env[variable["name"]] = data_of(held)[reference["key"]].decode()
                continue
            elif reference := source.get("secretKeyRef"):
                found = await self._key(container, reference["name"], reference["key"])
                if found is None:
                    return None
                value = found
            else:
                value = variable.get("value", "")
            env[variable["name"]] = self._expand(value, env, mounts)
        return env

    async def _key(self, container: Object, secret: str, key: str) -> str | None:
        """Return what a key of a Secret holds, once it is there; None if the pod is to end."""
        while not self._stopping.is_set():
            with contextlib.suppress(Refused, KeyError):
                held = data_of(self._objects.get(("secrets", self._namespace, secret)))
                return held[key].decode()
            missing = {
                "reason": "CreateContainerConfigError",
                "message": f"secret {secret!r} not found, or it has no key {key!r}",
            }
            self._write(container, {"waiting": missing}, ready=False)
            await asyncio.sleep(PROBE_S)
        return None

    def _expand(self, text: str, env: dict[str, str], mounts: list[tuple[str, str]]) -> str:
        # Each pod has an address of its own, on a machine that they share.
        text = text.replace("=0.0.0.0:", f"={self._address}:")
        text = re.sub(r"\$\((\w+)\)", lambda match: env.get(match[1], match[0]), text)
        for mount, folder in mounts:
            if mount != "/tmp":
                text = text.replace(mount, folder)
        return SERVICE.sub(
            lambda match: self._resolve(match[2], match[1], self.node),
            text,
        )

    async def _probe(self, container: Object) -> None:
        def tell(ready: bool) -> None:
            self._write(container, {"running": {"startedAt": now()}}, ready=ready)

        async def run(command: list[str]) -> int:
            # In place of a network of its own each pod has an address of its own.
            here = [part.replace("127.0.0.1", self._address) for part in command]
            return await execute(here, base_environment(self._bin))

        await watch(container, self._address, run, tell, lambda: self._signal(signal.SIGKILL))

    def _write(
        self, container: Object, state: Object, *, ready: bool, last: Object | None = None
    ) -> None:
        entry: Object = {
            "name": container["name"],
            "image": container.get("image", ""),
            "state": state,
            "lastState": {} if last is None else {"terminated": last},
            "ready": ready,
            "restartCount": self._restarts.get(container["name"], 0),
        }

        def change(pod: Object) -> Object:
            status = pod.setdefault("status", {})
            main = container in self._spec["containers"]
            key = "containerStatuses" if main else "initContainerStatuses"
            others = [one for one in status.get(key, ()) if one["name"] != entry["name"]]
            status[key] = [*others, entry]
            if main and "waiting" not in state:
                status["phase"] = "Running"
            status["podIP"] = self._address
            set_condition(status, "Ready", main and all(one["ready"] for one in status[key]))
            return pod

        self._update(change)

    def _write_end(self, codes: dict[str, int]) -> None:
        """``codes``: the containers' exit codes; empty if they did not all run."""
        well = bool(codes) and not any(codes.values())

        def change(pod: Object) -> Object:
            status = pod.setdefault("status", {})
            status["phase"] = "Succeeded" if well else "Failed"
            set_condition(status, "Ready", False)
            others = [
                one for one in status.get("containerStatuses", ()) if one["name"] not in codes
            ]
            ended = [
                {
                    "name": name,
                    "ready": False,
                    "restartCount": 0,
                    "state": {"terminated": self._terminated(name, code)},
                }
                for name, code in codes.items()
            ]
            status["containerStatuses"] = [*others, *ended]
            return pod

        self._update(change)
        with contextlib.suppress(Refused):
            place = ("pods", self._namespace, self.name)
            pod = self._objects.get(place)
            if "deletionTimestamp" in pod["metadata"] and self.node not in self._frozen:
                self._objects.forget(place)

    def _terminated(self, name: str, code: int) -> Object:
        return terminated(self._folder / f"{name}.log", code)

    def _update(self, change: Callable[[Object], Object]) -> None:
        if self.node in self._frozen:
            return
        place = ("pods", self._namespace, self.name)
        with contextlib.suppress(Refused):
            if self._objects.get(place)["metadata"]["uid"] == self._uid:
                self._objects.update(place, change, "kubelet", "status")

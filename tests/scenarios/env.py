"""What the scenarios need of a cluster, be it the stand-in or a real one."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from tests.controller.kube import Kube, Object, condition, wait_for
from trialfleet import names

SQUARE = """
import time
def objective(trial):
    time.sleep({seconds})
    return trial.suggest_float("x", -1, 1) ** 2
"""


@dataclasses.dataclass
class Env:
    """A namespace with an operator that looks after it, and a storage called ``shared``."""

    kube: Kube
    evict: Callable[[str], None]
    """Evict a pod, as a drain does."""
    kill: Callable[[str], None]
    """End a pod's process by SIGKILL, from outside."""
    hang: Callable[[str, str], None]
    """Stop the process of a pod's container by SIGSTOP."""
    log: Callable[[str], str]
    """Return what a pod wrote."""
    start_operator: Callable[[], None]
    stop_operator: Callable[[], None]
    refuse_pods: Callable[[bool], None]
    """Let a quota refuse new pods, or no more."""
    lose_database: Callable[[], None]
    """Take the database away for good."""
    lose_node: Callable[[str], None]
    """Lose a node, with all that runs on it; it is back when the test is over."""
    sql: Callable[[str, str], None]
    """Run a statement in the database of a managed storage, as its administrator."""
    break_api: Callable[[bool], None] | None = None
    """Let the API server refuse a share of the operator's requests and drop its watches, or no
    more; None where that can't be had."""
    security: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of storages that a test makes."""
    image: str | None = None
    """An image with Python, for pods of a user's own."""
    patience_s: float = 60.0
    pod_start_s: float = 8.0
    """What a worker's pod takes from the end of the one before it to its first trial, at most."""

    def study(self, name: str, source: str = "", seconds: float = 0.1, **spec: Any) -> Object:
        """Create a study of the shared storage; return it."""
        manifest = {
            "apiVersion": names.API_VERSION,
            "kind": "Study",
            "metadata": {"name": name},
            "spec": {
                "objectives": [{"name": "loss", "direction": "minimize"}],
                "sampler": {"name": "RandomSampler", "options": {"seed": 7}},
                "budget": {"trials": 12},
                "parallelism": 2,
                "storage": {"name": "shared"},
                "objective": {"python": {"source": source or SQUARE.format(seconds=seconds)}},
                **spec,
            },
        }
        return self.kube.create("studies", manifest)

    def ready(self, storage: str = "shared") -> None:
        """Wait until a storage is ready."""
        try:
            wait_for(
                f"storage {storage}",
                lambda: condition(self.kube.get("studystorages", storage), "Ready"),
                self.patience_s,
            )
        except AssertionError as error:
            told = [str(self.kube.get("studystorages", storage).get("status"))]
            for pod in self.kube.list("pods", storage=storage):
                name = pod["metadata"]["name"]
                told.append(f"{name}: {pod.get('status')} {self.log(name)[-600:]}")
            raise AssertionError("\n".join([str(error), *told])) from None

    def storage(self, name: str, **spec: Any) -> Object:
        """Create a storage with a database of its own in a volume; return it."""
        manifest = {
            "apiVersion": names.API_VERSION,
            "kind": "StudyStorage",
            "metadata": {"name": name},
            "spec": {"proxy": {"placement": "Shared"}, "security": self.security, **spec},
        }
        return self.kube.create("studystorages", manifest)

    def pods(self, storage: str, component: str) -> list[Object]:
        """Return the pods of a storage's PostgreSQL or proxies."""
        return self.kube.list("pods", storage=storage, component=component)

    def status(self, name: str) -> Mapping[str, Any]:
        """Return a study's status."""
        status: Mapping[str, Any] = self.kube.get("studies", name).get("status", {})
        return status

    def wait_condition(self, name: str, kind: str) -> Object:
        """Wait for a condition of a study; return the study."""

        def look() -> Object | None:
            study = self.kube.get("studies", name)
            return study if condition(study, kind) else None

        try:
            return wait_for(f"study {name}: {kind}", look, self.patience_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.describe(name)}") from None

    def wait_trials(self, name: str, count: int) -> None:
        """Wait until so many trials are counted."""

        def look() -> bool:
            trials = self.status(name).get("trials", {})
            counted = [int(trials.get(key, 0)) for key in ("complete", "pruned", "failed")]
            return sum(counted) >= count

        try:
            wait_for(f"study {name}: {count} trials", look, self.patience_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.describe(name)}") from None

    def workers(self, name: str) -> list[Object]:
        """Return the pods of a study's workers that have not ended."""
        pods = self.kube.list("pods", study=name, component="worker")
        return [
            pod
            for pod in pods
            if pod.get("status", {}).get("phase") in ("Pending", "Running", None)
            and "deletionTimestamp" not in pod["metadata"]
        ]

    def running_workers(self, name: str, count: int) -> list[str]:
        """Wait until so many workers hold a session; return the names of the pods."""
        wait_for(
            f"study {name}: {count} workers",
            lambda: self.status(name).get("workers", {}).get("ready", 0) >= count,
            self.patience_s,
        )
        return [
            pod["metadata"]["name"]
            for pod in self.workers(name)
            if pod.get("status", {}).get("phase") == "Running"
        ]

    def pods_by_node(self, **labels: str) -> dict[str, list[str]]:
        """Return the names of pods that have not ended, by their node."""
        found: dict[str, list[str]] = {}
        for pod in self.kube.list("pods", **labels):
            if pod.get("status", {}).get("phase", "Pending") in ("Pending", "Running"):
                node = pod["spec"].get("nodeName", "")
                found.setdefault(node, []).append(pod["metadata"]["name"])
        return found

    def warnings(self, *names: str) -> list[str]:
        """Return the Warnings about objects, as ``Reason: message``."""
        return [
            f"{one['reason']}: {one['message']}"
            for one in self.kube.list("events")
            if one["type"] == "Warning" and one["involvedObject"]["name"] in names
        ]

    def reasons(self, name: str) -> list[str]:
        """Return the reasons of the Events about an object."""
        events = self.kube.list("events")
        return [one["reason"] for one in events if one["involvedObject"]["name"] == name]

    def wait_no_pods(self, name: str) -> None:
        """Wait until a study has no pod."""
        wait_for(
            f"study {name}: no pod left",
            lambda: not self.kube.list("pods", study=name),
            self.patience_s,
        )

    def describe(self, name: str) -> str:
        """Return what may say why something did not happen."""
        lines = [str(self.status(name))]
        for pod in self.kube.list("pods", study=name):
            pod_name = pod["metadata"]["name"]
            lines.append(f"{pod_name}: {pod.get('status')} {self.log(pod_name)[-600:]}")
        return "\n".join(lines)

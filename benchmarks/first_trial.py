"""From ``kubectl apply`` to the first trial, on the cluster of KUBECONFIG; needs kubectl.

Run with ``python -m benchmarks.first_trial [RUNS]``. The operator must be installed. Each of the
runs makes a study in a namespace of its own, once with a database of its own and once on a storage
that is ready, and takes the time until the objective is called. That is written by the worker's
node, so its clock has to agree with this machine's. Under each time is what the pods needed, in
whole seconds as Kubernetes writes them; in the end the Warnings that came meanwhile.
"""

import datetime
import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from typing import Any

from trialfleet import names

RUNS = 5
PATIENCE_S = 120.0
STORAGE = "ready"

OBJECTIVE = """
import time
def objective(trial):
    print("called at", time.time(), flush=True)
    time.sleep(600)
"""
"""It is still there when its log is read."""


def kubectl(*arguments: str, text: str = "", check: bool = True) -> str:
    done = subprocess.run(
        ["kubectl", *arguments], input=text, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        sys.exit(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def apply(namespace: str, kind: str, name: str, spec: dict[str, Any]) -> None:
    manifest = {
        "apiVersion": names.API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
    kubectl("apply", "-f", "-", text=json.dumps(manifest))


def pods(namespace: str, *labels: str) -> list[dict[str, Any]]:
    told = kubectl("get", "pods", "-n", namespace, f"-l{','.join(labels)}", "-o", "json")
    found: list[dict[str, Any]] = json.loads(told)["items"]
    return found


def called_at(namespace: str, study: str) -> float:
    """Wait for the objective; return when it was called, in seconds since 1970."""
    workers = f"-l{names.LABEL_STUDY}={study},{names.LABEL_COMPONENT}={names.COMPONENT_WORKER}"
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        # While the container is not there yet, kubectl says so and fails.
        for line in kubectl("logs", "-n", namespace, workers, check=False).splitlines():
            if line.startswith("called at "):
                return float(line.split()[-1])
        time.sleep(0.5)
    sys.exit(f"no trial within {PATIENCE_S:g} s: kubectl describe study {study} -n {namespace}")


def seconds_of(pod: dict[str, Any], began: float) -> str:
    """Return when a pod was made, scheduled, started and ready, in seconds after a moment."""

    def after(text: str | None) -> str:
        if text is None:
            return "-"
        return f"{datetime.datetime.fromisoformat(text).timestamp() - began:.0f}"

    times = {"made": pod["metadata"]["creationTimestamp"]}
    conditions = {one["type"]: one for one in pod["status"].get("conditions", ())}
    for kind, word in (("PodScheduled", "scheduled"), ("Ready", "ready")):
        if conditions.get(kind, {}).get("status") == "True":
            times[word] = conditions[kind]["lastTransitionTime"]
    for status in pod["status"].get("containerStatuses", ()):
        times[f"{status['name']} runs"] = status["state"].get("running", {}).get("startedAt")
    return ", ".join(f"{word} {after(text)}" for word, text in times.items())


def measure(namespace: str, study: str, storage: str | None) -> float:
    """Make a study and delete it; return in how many seconds its objective was called."""
    spec: dict[str, Any] = {
        "objectives": [{"name": "loss", "direction": "minimize"}],
        "budget": {"trials": 1},
        "objective": {"python": {"source": OBJECTIVE}},
    }
    if storage is not None:
        spec["storage"] = {"name": storage}
    began = time.time()
    apply(namespace, "Study", study, spec)
    taken_s = called_at(namespace, study) - began
    print(f"  {taken_s:5.1f} s  (load {os.getloadavg()[0]:.1f})")
    selected = [f"{names.LABEL_STUDY}={study}"]
    if storage is None:
        selected.append(f"{names.LABEL_STORAGE}={study}")
    seen = {pod["metadata"]["name"]: pod for label in selected for pod in pods(namespace, label)}
    for pod in sorted(seen.values(), key=lambda pod: str(pod["metadata"]["name"])):
        component = pod["metadata"]["labels"][names.LABEL_COMPONENT]
        print(f"           {component:9} {seconds_of(pod, began)}")
    kubectl("delete", "study", study, "-n", namespace, "--wait=true")
    while pods(namespace, f"{names.LABEL_STUDY}={study}"):
        time.sleep(0.5)
    return taken_s


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    namespace = f"first-trial-{uuid.uuid4().hex[:6]}"
    kubectl("create", "namespace", namespace)
    try:
        print(
            f"load {', '.join(f'{one:.1f}' for one in os.getloadavg())} of {os.cpu_count()} cores"
        )
        medians = {}
        for title, storage in (("a database of its own", None), ("a ready storage", STORAGE)):
            if storage is not None:
                postgres: dict[str, Any] = {"managed": {"emptyDir": {}}}
                apply(namespace, "StudyStorage", storage, {"postgres": postgres})
                ready = ("--for=condition=Ready", f"--timeout={PATIENCE_S:g}s")
                kubectl("wait", "-n", namespace, f"studystorage/{storage}", *ready)
            print(f"apply to first trial, {title}:")
            prefix = "own" if storage is None else "on"
            taken = [measure(namespace, f"{prefix}-{run}", storage) for run in range(runs)]
            medians[title] = statistics.median(taken)
        for title, median_s in medians.items():
            print(f"median of {runs}, {title}: {median_s:.1f} s")
        told = kubectl("get", "events", "-n", namespace, "--field-selector=type=Warning")
        print("Warnings:", told.strip() or "none")
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")


if __name__ == "__main__":
    main()

"""A pod as the operator sees it: how far it is, how it ended, what is in its way."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from trialfleet import names
from trialfleet.kube import reasons
from trialfleet.kube.pod_status import (
    Trouble,
    conditions_of_pod,
    disruption_of,
    find_trouble,
    first_lines,
    is_unreachable,
    last_words,
)
from trialfleet.kube.times import parse_time
from trialfleet.model import errors
from trialfleet.model.ends import EndKind, WorkerEnd, end_of_exit, end_of_signal

_NOT_BEGUN: Final = ("StartError", "ContainerCannotRun", "CreateContainerError")
"""Reasons for the end of a container that never ran."""

_COMMAND_FAILED: Final = (126, 127)
"""Exit codes of a command that can't be run, or is not there."""

_UNUSABLE: Final = {
    EndKind.OBJECTIVE_UNUSABLE: reasons.OBJECTIVE_IMPORT_FAILED,
    EndKind.UNUSABLE: reasons.WORKERS_FAILED,
}
"""What the operator calls an end after which no worker can work."""


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod."""

    name: str
    uid: str
    component: str
    job: str
    """Name of its Job, or empty."""
    created: datetime.datetime
    running: bool
    """Its containers run; it may be about to end."""
    ready: bool
    address: str
    end: WorkerEnd | None
    ended: datetime.datetime | None
    """When it ended, where the pod says so."""
    lingers: bool
    """Its worker has ended and another of its containers has not."""
    overdue: datetime.datetime | None
    """By when it should be gone, if it was deleted."""
    unreachable: bool
    """Its node does not answer, as far as the cluster knows."""
    set_up: bool
    """Its volumes are mounted and it has a network."""
    trouble: Trouble | None


def view_pod(pod: Mapping[str, Any], *, gone: bool = False) -> PodView:
    """Return a pod as the operator sees it; ``gone``: the API server has it no more."""
    metadata, status = pod["metadata"], pod.get("status", {})
    labels = metadata.get("labels", {})
    phase = status.get("phase", "Pending")
    worker = _main_container(status.get("containerStatuses", ()))
    terminated = worker.get("state", {}).get("terminated")
    end = _end_of(status, terminated, gone)
    conditions = conditions_of_pod(status)
    unreachable = is_unreachable(status, conditions.get("Ready", {}))
    node = pod.get("spec", {}).get("nodeName", "")
    return PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        component=labels.get(names.LABEL_COMPONENT, ""),
        job=labels.get("batch.kubernetes.io/job-name", labels.get("job-name", "")),
        created=_time(metadata.get("creationTimestamp")),
        running=phase == "Running" and end is None,
        ready=conditions.get("Ready", {}).get("status") == "True" and end is None,
        address=status.get("podIP", ""),
        end=end,
        ended=None if terminated is None else parse_time(terminated.get("finishedAt")),
        lingers=terminated is not None and not gone and _others_run(status),
        overdue=parse_time(metadata.get("deletionTimestamp")),
        unreachable=unreachable,
        set_up=conditions.get("PodReadyToStartContainers", {}).get("status") == "True",
        trouble=None if gone else find_trouble(status, node, unreachable=unreachable),
    )


_WHOSE: Final = {
    names.COMPONENT_WORKER: ("worker", "workers"),
    names.COMPONENT_PROXY: ("proxy", "proxies"),
    names.COMPONENT_POSTGRES: ("PostgreSQL", "PostgreSQL"),
}


def whose(component: str, count: int = 1) -> str:
    """Return what people call the pods of a component."""
    one, many = _WHOSE.get(component, (component, component))
    return one if count == 1 else many


def _main_container(statuses: Any) -> Mapping[str, Any]:
    statuses = list(statuses)
    for container in statuses:
        if container["name"] == names.WORKER_CONTAINER:
            found: Mapping[str, Any] = container
            return found
    return statuses[0] if len(statuses) == 1 else {}


def _others_run(status: Mapping[str, Any]) -> bool:
    """Whether a container has not ended; those that Kubernetes ends with the others aside."""
    containers = status.get("containerStatuses", ())
    return any("terminated" not in one.get("state", {}) for one in containers)


def _end_of(
    status: Mapping[str, Any], terminated: Mapping[str, Any] | None, gone: bool
) -> WorkerEnd | None:
    phase = status.get("phase", "Pending")
    disruption = disruption_of(status)
    if terminated is None:
        if phase not in ("Failed", "Succeeded") and not gone:
            return None
        if phase == "Succeeded":
            return end_of_exit(errors.EXIT_OK)
        if disruption is None and not _has_run(status):
            return _end_before_begin(status)
        reason, message = disruption or (reasons.DELETED, "the pod was deleted")
        return WorkerEnd(EndKind.LOST, reason, message)
    return _end_of_container(terminated, disruption)


def _has_run(status: Mapping[str, Any]) -> bool:
    """Whether a container of a pod was started, init containers aside."""
    states = [one.get("state", {}) for one in status.get("containerStatuses", ())]
    return any(state and "waiting" not in state for state in states)


def _end_before_begin(status: Mapping[str, Any]) -> WorkerEnd:
    """Return how a pod ended whose worker was never started."""
    for container in status.get("initContainerStatuses", ()):
        terminated = container.get("state", {}).get("terminated", {})
        if terminated.get("exitCode"):
            if container["name"] == names.PACKAGES_CONTAINER:
                said = first_lines(terminated.get("message", ""))
                message = said or f"pip ended with exit code {terminated['exitCode']}"
                return WorkerEnd(EndKind.NOT_STARTED, reasons.PACKAGES_FAILED, message)
            text = last_words(container["name"], terminated)
            return WorkerEnd(EndKind.NOT_STARTED, reasons.START_FAILED, f"init {text}")
    if status.get("phase") == "Failed" and status.get("reason"):
        # Refused by its node: OutOfcpu, NodeAffinity, UnexpectedAdmissionError and others.
        text = f"{status['reason']}: {status.get('message', '')}"
        return WorkerEnd(EndKind.NOT_STARTED, reasons.START_FAILED, text)
    return WorkerEnd(EndKind.NOT_STARTED, reasons.DELETED)


def _end_of_container(
    terminated: Mapping[str, Any], disruption: tuple[str, str] | None
) -> WorkerEnd:
    code = terminated["exitCode"]
    said = first_lines(terminated.get("message", ""))
    end = end_of_signal(code - 128) if code > 128 else end_of_exit(code)
    if end.kind in (EndKind.NO_MORE_WORK, EndKind.LEFT):
        return end
    if disruption is not None:
        return WorkerEnd(EndKind.LOST, *disruption)
    if terminated.get("reason") == "OOMKilled":
        message = "the container ran out of memory: more than resources.limits.memory"
        return WorkerEnd(EndKind.FAILED, names.REASON_OOM_KILLED, message)
    if terminated.get("reason") in _NOT_BEGUN or code in _COMMAND_FAILED:
        return WorkerEnd(EndKind.NOT_STARTED, reasons.START_FAILED, _why_not_begun(said))
    if terminated.get("reason") == "ContainerStatusUnknown":
        message = "the node lost track of the container"
        return WorkerEnd(EndKind.LOST, reasons.NODE_LOST, message)
    if end.unusable:
        return WorkerEnd(end.kind, _UNUSABLE[end.kind], said)
    if end.kind is EndKind.FAILED and code < 128 and said:
        return replace(end, message=f"{end.message}: {said}")
    return end


def _why_not_begun(said: str) -> str:
    """Return why a worker could not be started; most often its image does not have it."""
    if names.APP in said and ("not found" in said or "no such file" in said):
        return f"the image has no {names.APP}, see docs/images.md: {said}"
    return said


def _time(text: str | None) -> datetime.datetime:
    return parse_time(text) or datetime.datetime.fromtimestamp(0, datetime.UTC)

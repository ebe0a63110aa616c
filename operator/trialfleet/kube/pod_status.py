"""What a pod's status says: what is in its way, and whether it was taken away."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from trialfleet.kube import reasons

_UNDER_WAY: Final = ("", "ContainerCreating", "PodInitializing")
"""Reasons why a container waits that pass by themselves; every other one is told."""

_PULLING: Final = (
    *("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"),
    *("ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed"),
)
_CONFIGURING: Final = ("CreateContainerConfigError",)
_TAKEN_AWAY: Final = (
    *(reasons.EVICTED, reasons.NODE_LOST),
    *("Preempting", "Shutdown", "NodeShutdown", "Terminated"),
)
"""Reasons for the end of a pod that its node, or its node's loss, gives."""

LONGEST_ERROR: Final = 800
"""Characters of a pod's own words that are passed on."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is in the way of something: a reason of ``reasons``, and words for people."""

    reason: str
    message: str


def find_trouble(
    status: Mapping[str, Any], node: str = "", *, unreachable: bool = False
) -> Trouble | None:
    """Return what keeps a pod from its work, if its status says so."""
    if unreachable:
        return Trouble(reasons.NODE_LOST, f"node {node!r} does not answer")
    scheduled = conditions_of_pod(status).get("PodScheduled", {})
    if scheduled.get("status") == "False":
        if scheduled.get("reason") == "SchedulingGated":
            # By whoever has set the gates, and will remove them.
            return None
        return Trouble(reasons.UNSCHEDULABLE, scheduled.get("message", ""))
    containers = [
        *status.get("initContainerStatuses", ()),
        *status.get("containerStatuses", ()),
    ]
    for container in containers:
        found = _container_trouble(container)
        if found is not None:
            return found
    if containers or status.get("phase", "Pending") != "Pending":
        return None
    if not scheduled and not node:
        return Trouble(reasons.UNSCHEDULABLE, "no scheduler has looked at it")
    if not status.get("startTime"):
        return Trouble(reasons.START_FAILED, f"node {node!r} has not begun with it")
    return None


def _container_trouble(container: Mapping[str, Any]) -> Trouble | None:
    name = container["name"]
    waiting = container.get("state", {}).get("waiting", {})
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _PULLING:
        text = f"image {container.get('image', '')!r}: {message or reason}"
        return Trouble(reasons.IMAGE_PULL_FAILED, text)
    if reason in _CONFIGURING:
        return Trouble(reasons.CONFIG_MISSING, message)
    last = container.get("lastState", {}).get("terminated", {})
    crashing = container.get("restartCount", 0) > 1 and not container.get("ready")
    if reason == "CrashLoopBackOff" or (crashing and last.get("exitCode")):
        return Trouble(reasons.CRASH_LOOP, last_words(name, last))
    if reason not in _UNDER_WAY:
        return Trouble(reasons.START_FAILED, f"container {name!r}: {reason}: {message}")
    return None


def last_words(container: str, terminated: Mapping[str, Any]) -> str:
    """Return how a container ended, and what it said last."""
    said = first_lines(terminated.get("message", ""))
    code = terminated.get("exitCode")
    return f"container {container!r} ended with exit code {code}" + (f": {said}" if said else "")


def first_lines(text: str) -> str:
    """Return what a program said last, shortened at its begin: its end is the error."""
    text = text.strip()
    return text if len(text) <= LONGEST_ERROR else "..." + text[-LONGEST_ERROR:]


def conditions_of_pod(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the conditions of a status, by their type."""
    return {one["type"]: one for one in status.get("conditions", ())}


def is_unreachable(status: Mapping[str, Any], ready: Mapping[str, Any]) -> bool:
    """Whether the cluster has taken a pod that runs for not ready, and its kubelet has not.

    That is what becomes of pods whose node does not answer; a kubelet gives a reason.
    """
    containers = status.get("containerStatuses", ())
    running = status.get("phase") == "Running" and all(one.get("ready") for one in containers)
    return running and ready.get("status") == "False" and not ready.get("reason")


def disruption_of(status: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return reason and message if the pod was taken away rather than ended by itself."""
    if status.get("reason") in _TAKEN_AWAY:
        return status["reason"], status.get("message", "")
    for condition in status.get("conditions", ()):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return condition.get("reason") or "Disrupted", condition.get("message", "")
    return None

"""What a pod says of itself: how far each container is, and its last lines."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from trialfleet.cluster.namespace import Namespace, Object

LINES: Final = 6
"""Of a container that is not well, so many last lines are shown."""


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod serves."""
    return "deletionTimestamp" not in pod["metadata"] and any(
        one["type"] == "Ready" and one["status"] == "True"
        for one in pod.get("status", {}).get("conditions", ())
    )


def is_well(pod: Mapping[str, Any]) -> bool:
    """Whether a pod runs or has succeeded, and no container of it has failed."""
    status = pod.get("status", {})
    if status.get("phase") == "Succeeded":
        return True
    return status.get("phase") == "Running" and not any(_troubles(pod))


def describe(namespace: Namespace, pod: Mapping[str, Any]) -> list[str]:
    """Return what a pod says, in lines: its phase, its containers, and what those last wrote."""
    metadata, status = pod["metadata"], pod.get("status", {})
    where = pod.get("spec", {}).get("nodeName")
    words = [status.get("phase") or "Pending", f"on {where}" if where else "on no node yet"]
    words += [part for part in (status.get("reason"), status.get("message")) if part]
    if "deletionTimestamp" in metadata:
        words.append("being deleted")
    lines = [f"{metadata['name']}: {', '.join(words)}"]
    for condition in status.get("conditions", ()):
        if condition["status"] != "True" and condition.get("message") and not _states(pod):
            lines.append(f"  {condition['type']}: {condition['message']}")
    for container, said in _troubles(pod):
        lines.append(f"  {container['name']}: {said}")
        lines += [f"    | {line}" for line in _last_lines(namespace, metadata["name"], container)]
    return lines


def _states(pod: Mapping[str, Any]) -> Iterator[Object]:
    status = pod.get("status", {})
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def _troubles(pod: Mapping[str, Any]) -> Iterator[tuple[Object, str]]:
    """Yield the containers that are not well, and in words how."""
    for container in _states(pod):
        state, last = container.get("state", {}), container.get("lastState", {})
        again = container.get("restartCount", 0)
        if "waiting" in state:
            said = _told("waiting", state["waiting"])
        elif state.get("terminated", {}).get("exitCode"):
            said = _told("ended", state["terminated"])
        elif not container.get("ready") and again:
            said = "running, not ready"
        else:
            continue
        if again and "terminated" in last:
            said = f"{said}; started again {again} times, {_told('ended', last['terminated'])}"
        yield container, said


def _told(how: str, state: Mapping[str, Any]) -> str:
    words = [how, state.get("reason", "")]
    if "exitCode" in state:
        words.append(f"with exit code {state['exitCode']}")
    said = " ".join(filter(None, words))
    # What a container wrote is shown below.
    message = "" if "exitCode" in state else " ".join(str(state.get("message", "")).split())
    return f"{said}: {message}" if message else said


def _last_lines(namespace: Namespace, pod: str, container: Mapping[str, Any]) -> list[str]:
    waits, again = "waiting" in container.get("state", {}), bool(container.get("restartCount"))
    if waits and not again:
        return []
    previous = waits and again
    text = namespace.log(pod, container["name"], last=LINES, previous=previous)
    return [line.rstrip() for line in text.splitlines()[-LINES:]]

"""The stand-in's controllers: Job, StatefulSet, DaemonSet and Deployment, on two nodes."""

import asyncio
import contextlib
import copy
import datetime
import itertools
import os
from typing import Any

from tests.controller.standin.events import warn
from tests.controller.standin.kubelet import Pods
from tests.controller.standin.objects import Change, Object, Objects, Refused, timestamp

NODES = ("node-1", "node-2")

_BACK_OFF_S = 3.0
"""A Job's first pause; Kubernetes' own is 10 s."""
_LONGEST_BACK_OFF_S = 600.0

_TRACKING = "batch.kubernetes.io/job-tracking"
"""A pod of a Job stays until it has ended and was counted, however it is deleted."""

_WORKLOADS = ("jobs", "statefulsets", "daemonsets", "deployments")


class Workloads:
    """Brings the pods about that workloads ask for."""

    def __init__(self, objects: Objects, pods: Pods) -> None:
        self._objects = objects
        self._pods = pods
        self._nodes = itertools.cycle(NODES)
        self._failures: dict[str, set[str]] = {}
        self._successes: dict[str, set[str]] = {}
        self._back_off: dict[str, _BackOff] = {}
        self.refusal = ""
        """If not empty, no pod is created, and this is said."""
        objects.listeners.append(self._on_change)

    def _on_change(self, change: Change) -> None:
        obj, metadata = change.object, change.object["metadata"]
        if change.resource == "pods":
            ends = change.type == "DELETED" or "deletionTimestamp" in metadata
            if ends and obj["spec"].get("nodeName") not in self._pods.frozen:
                self._pods.end(obj)
            for owner in metadata.get("ownerReferences", ()):
                self._sync(f"{owner['kind'].lower()}s", metadata["namespace"], owner["name"])
        elif change.type != "DELETED" and change.resource in _WORKLOADS:
            self._sync(change.resource, metadata["namespace"], metadata["name"])

    async def lose_node(self, node: str) -> None:
        """Do what is done when a node does not answer: mark its pods, later delete some."""
        self._pods.freeze(node)
        for pod in self._objects.list("pods"):
            if pod["spec"].get("nodeName") == node:
                place = ("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
                self._objects.update(place, _not_ready, "kcm", "status")
                wait_s = _toleration_s(pod)
                if wait_s is not None:
                    asyncio.get_running_loop().call_later(wait_s, self._evict_lost, *place)

    async def return_node(self, node: str) -> None:
        """Have a node back, empty."""
        self._pods.frozen.discard(node)
        for pod in self._objects.list("pods"):
            if pod["spec"].get("nodeName") == node:
                metadata = pod["metadata"]
                with contextlib.suppress(Refused):
                    self._objects.forget(("pods", metadata["namespace"], metadata["name"]))

    def _next_node(self) -> str:
        return next(node for node in self._nodes if node not in self._pods.frozen)

    def _evict_lost(self, *place: str) -> None:
        with contextlib.suppress(Refused):
            namespace, name = place[1:]
            if (
                self._objects.get(("pods", namespace, name))["spec"]["nodeName"]
                in self._pods.frozen
            ):
                disrupt(self._objects, namespace, name, "DeletionByTaintManager")

    def _untrack(self, pod: Object) -> None:
        """Let a pod go that the Job controller has counted, or whose Job is gone."""
        if pod["metadata"].get("finalizers"):
            place = ("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
            with contextlib.suppress(Refused):
                self._objects.update(place, _without_finalizers, "kcm")

    def _sync(self, resource: str, namespace: str, name: str) -> None:
        try:
            obj = self._objects.get((resource, namespace, name))
        except Refused:
            for pod in self._objects.list("pods", namespace):
                owners = pod["metadata"].get("ownerReferences", ())
                if resource == "jobs" and any(one["name"] == name for one in owners):
                    self._untrack(pod)
            return
        if "deletionTimestamp" in obj["metadata"]:
            return
        pods = [
            pod
            for pod in self._objects.list("pods", namespace)
            if any(
                one["uid"] == obj["metadata"]["uid"]
                for one in pod["metadata"].get("ownerReferences", ())
            )
        ]
        if resource == "jobs":
            self._sync_job(obj, pods)
        elif resource == "daemonsets":
            self._sync_daemon_set(obj, pods)
        else:
            self._sync_replicas(obj, pods)

    # -- Jobs --------------------------------------------------------------------------------------

    def _sync_job(self, job: Object, pods: list[Object]) -> None:
        spec, uid = job["spec"], job["metadata"]["uid"]
        said = {one["type"] for one in job.get("status", {}).get("conditions", ())}
        failed, succeeded = (known.setdefault(uid, set()) for known in self._job_memory())
        back_off = self._back_off.setdefault(uid, _BackOff())
        failing = False
        live = []
        for pod in pods:
            phase = pod.get("status", {}).get("phase", "Pending")
            if phase in ("Succeeded", "Failed"):
                self._untrack(pod)
            if phase == "Succeeded":
                succeeded.add(pod["metadata"]["uid"])
            elif phase == "Failed":
                back_off.note(pod)
                action = _failure_action(spec, pod)
                if action == "Count":
                    failed.add(pod["metadata"]["uid"])
                failing = failing or action == "FailJob"
            else:
                live.append(pod)
        if said & {"Complete", "Failed"}:
            return
        over = failing or len(failed) > spec.get("backoffLimit", 6)
        wanted = 0 if over or spec.get("suspend") else spec.get("parallelism", 1)
        if succeeded:
            wanted = min(wanted, len(live))
        going = [pod for pod in live if "deletionTimestamp" not in pod["metadata"]]
        conditions = []
        if over and not live:
            message = "a pod's exit code failed the Job" if failing else "too many failures"
            conditions = [{"type": "Failed", "status": "True", "message": message}]
        elif succeeded and not live:
            conditions = [{"type": "Complete", "status": "True"}]
        self._write_status(
            job,
            {
                "active": len(live),
                "succeeded": len(succeeded),
                "failed": len(failed),
                "conditions": conditions,
            },
        )
        for pod in going[wanted:]:
            self._objects.delete(("pods", pod["metadata"]["namespace"], pod["metadata"]["name"]))
        wait_s = back_off.left_s()
        if wanted > len(live) and wait_s > 0:
            metadata = job["metadata"]
            asyncio.get_running_loop().call_later(
                wait_s, self._sync, "jobs", metadata["namespace"], metadata["name"]
            )
            return
        for _ in range(wanted - len(live)):
            suffix = os.urandom(3).hex()
            labels = {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
            if not self._create(
                job, f"{job['metadata']['name']}-{suffix}", self._next_node(), labels
            ):
                return

    def _job_memory(self) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
        return self._failures, self._successes

    # -- the others --------------------------------------------------------------------------------

    def _sync_daemon_set(self, obj: Object, pods: list[Object]) -> None:
        by_node = {pod["spec"]["nodeName"]: pod for pod in pods}
        self._replace_outdated(obj, pods)
        for node in NODES:
            if node not in by_node:
                name = f"{obj['metadata']['name']}-{os.urandom(3).hex()}"
                if not self._create(obj, name, node, {}):
                    return
        status = {"desiredNumberScheduled": len(NODES), "numberReady": _ready(pods)}
        self._write_status(obj, status)

    def _sync_replicas(self, obj: Object, pods: list[Object]) -> None:
        wanted = obj["spec"].get("replicas", 1)
        self._replace_outdated(obj, pods)
        for pod in pods[wanted:]:
            self._objects.delete(("pods", pod["metadata"]["namespace"], pod["metadata"]["name"]))
        taken = {pod["metadata"]["name"] for pod in pods}
        for index in range(wanted - len(pods)):
            name = f"{obj['metadata']['name']}-{os.urandom(3).hex()}"
            if obj["kind"] == "StatefulSet":
                name = f"{obj['metadata']['name']}-{index}"
            if name in taken or not self._create(obj, name, self._next_node(), {}):
                return
        self._write_status(obj, {"replicas": len(pods), "readyReplicas": _ready(pods)})

    def _replace_outdated(self, obj: Object, pods: list[Object]) -> None:
        template = repr(obj["spec"]["template"])
        for pod in pods:
            made = pod["metadata"].get("annotations", {}).get("standin/template")
            rolling = obj["spec"].get("updateStrategy", {}).get("type") != "OnDelete"
            if rolling and made != template and "deletionTimestamp" not in pod["metadata"]:
                place = ("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
                self._objects.delete(place)
                return

    def _create(self, owner: Object, name: str, node: str, labels: dict[str, str]) -> bool:
        metadata = owner["metadata"]
        if self.refusal:
            known = [
                event
                for event in self._objects.list("events", metadata["namespace"])
                if event["involvedObject"]["uid"] == metadata["uid"]
            ]
            if not known:
                warn(self._objects, owner, "FailedCreate", f'pods "{name}" is {self.refusal}')
            return False
        template = copy.deepcopy(owner["spec"]["template"])
        spec = template["spec"]
        spec["nodeName"] = node
        for claim in owner["spec"].get("volumeClaimTemplates", ()):
            source = {"claimName": f"{claim['metadata']['name']}-{name}"}
            claim_place = ("persistentvolumeclaims", metadata["namespace"], source["claimName"])
            claimed: Object = {"labels": owner["spec"]["selector"]["matchLabels"]}
            policy = owner["spec"].get("persistentVolumeClaimRetentionPolicy", {})
            if policy.get("whenDeleted") == "Delete":
                reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"]}
                reference |= {"name": metadata["name"], "uid": metadata["uid"]}
                claimed["ownerReferences"] = [reference]
            with contextlib.suppress(Refused):
                made = {**copy.deepcopy(claim), "metadata": claimed}
                self._objects.create(claim_place, made, "controller")
            volume = {"name": claim["metadata"]["name"], "persistentVolumeClaim": source}
            spec.setdefault("volumes", []).append(volume)
        made_by = template["metadata"].get("annotations", {}) | {
            "standin/template": repr(owner["spec"]["template"])
        }
        place = ("pods", metadata["namespace"], name)
        if self._objects.has(place):
            # Of a former one of the owner's name, and still ending: its end syncs this one.
            return False
        pod = self._objects.create(
            place,
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "labels": {**template["metadata"]["labels"], **labels},
                    "annotations": made_by,
                    **({"finalizers": [_TRACKING]} if owner["kind"] == "Job" else {}),
                    "ownerReferences": [
                        {
                            "apiVersion": owner["apiVersion"],
                            "kind": owner["kind"],
                            "name": metadata["name"],
                            "uid": metadata["uid"],
                            "controller": True,
                        }
                    ],
                },
                "spec": spec,
            },
            "controller",
        )
        self._pods.begin(pod)
        return True

    def _write_status(self, obj: Object, status: Object) -> None:
        metadata = obj["metadata"]
        place = (f"{obj['kind'].lower()}s", metadata["namespace"], metadata["name"])
        wanted = {**status, "observedGeneration": metadata["generation"]}
        if obj.get("status") != wanted:
            self._objects.update(place, lambda one: {**one, "status": wanted}, "kcm", "status")


class _BackOff:
    """How long a Job waits before it makes a pod: all that failed count, ignored ones too."""

    def __init__(self) -> None:
        self._failed: set[str] = set()
        self._last: datetime.datetime | None = None

    def note(self, pod: Object) -> None:
        """Take note of a pod that has failed."""
        uid = pod["metadata"]["uid"]
        if uid not in self._failed:
            self._failed.add(uid)
            self._last = datetime.datetime.now(datetime.UTC)

    def left_s(self) -> float:
        """Return for how long no pod is to be made yet."""
        if self._last is None:
            return 0.0
        whole_s: float = min(_BACK_OFF_S * 2 ** (len(self._failed) - 1), _LONGEST_BACK_OFF_S)
        return whole_s - (datetime.datetime.now(datetime.UTC) - self._last).total_seconds()


def _not_ready(pod: Object) -> Object:
    status = pod.setdefault("status", {})
    others = [one for one in status.get("conditions", ()) if one["type"] != "Ready"]
    status["conditions"] = [*others, {"type": "Ready", "status": "False"}]
    return pod


def _without_finalizers(pod: Object) -> Object:
    pod["metadata"].pop("finalizers", None)
    return pod


def _toleration_s(pod: Object) -> float | None:
    """Return how long a pod stays on a node that does not answer; None: as long as it takes."""
    for toleration in pod["spec"].get("tolerations", ()):
        if toleration.get("key") == "node.kubernetes.io/unreachable":
            return float(toleration["tolerationSeconds"])
    return None


def disrupt(objects: Objects, namespace: str, name: str, reason: str) -> None:
    """Evict a pod: mark it as the target of a disruption, then delete it."""
    place = ("pods", namespace, name)

    def mark(pod: Object) -> Object:
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": reason,
            "message": "evicted by a test",
            "lastTransitionTime": timestamp(datetime.datetime.now(datetime.UTC)),
        }
        status = pod.setdefault("status", {})
        status["conditions"] = [*status.get("conditions", ()), condition]
        return pod

    objects.update(place, mark, "kubelet", "status")
    objects.delete(place)


def _failure_action(spec: Object, pod: Object) -> str:
    status = pod["status"]
    conditions = {
        one["type"] for one in status.get("conditions", ()) if one.get("status") == "True"
    }
    for rule in spec.get("podFailurePolicy", {}).get("rules", ()):
        if any(one["type"] in conditions for one in rule.get("onPodConditions", ())):
            return str(rule["action"])
        wanted: Any = rule.get("onExitCodes")
        if wanted is None:
            continue
        for container in (
            *status.get("containerStatuses", ()),
            *status.get("initContainerStatuses", ()),
        ):
            code = container["state"].get("terminated", {}).get("exitCode")
            if container["name"] == wanted["containerName"] and code in wanted["values"]:
                return str(rule["action"])
    return "Count"


def _ready(pods: list[Object]) -> int:
    return sum(
        any(
            one["type"] == "Ready" and one["status"] == "True"
            for one in pod.get("status", {}).get("conditions", ())
        )
        for pod in pods
    )

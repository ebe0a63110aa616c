"""What the end of a worker's pod means, and what is in the way of one that does not start."""

import datetime
from typing import Any

import pytest

from trialfleet import names
from trialfleet.controller.pod_view import view_pod
from trialfleet.kube import reasons
from trialfleet.kube.pod_status import Trouble, find_trouble
from trialfleet.model.ends import EndKind


def pod(status: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {
            "name": "q-workers-1-a",
            "uid": "u",
            "creationTimestamp": "2026-03-01T12:00:00Z",
            "labels": {
                names.LABEL_COMPONENT: names.COMPONENT_WORKER,
                "batch.kubernetes.io/job-name": "q-workers-1",
            },
            **metadata,
        },
        "status": status,
    }


def ended(code: int, reason: str = "Error", message: str = "", **status: Any) -> dict[str, Any]:
    terminated = {
        "exitCode": code,
        "reason": reason,
        "message": message,
        "finishedAt": "2026-03-01T12:01:00Z",
    }
    containers = [{"name": "worker", "state": {"terminated": terminated}}]
    return pod(
        {"phase": "Failed" if code else "Succeeded", "containerStatuses": containers, **status}
    )


DISRUPTED = [
    {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "DeletionByTaintManager",
        "message": "the node is gone",
    }
]

ENDS: list[tuple[str, dict[str, Any], EndKind, str]] = [
    ("no more work", ended(0, "Completed"), EndKind.NO_MORE_WORK, names.REASON_CRASHED),
    ("drained", ended(75), EndKind.LEFT, names.REASON_KILLED),
    ("drained by an eviction", ended(75, conditions=DISRUPTED), EndKind.LEFT, names.REASON_KILLED),
    ("told the trial itself", ended(76), EndKind.LEFT, names.REASON_KILLED),
    ("no storage", ended(3), EndKind.LOST, names.REASON_KILLED),
    ("unusable", ended(4), EndKind.OBJECTIVE_UNUSABLE, reasons.OBJECTIVE_IMPORT_FAILED),
    ("unusable input", ended(2), EndKind.UNUSABLE, reasons.WORKERS_FAILED),
    ("out of memory", ended(137, "OOMKilled"), EndKind.FAILED, names.REASON_OOM_KILLED),
    ("killed", ended(137), EndKind.LOST, names.REASON_KILLED),
    (
        "evicted and killed",
        ended(137, conditions=DISRUPTED),
        EndKind.LOST,
        "DeletionByTaintManager",
    ),
    ("segmentation fault", ended(139), EndKind.FAILED, names.REASON_CRASHED),
    ("abort", ended(134), EndKind.FAILED, names.REASON_CRASHED),
    ("exit", ended(1), EndKind.FAILED, names.REASON_CRASHED),
    ("exit by the objective", ended(9), EndKind.FAILED, names.REASON_CRASHED),
    ("no such command", ended(127), EndKind.NOT_STARTED, reasons.START_FAILED),
    ("not started", ended(128, "StartError"), EndKind.NOT_STARTED, reasons.START_FAILED),
    ("unknown", ended(137, "ContainerStatusUnknown"), EndKind.LOST, reasons.NODE_LOST),
    (
        "its init container failed",
        pod(
            {
                "phase": "Failed",
                "initContainerStatuses": [
                    {"name": "fetch", "state": {"terminated": {"exitCode": 3, "message": "no net"}}}
                ],
                "containerStatuses": [
                    {"name": "worker", "state": {"waiting": {"reason": "PodInitializing"}}}
                ],
            }
        ),
        EndKind.NOT_STARTED,
        reasons.START_FAILED,
    ),
    (
        "its packages could not be installed",
        pod(
            {
                "phase": "Failed",
                "initContainerStatuses": [
                    {
                        "name": names.PACKAGES_CONTAINER,
                        "state": {"terminated": {"exitCode": 1, "message": "no index"}},
                    }
                ],
                "containerStatuses": [
                    {"name": "worker", "state": {"waiting": {"reason": "PodInitializing"}}}
                ],
            }
        ),
        EndKind.NOT_STARTED,
        reasons.PACKAGES_FAILED,
    ),
    *(
        (
            f"refused by its node: {reason}",
            pod({"phase": "Failed", "reason": reason, "message": "why"}),
            EndKind.NOT_STARTED,
            reasons.START_FAILED,
        )
        for reason in ("OutOfcpu", "OutOfpods", "NodeAffinity", "UnexpectedAdmissionError")
    ),
    (
        "its node shut down",
        pod({"phase": "Failed", "reason": "Terminated", "message": "imminent node shutdown"}),
        EndKind.LOST,
        "Terminated",
    ),
    (
        "evicted before its container told",
        pod({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}),
        EndKind.LOST,
        "Evicted",
    ),
]


@pytest.mark.parametrize(
    ("obj", "kind", "reason"), [row[1:] for row in ENDS], ids=[row[0] for row in ENDS]
)
def test_ends(obj: dict[str, Any], kind: EndKind, reason: str) -> None:
    end = view_pod(obj).end
    assert end is not None
    assert (end.kind, end.reason) == (kind, reason)


def test_a_pod_that_runs_has_not_ended() -> None:
    running = pod(
        {
            "phase": "Running",
            "podIP": "10.1.2.3",
            "containerStatuses": [{"name": "worker", "state": {"running": {}}, "ready": True}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
    )
    view = view_pod(running)
    assert (view.end, view.running, view.ready) == (None, True, True)
    assert (view.address, view.job) == ("10.1.2.3", "q-workers-1")
    gone = view_pod(running, gone=True).end
    assert gone is not None and (gone.kind, gone.reason) == (EndKind.LOST, reasons.DELETED)


def test_a_pod_that_never_ran_lost_nothing() -> None:
    end = view_pod(pod({"phase": "Pending"}), gone=True).end
    assert end is not None and end.kind is EndKind.NOT_STARTED


def test_the_worker_counts_not_its_sidecar() -> None:
    both = pod(
        {
            "phase": "Running",
            "containerStatuses": [
                {"name": "sidecar", "state": {"running": {}}},
                {"name": "worker", "state": {"terminated": {"exitCode": 139, "message": ""}}},
            ],
        }
    )
    view = view_pod(both)
    assert view.end is not None and view.end.kind is EndKind.FAILED
    assert view.lingers and not view_pod(ended(139)).lingers


def test_a_deleted_pod_says_by_when_it_should_be_gone() -> None:
    view = view_pod(pod({"phase": "Running"}, deletionTimestamp="2026-03-01T12:02:00Z"))
    assert view.overdue == datetime.datetime(2026, 3, 1, 12, 2, tzinfo=datetime.UTC)


def waiting(reason: str, message: str = "why", **more: Any) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"containerStatuses": [{"name": "worker", "image": "x:1", "state": state, **more}]}


TROUBLES: list[tuple[str, dict[str, Any], Trouble | None]] = [
    ("starts", waiting("ContainerCreating"), None),
    ("image", waiting("ErrImagePull"), Trouble(reasons.IMAGE_PULL_FAILED, "image 'x:1': why")),
    (
        "image again",
        waiting("ImagePullBackOff"),
        Trouble(reasons.IMAGE_PULL_FAILED, "image 'x:1': why"),
    ),
    (
        "config map",
        waiting("CreateContainerConfigError", 'configmap "c" not found'),
        Trouble(reasons.CONFIG_MISSING, 'configmap "c" not found'),
    ),
    (
        "crash loop",
        waiting(
            "CrashLoopBackOff", lastState={"terminated": {"exitCode": 1, "message": "no disk"}}
        ),
        Trouble(reasons.CRASH_LOOP, "container 'worker' ended with exit code 1: no disk"),
    ),
    (
        "no node",
        {
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "0/2 nodes are available",
                }
            ]
        },
        Trouble(reasons.UNSCHEDULABLE, "0/2 nodes are available"),
    ),
    (
        "the scheduler fails",
        {
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "SchedulerError",
                    "message": "no",
                }
            ]
        },
        Trouble(reasons.UNSCHEDULABLE, "no"),
    ),
    ("no scheduler", {}, Trouble(reasons.UNSCHEDULABLE, "no scheduler has looked at it")),
    (
        "no kubelet",
        {"conditions": [{"type": "PodScheduled", "status": "True"}]},
        Trouble(reasons.START_FAILED, "node '' has not begun with it"),
    ),
    *(
        (
            f"image: {reason}",
            waiting(reason),
            Trouble(reasons.IMAGE_PULL_FAILED, "image 'x:1': why"),
        )
        for reason in (
            *("ErrImageNeverPull", "InvalidImageName", "ImageInspectError"),
            *("RegistryUnavailable", "SignatureValidationFailed"),
        )
    ),
    *(
        (
            f"container: {reason}",
            waiting(reason),
            Trouble(reasons.START_FAILED, f"container 'worker': {reason}: why"),
        )
        for reason in (
            *("CreateContainerError", "RunContainerError", "PostStartHookError"),
            *("PreCreateHookError", "PreStartHookError", "SomethingOfALaterKubelet"),
        )
    ),
    (
        "gated, by Kueue",
        {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]},
        None,
    ),
]


@pytest.mark.parametrize(
    ("status", "trouble"), [row[1:] for row in TROUBLES], ids=[row[0] for row in TROUBLES]
)
def test_troubles(status: dict[str, Any], trouble: Trouble | None) -> None:
    assert find_trouble(status) == trouble


def test_an_image_without_a_worker_is_told_what_it_lacks() -> None:
    said = 'exec: "trialfleet": executable file not found in $PATH'
    end = view_pod(ended(128, "StartError", said)).end
    assert end is not None
    assert end.message == f"the image has no trialfleet, see docs/images.md: {said}"


def test_a_node_that_does_not_answer() -> None:
    """Its pods are marked as not ready by another than their kubelet, who gives no reason."""
    worker = {"name": "worker", "state": {"running": {}}, "ready": True}
    status = {
        "phase": "Running",
        "containerStatuses": [worker],
        "conditions": [{"type": "Ready", "status": "False"}],
    }
    away = pod(status)
    away["spec"] = {"nodeName": "n2"}
    view = view_pod(away)
    assert view.unreachable
    assert view.trouble == Trouble(reasons.NODE_LOST, "node 'n2' does not answer")
    said = {"type": "Ready", "status": "False", "reason": "ReadinessGatesNotReady"}
    assert not view_pod(pod({**status, "conditions": [said]})).unreachable
    waits = {**status, "containerStatuses": [{**worker, "ready": False}]}
    assert not view_pod(pod(waits)).unreachable

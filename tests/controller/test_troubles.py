"""What is in the way of a study: which of it is told, when, and in which words."""

import dataclasses
import datetime
from typing import Any

import pytest

from tests.controller.observations import NOW, ago, job, observed, pod, subject, summary
from trialfleet import names
from trialfleet.controller import obstacles
from trialfleet.controller.memory import Memory
from trialfleet.controller.observe import observe_study
from trialfleet.controller.plan import Note, Plan
from trialfleet.controller.policies.troubles import of_study
from trialfleet.controller.store import Store
from trialfleet.kube import reasons
from trialfleet.kube.cluster import ClusterError
from trialfleet.kube.pod_status import Trouble
from trialfleet.model.ends import EndKind, WorkerEnd

IMAGE = Trouble(reasons.IMAGE_PULL_FAILED, "image 'x': not found")
OWNER = [{"uid": "uid-q", "controller": True}]


def test_whose_pod_it_is() -> None:
    waiting = pod(trouble=IMAGE, running=False)
    one = of_study(observed(pods=(waiting,)), NOW)
    assert one == Trouble(IMAGE.reason, "worker: image 'x': not found")
    other = dataclasses.replace(waiting, uid="other")
    two = of_study(observed(pods=(waiting, other)), NOW)
    assert two == Trouble(IMAGE.reason, "2 workers: image 'x': not found")
    prepare = dataclasses.replace(waiting, component=names.COMPONENT_PREPARE)
    found = of_study(observed(pods=(prepare,)), NOW)
    assert found is not None and found.message.startswith("prepare: ")


NOT_STARTED = WorkerEnd(EndKind.NOT_STARTED, reasons.START_FAILED, "the image has no trialfleet")
NOT_INSTALLED = WorkerEnd(EndKind.NOT_STARTED, reasons.PACKAGES_FAILED, "no matching distribution")
CRASHED = WorkerEnd(EndKind.FAILED, names.REASON_CRASHED, "SIGSEGV")
DEAD = pod("q-workers-1-z", end=CRASHED, ended=ago(1), running=False)


@pytest.mark.parametrize(
    ("end", "reason", "words"),
    [
        (NOT_STARTED, reasons.START_FAILED, "worker: the image has no trialfleet (1 so far"),
        (NOT_INSTALLED, reasons.PACKAGES_FAILED, "worker: no matching distribution (1 so far"),
        (CRASHED, reasons.CRASH_LOOP, "worker: ended before its first trial, SIGSEGV (1 so far"),
    ],
)
def test_a_worker_that_dies_before_its_first_trial_is_told(
    end: WorkerEnd, reason: str, words: str
) -> None:
    dead = dataclasses.replace(DEAD, end=end)
    seen = observed(jobs=(job(),), pods=(dead,), reported=frozenset({dead.uid}))
    found = of_study(seen, NOW)
    assert found is not None and found.reason == reason
    assert found.message.startswith(words)


@pytest.mark.parametrize(
    "changes",
    [
        {"served": frozenset({DEAD.uid})},
        {"reported": frozenset()},
        {"summary": summary(sessions=1)},
        {"jobs": (job(complete=True),)},
        {"pods": (dataclasses.replace(DEAD, end=WorkerEnd(EndKind.NOT_STARTED, reasons.DELETED)),)},
        {"pods": (dataclasses.replace(DEAD, end=WorkerEnd(EndKind.LOST, "Evicted")),)},
    ],
    ids=["with its trial", "not known yet", "others work", "its Job is done", "deleted", "lost"],
)
def test_other_deaths_are_none_of_it(changes: dict[str, Any]) -> None:
    seen = observed(jobs=(job(),), pods=(DEAD,), reported=frozenset({DEAD.uid}))
    assert of_study(dataclasses.replace(seen, **changes), NOW) is None


def worker_pod(**status: Any) -> dict[str, Any]:
    """Return a pod of a worker that does not run yet, as the API server has it."""
    waiting = {"name": "worker", "state": {"waiting": {"reason": "ContainerCreating"}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "q-workers-1-a",
            "namespace": "ns",
            "uid": "uid-pod",
            "resourceVersion": "2",
            "ownerReferences": [{"kind": "Job", "uid": "uid-job-1", "controller": True}],
            "creationTimestamp": "2026-03-01T11:59:00Z",
            "labels": {
                names.LABEL_STUDY: "q",
                names.LABEL_COMPONENT: names.COMPONENT_WORKER,
                "batch.kubernetes.io/job-name": "q-workers-1",
            },
        },
        "spec": {"nodeName": "n"},
        "status": {"phase": "Pending", "containerStatuses": [waiting], **status},
    }


def event(kind: str, name: str, uid: str, reason: str, message: str) -> dict[str, Any]:
    """Return an Event of another component's."""
    involved = {"kind": kind, "namespace": "ns", "name": name, "uid": uid}
    return {
        "involvedObject": involved,
        "reason": reason,
        "message": message,
        "lastTimestamp": "2026-03-01T11:59:30Z",
    }


def trouble_of(
    *events: dict[str, Any], now: datetime.datetime = NOW, **status: Any
) -> Trouble | None:
    """Return what is told of a study with a Job and a worker's pod, and Events about them."""
    store = Store()
    made = dict(job().live)
    made["metadata"] = {**made["metadata"], "resourceVersion": "1", "ownerReferences": OWNER}
    store.put(made)
    store.put(worker_pod(**status))
    for one in events:
        store.warn(one)
    study = {
        "apiVersion": names.API_VERSION,
        "kind": "Study",
        "metadata": {"name": "q", "namespace": "ns", "uid": "uid-q"},
        "spec": {},
    }
    return of_study(observe_study(study, store, Memory("uid-q"), None, now), now)


EVENTS = [
    ("FailedMount", 'configmap "c" not found', reasons.CONFIG_MISSING),
    ("FailedMount", "timed out waiting for the condition", reasons.VOLUME_FAILED),
    ("FailedAttachVolume", "Multi-Attach error for volume", reasons.VOLUME_FAILED),
    ("FailedScheduling", "0/2 nodes are available", reasons.UNSCHEDULABLE),
    ("FailedCreatePodSandBox", "no network plugin", reasons.START_FAILED),
    ("FailedPrepareDynamicResources", "claim not ready", reasons.START_FAILED),
    ("SomethingNew", "why", reasons.START_FAILED),
]


@pytest.mark.parametrize(("reason", "message", "told"), EVENTS)
def test_events_about_a_pod_that_does_not_start(reason: str, message: str, told: str) -> None:
    found = trouble_of(event("Pod", "q-workers-1-a", "uid-pod", reason, message))
    assert found is not None and found.reason == told
    assert found.message.startswith("worker: ") and message in found.message


@pytest.mark.parametrize("reason", ["DNSConfigForming", "FailedToRetrieveImagePullSecret"])
def test_events_about_what_does_not_matter(reason: str) -> None:
    assert trouble_of(event("Pod", "q-workers-1-a", "uid-pod", reason, "why")) is None


def test_a_mount_that_has_succeeded_since() -> None:
    mount = event("Pod", "q-workers-1-a", "uid-pod", "FailedMount", "timed out")
    done = [{"type": "PodReadyToStartContainers", "status": "True"}]
    assert trouble_of(mount, conditions=done) is None
    early = NOW - datetime.timedelta(seconds=50)
    assert trouble_of(mount, now=early) is None


def test_a_quota_is_told_in_the_same_words_at_each_try() -> None:
    told = {
        trouble_of(
            event(
                "Job",
                "q-workers-1",
                "uid-job-1",
                "FailedCreate",
                f'Error creating: pods "q-workers-1-{name}" is forbidden: exceeded quota: small',
            )
        )
        for name in ("abcde", "fghij")
    }
    words = "workers: Error creating: pods are forbidden: exceeded quota: small"
    assert told == {Trouble(reasons.QUOTA_EXCEEDED, words)}


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (403, 'services "x" is forbidden: exceeded quota: s', reasons.QUOTA_EXCEEDED),
        (403, "admission webhook denied the request", reasons.OBJECT_REFUSED),
        (422, 'Job.batch "x" is invalid: spec.template', reasons.OBJECT_REFUSED),
    ],
)
def test_what_the_api_server_will_not_have(code: int, message: str, reason: str) -> None:
    error = ClusterError(code, "Forbidden", f"PATCH /api/v1/namespaces/ns/services/x: {message}")
    assert obstacles.refusal(error) == Trouble(reason, message)


def test_what_follows_from_an_obstacle_is_not_told_beside_it() -> None:
    notes = (Note(reasons.STORAGE_UNAVAILABLE, "no proxy", "Warning"), Note("Started", "begun"))
    refused = Trouble(reasons.QUOTA_EXCEEDED, "exceeded quota")
    told = obstacles.stalled(Plan(notes=notes), subject(), refused, NOW)
    assert [note.reason for note in told.notes] == ["Started", reasons.QUOTA_EXCEEDED]
    assert told.status is not None and told.status["message"] == "exceeded quota"


@pytest.mark.parametrize("code", [0, 409, 429, 500, 503])
def test_what_may_work_when_it_is_tried_again(code: int) -> None:
    assert obstacles.refusal(ClusterError(code, "", "PATCH /x: no")) is None

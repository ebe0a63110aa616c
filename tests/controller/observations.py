"""Observations for tests of plans: a study that runs, and ways to change it."""

import dataclasses
import datetime
from typing import Any

from tests.controller.kube import Object
from trialfleet import names
from trialfleet.api.study import Study
from trialfleet.api.study_storage import StudyStorage
from trialfleet.client.answers import Summary
from trialfleet.controller.build import worker_job as build
from trialfleet.controller.build.worker_job import Reach
from trialfleet.controller.job_view import JobView, view_job
from trialfleet.controller.observed import (
    StorageObserved,
    StorageView,
    StudyObserved,
    Subject,
    WorkloadView,
)
from trialfleet.controller.options import OperatorOptions
from trialfleet.controller.plan import Plan
from trialfleet.controller.pod_view import PodView
from trialfleet.controller.secrecy import Keys
from trialfleet.kube import reasons
from trialfleet.kube.objects import Owner
from trialfleet.model.study import Counts

NOW = datetime.datetime(2026, 3, 1, 12, 0, 0, tzinfo=datetime.UTC)
OPTIONS = OperatorOptions(image="operator:1", worker_image="worker:1")
KEYS = Keys(b"0" * 32)
PROXIES = "s-tf-node.ns.svc:13000,s-tf-proxy.ns.svc:13000"

REACH = Reach("s", PROXIES, None)


def ago(seconds: float) -> datetime.datetime:
    """Return a time before now."""
    return NOW - datetime.timedelta(seconds=seconds)


def study(**spec: Any) -> Study:
    """Return a study of the storage ``s``."""
    return Study.model_validate(
        {
            "apiVersion": names.API_VERSION,
            "kind": "Study",
            "metadata": {"name": "q", "namespace": "ns"},
            "spec": {
                "objectives": [{"name": "loss", "direction": "minimize"}],
                "budget": {"trials": 100},
                "parallelism": 4,
                "storage": {"name": "s"},
                "objective": {"python": {"source": "def objective(trial): return 1"}},
                **spec,
            },
        }
    )


def subject(status: Object | None = None, *, generation: int = 1) -> Subject:
    """Return the study as an object."""
    return Subject("Study", "q", "ns", "uid-q", generation, ago(600), status or {})


def observed(**changes: Any) -> StudyObserved:
    """Return a study whose storage is ready and knows it, and that has no workers yet."""
    base = StudyObserved(
        subject=subject(),
        study=study(),
        storage=StorageView("s", True, reasons.AVAILABLE, "", PROXIES, tls=False),
        ensured=True,
        summary=summary(),
    )
    return dataclasses.replace(base, **changes)


def summary(ended: str = "", sessions: int = 0, **counts: int) -> Summary:
    """Return what a proxy says of the study."""
    return Summary(Counts(**counts), best=[], front=0, ended=ended, sessions=sessions)


def job(
    index: int = 1,
    *,
    parallelism: int = 4,
    active: int = 4,
    generation: int = 1,
    of: Study | None = None,
    component: str = names.COMPONENT_WORKER,
    name: str = "",
    **changes: Any,
) -> JobView:
    """Return a Job as the operator made it, of workers unless another component is named."""
    made = build.build_job(
        Owner("Study", "q", "ns", "uid-q"),
        of or study(),
        index=index,
        parallelism=parallelism,
        reach=REACH,
        generation=generation,
        options=OPTIONS,
    )
    made["metadata"]["uid"] = f"uid-job-{name or index}"
    made["metadata"]["labels"][names.LABEL_COMPONENT] = component
    if name:
        made["metadata"]["name"] = name
    made["status"] = {"active": active}
    return dataclasses.replace(view_job(made), **changes)


def pod(name: str = "q-workers-1-a", job: str = "q-workers-1", **changes: Any) -> PodView:
    """Return a worker's pod that runs."""
    base = PodView(
        name=name,
        uid=f"uid-{name}",
        component=names.COMPONENT_WORKER,
        job=job,
        created=ago(60),
        running=True,
        ready=True,
        address="10.0.0.1",
        end=None,
        ended=None,
        lingers=False,
        overdue=None,
        unreachable=False,
        set_up=True,
        trouble=None,
    )
    return dataclasses.replace(base, **changes)


def storage_observed(spec: Object | None = None, **changes: Any) -> StorageObserved:
    """Return a storage of which nothing is there yet."""
    resource = StudyStorage.model_validate(
        {
            "apiVersion": names.API_VERSION,
            "kind": "StudyStorage",
            "metadata": {"name": "s", "namespace": "ns"},
            "spec": spec or {},
        }
    )
    base = StorageObserved(
        subject=Subject("StudyStorage", "s", "ns", "uid-s", 1, ago(5), {}),
        storage=resource,
        cnpg_installed=True,
    )
    return dataclasses.replace(base, **changes)


def workload(ready: int, desired: int = 2) -> WorkloadView:
    """Return a workload of which so many pods are ready."""
    return WorkloadView(desired, ready, True)


def made(plan: Plan) -> list[str]:
    """Return what a plan wants to be there, as ``Kind/name``."""
    return [f"{obj['kind']}/{obj['metadata']['name']}" for obj in (*plan.objects, *plan.once)]


def removed(plan: Plan) -> list[str]:
    """Return what a plan deletes, as ``Kind/name``."""
    return [f"{one.kind}/{one.name}" for one in plan.removals]


def conditions(plan: Plan) -> dict[str, tuple[str, str]]:
    """Return the conditions of a plan's status: status and reason by type."""
    assert plan.status is not None
    return {one["type"]: (one["status"], one["reason"]) for one in plan.status["conditions"]}

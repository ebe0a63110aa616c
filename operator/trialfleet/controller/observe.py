"""Observe: from what the watches have told to the input of a plan. Reads, never asks."""

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from trialfleet import names
from trialfleet.api.study import Study
from trialfleet.api.study_storage import StudyStorage
from trialfleet.api.verdict import Rejected, check
from trialfleet.client.answers import Summary
from trialfleet.controller.backup_view import view_backups
from trialfleet.controller.build.pod_parts import proxy_addresses
from trialfleet.controller.conditions import conditions_of, find, is_true
from trialfleet.controller.job_view import JobView, view_job
from trialfleet.controller.memory import Memory
from trialfleet.controller.observed import (
    StorageObserved,
    StorageView,
    StudyObserved,
    Subject,
    WorkloadView,
)
from trialfleet.controller.pod_view import PodView, view_pod, whose
from trialfleet.controller.store import Key, Store, Warned
from trialfleet.kube import reasons
from trialfleet.kube.objects import Object
from trialfleet.kube.pod_status import Trouble
from trialfleet.kube.times import parse_time

_LONG_AGO: Final = datetime.timedelta(minutes=10)
"""A worker's session has long expired when its pod ended before that."""

_VOLUME_EVENTS: Final = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")
_BEFORE_CONTAINERS: Final = (
    *_VOLUME_EVENTS,
    *("FailedCreatePodSandBox", "NetworkNotReady", "FailedPrepareDynamicResources"),
)
"""Events about a pod that mean nothing any more once it is set up."""

_WORKLOADS: Final = ("StatefulSet", "DaemonSet", "Deployment")

_HARMLESS_EVENTS: Final = ("DNSConfigForming", "FailedToRetrieveImagePullSecret", "Unhealthy")
"""Events about a pod that may start all the same."""

_CREATE_EVENTS: Final = ("FailedCreate",)


def subject_of(obj: Mapping[str, Any]) -> Subject:
    """Return an object without its spec."""
    metadata = obj["metadata"]
    return Subject(
        kind=obj["kind"],
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 1),
        created=parse_time(metadata.get("creationTimestamp"))
        or datetime.datetime.fromtimestamp(0, datetime.UTC),
        status=obj.get("status") or {},
    )


def observe_study(
    obj: Mapping[str, Any],
    store: Store,
    memory: Memory,
    summary: Summary | None,
    now: datetime.datetime,
) -> StudyObserved:
    """Return what there is of a study."""
    subject = subject_of(obj)
    key = Key("Study", subject.namespace, subject.name)
    study, refusal = _parse(Study, obj)
    jobs = tuple(view_job(job) for job in _own(store.owned(key, "Job"), subject.uid))
    names_of_jobs = {job.name for job in jobs}
    # Labels alone may be those of a copy that somebody made to look into something.
    found = [pod for pod in store.owned(key, "Pod") if _is_of_a_job(pod)]
    pods = [_warned(view_pod(pod), store) for pod in found]
    pods = [pod for pod in pods if pod.job in names_of_jobs or pod.end is not None]
    departed = [pod for uid, pod in memory.departed.items() if uid not in {p.uid for p in pods}]
    _note_shortage(memory, jobs, pods, now)
    old = {pod.uid for pod in pods if pod.ended is not None and now - pod.ended > _LONG_AGO}
    return StudyObserved(
        subject=subject,
        study=study,
        refusal=refusal,
        storage=None if study is None else _storage_view(study, store, subject),
        ensured=memory.ensured == subject.generation,
        found=memory.found,
        blocked=memory.blocked,
        summary=summary,
        jobs=jobs,
        pods=(*pods, *departed),
        reported=frozenset(memory.reported | old),
        served=frozenset(memory.served),
        troubles=tuple(_study_warnings(store, jobs, pods)),
        created=frozenset(memory.created),
        short_since=dict(memory.short_since),
    )


def observe_storage(
    obj: Mapping[str, Any],
    store: Store,
    memory: Memory,
    *,
    cnpg_installed: bool,
    identity: str,
    proxy_error: str,
) -> StorageObserved:
    """Return what there is of a storage."""
    subject = subject_of(obj)
    key = Key("StudyStorage", subject.namespace, subject.name)
    storage, refusal = _parse(StudyStorage, obj)
    live = {
        f"{kind}/{child['metadata']['name']}": child
        for kind in (*_WORKLOADS, "Cluster", "CronJob", "PodDisruptionBudget")
        for child in _own(store.owned(key, kind), subject.uid)
    }
    pods = tuple(_warned(view_pod(pod), store) for pod in store.owned(key, "Pod"))
    users = list(studies_of(store, subject.namespace, subject.name))
    postgres = names.postgres_name(subject.name)
    proxy = names.proxy_name(subject.name)
    return StorageObserved(
        subject=subject,
        storage=storage,
        refusal=refusal,
        postgres=_workload(live.get(f"StatefulSet/{postgres}") or live.get(f"Cluster/{postgres}")),
        proxies=_workload(live.get(f"DaemonSet/{proxy}") or live.get(f"Deployment/{proxy}")),
        live=live,
        pods=pods,
        troubles=tuple(_storage_warnings(store, live.values())),
        studies=len(users),
        workers=sum(_parallelism(user) for user in users),
        trials=sum(finished_trials(user) for user in users),
        busy=not all(map(has_ended, users)),
        runs=any(_parallelism(user) and not has_ended(user) for user in users),
        ended=max(filter(None, map(_ended, users)), default=None),
        woken=_woken(obj),
        identity=identity,
        cnpg_installed=cnpg_installed,
        proxy_error=proxy_error,
        backup=view_backups(subject.status, store.owned(key, "Job"), store.owned(key, "Pod")),
        created=frozenset(memory.created),
    )


def studies_of(store: Store, namespace: str, storage: str) -> Iterable[Object]:
    """Yield the studies that use a storage."""
    for study in store.of_kind("Study"):
        if study["metadata"]["namespace"] == namespace and storage_name(study) == storage:
            yield study


def storage_name(study: Mapping[str, Any]) -> str:
    """Return the name of a study's storage."""
    reference = study.get("spec", {}).get("storage") or {}
    return str(reference.get("name") or study["metadata"]["name"])


def token_key(storage: Mapping[str, Any]) -> int:
    """Return the number of the key that a storage's tokens are made with."""
    keys = storage.get("spec", {}).get("security", {}).get("tokenKeys")
    return int(keys[0]) if keys else 1


def uses_tls(storage: Mapping[str, Any]) -> bool:
    """Whether the proxies of a storage encrypt and ask for tokens."""
    return bool(storage.get("spec", {}).get("security", {}).get("tls", True))


def proxy_pods(store: Store, namespace: str, storage: str) -> list[PodView]:
    """Return the pods of a storage's proxies."""
    pods = store.owned(Key("StudyStorage", namespace, storage), "Pod")
    views = (view_pod(pod) for pod in pods)
    return [pod for pod in views if pod.component == names.COMPONENT_PROXY and pod.address]


def _parse(model: Any, obj: Mapping[str, Any]) -> tuple[Any, str]:
    metadata = obj["metadata"]
    content = {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        # What else the metadata has is the API server's business.
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        "spec": obj.get("spec", {}),
    }
    try:
        return check(model, content), ""
    except Rejected as rejected:
        return None, str(rejected)


def _own(objects: Iterable[Object], uid: str) -> list[Object]:
    return [
        obj
        for obj in objects
        if any(one.get("uid") == uid for one in obj["metadata"].get("ownerReferences", ()))
    ]


def _storage_view(study: Study, store: Store, subject: Subject) -> StorageView | None:
    name = study.spec.storage_name or subject.name
    namespace = subject.namespace
    obj = store.get("StudyStorage", namespace, name)
    if obj is None or (study.spec.storage_name is None and not _own([obj], subject.uid)):
        return None
    conditions = conditions_of(obj.get("status") or {})
    ready = find(conditions, reasons.READY)
    stalled = find(conditions, reasons.STALLED)
    spec = obj.get("spec", {})
    placement = spec.get("proxy", {}).get("placement", "Node")
    told = stalled is not None and stalled.status == "True"
    asleep = is_true(conditions, reasons.ASLEEP)
    return StorageView(
        name=name,
        ready=ready is not None and ready.status == "True",
        reason=(
            stalled.reason
            if told and stalled is not None
            else reasons.ASLEEP
            if asleep
            else reasons.STARTING
        ),
        message=stalled.message if told and stalled is not None else "",
        proxies=proxy_addresses(name, namespace, placement),
        tls=uses_tls(obj),
        token_key=token_key(obj),
        uid_tokens=_knows_uid_tokens(store, Key("StudyStorage", namespace, name)),
    )


def _knows_uid_tokens(store: Store, storage: Key) -> bool:
    """Whether no proxy is there of a release that knows no tokens with a uid."""
    for pod in store.owned(storage, "Pod"):
        metadata = pod["metadata"]
        proxy = metadata.get("labels", {}).get(names.LABEL_COMPONENT) == names.COMPONENT_PROXY
        if proxy and names.ANNOTATION_TOKENS not in metadata.get("annotations", {}):
            return False
    return True


def _is_of_a_job(pod: Mapping[str, Any]) -> bool:
    references = pod["metadata"].get("ownerReferences", ())
    return any(one.get("kind") == "Job" and one.get("controller") for one in references)


def has_ended(study: Mapping[str, Any]) -> bool:
    """Whether a study has ended, by its status, and its spec has not changed since."""
    status = study.get("status") or {}
    conditions = conditions_of(status)
    over = any(is_true(conditions, one) for one in (reasons.COMPLETE, reasons.FAILED))
    return over and status.get("observedGeneration") == study["metadata"].get("generation", 1)


def _ended(study: Mapping[str, Any]) -> datetime.datetime | None:
    return parse_time((study.get("status") or {}).get("completionTime"))


def _woken(storage: Mapping[str, Any]) -> datetime.datetime | None:
    """Return the time that an annotation says; None if it says none."""
    text = storage["metadata"].get("annotations", {}).get(names.ANNOTATION_WAKE, "")
    try:
        found = parse_time(text)
    except ValueError:
        return None
    return None if found is None or found.tzinfo is None else found


def finished_trials(study: Mapping[str, Any]) -> int:
    """Return how many trials of a study have finished, by its status."""
    trials = (study.get("status") or {}).get("trials", {})
    return sum(int(trials.get(key, 0)) for key in ("complete", "pruned", "failed"))


def _parallelism(study: Mapping[str, Any]) -> int:
    spec = study.get("spec", {})
    parallelism = spec.get("parallelism", 1)
    return 0 if spec.get("suspend") or not isinstance(parallelism, int) else parallelism


def _workload(obj: Mapping[str, Any] | None) -> WorkloadView | None:
    if obj is None:
        return None
    spec, status = obj.get("spec", {}), obj.get("status", {})
    if obj["kind"] == "DaemonSet":
        desired, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
    elif obj["kind"] == "Cluster":
        desired, ready = spec.get("instances", 1), status.get("readyInstances", 0)
    else:
        desired, ready = spec.get("replicas", 1), status.get("readyReplicas", 0)
    seen = status.get("observedGeneration", 0) >= obj["metadata"].get("generation", 0)
    return WorkloadView(desired, ready, seen)


def _note_shortage(
    memory: Memory, jobs: Iterable[JobView], pods: Iterable[PodView], now: datetime.datetime
) -> None:
    """Remember since when a Job of workers has had fewer pods than it should."""
    present: dict[str, int] = {}
    for pod in pods:
        if pod.end is None and pod.uid not in memory.reported:
            present[pod.job] = present.get(pod.job, 0) + 1
    short = {
        job.uid
        for job in jobs
        if job.component == names.COMPONENT_WORKER
        and not (job.finished or job.deleting or job.suspended)
        and present.get(job.name, 0) < job.parallelism
    }
    memory.short_since = {uid: memory.short_since.get(uid, now) for uid in short}


def _study_warnings(
    store: Store, jobs: Iterable[JobView], pods: Iterable[PodView]
) -> Iterable[Trouble]:
    pods = list(pods)
    for job in jobs:
        present = sum(pod.job == job.name and pod.end is None for pod in pods)
        warned = store.warning(job.uid)
        if warned and not job.finished and not job.deleting and present < job.parallelism:
            yield from _creation_trouble(warned, job.component)


def _storage_warnings(store: Store, workloads: Iterable[Mapping[str, Any]]) -> Iterable[Trouble]:
    for obj in workloads:
        if obj["kind"] == "CronJob":
            continue
        workload, warned = _workload(obj), store.warning(obj["metadata"]["uid"])
        if warned and workload and workload.ready < max(1, workload.desired):
            component = obj["metadata"].get("labels", {}).get(names.LABEL_COMPONENT, "")
            yield from _creation_trouble(warned, component)


def _warned(pod: PodView, store: Store) -> PodView:
    """Return a pod with the trouble that an Event tells of, if its status tells of none."""
    warned = store.warning(pod.uid)
    if warned is None or pod.trouble is not None or pod.end is not None or pod.running:
        return pod
    if warned.reason in _HARMLESS_EVENTS or (pod.set_up and warned.reason in _BEFORE_CONTAINERS):
        return pod
    message = warned.message
    if warned.reason == "FailedScheduling":
        trouble = Trouble(reasons.UNSCHEDULABLE, message)
    elif warned.reason not in _VOLUME_EVENTS:
        trouble = Trouble(reasons.START_FAILED, f"{warned.reason}: {message}")
    elif "not found" in message and ("configmap" in message or "secret" in message):
        trouble = Trouble(reasons.CONFIG_MISSING, message)
    else:
        trouble = Trouble(reasons.VOLUME_FAILED, message)
    return replace(pod, trouble=trouble)


def _creation_trouble(warned: Warned, component: str) -> Iterable[Trouble]:
    if warned.reason in _CREATE_EVENTS:
        quota = "exceeded quota" in warned.message or "failed quota" in warned.message
        reason = reasons.QUOTA_EXCEEDED if quota else reasons.PODS_FORBIDDEN
        # Each try has another name for the pod: the message is to stay the same.
        message = re.sub(r'pods? "[^"]+" is', "pods are", warned.message)
        yield Trouble(reason, f"{whose(component, 2)}: {message}")

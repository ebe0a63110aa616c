"""Before the first trial: the storage, what the storage knows of the study, and ``prepare``."""

import datetime
import enum
from dataclasses import dataclass, replace

from trialfleet import names
from trialfleet.controller.build import access, own_storage, run_once, worker_job
from trialfleet.controller.build.worker_job import Reach
from trialfleet.controller.observed import StudyObserved
from trialfleet.controller.plan import Removal
from trialfleet.controller.secrecy import Keys
from trialfleet.kube import reasons
from trialfleet.kube.objects import Object
from trialfleet.kube.pod_status import Trouble


class StartStage(enum.Enum):
    """How far the startup of a study is."""

    STORAGE = enum.auto()
    """Its storage is not ready."""
    ENSURE = enum.auto()
    """The storage does not know it yet."""
    PREPARE = enum.auto()
    READY = enum.auto()


@dataclass(frozen=True, slots=True)
class Startup:
    """What is to be done before a study can run."""

    stage: StartStage
    objects: tuple[Object, ...] = ()
    once: tuple[Object, ...] = ()
    removals: tuple[Removal, ...] = ()
    prepared: bool = False
    trouble: Trouble | None = None
    failed: Trouble | None = None
    """It will never run."""


def reach_of(observed: StudyObserved, keys: Keys) -> Reach:
    """Return how the pods of a study reach its storage."""
    storage = observed.storage
    assert storage is not None
    secret = None
    if storage.tls:
        secret = _secret_name(observed, keys, uid=uid_of_token(observed, keys))
    return Reach(storage.name, storage.proxies, secret)


def uid_of_token(observed: StudyObserved, keys: Keys) -> str:
    """Return the uid that the token of a study bears; empty for a token as release 0.1.0 made them.

    That is what a study has while a proxy is there that knows no other, or pods of a Job that it
    was given to: they are not replaced for another one.
    """
    storage = observed.storage
    assert storage is not None
    bare = _secret_name(observed, keys, uid="")
    given = any(job.mounts(bare) for job in observed.jobs if not (job.finished or job.deleting))
    return observed.subject.uid if storage.uid_tokens and not given else ""


def _secret_name(observed: StudyObserved, keys: Keys, *, uid: str) -> str:
    storage = observed.storage
    assert storage is not None
    subject = observed.subject
    where = access.StorageNames(subject.namespace, storage.name)
    return access.access_secret_name(keys, subject.name, uid, where, storage.token_key)


def plan_startup(observed: StudyObserved, keys: Keys, now: datetime.datetime) -> Startup:
    """Decide what a study needs before its first trial."""
    study, subject = observed.study, observed.subject
    assert study is not None
    objects = []
    if study.spec.storage_name is None:
        objects.append(own_storage.build_own_storage(subject.owner, study))
    objects.append(worker_job.build_config(subject.owner, study))
    storage = observed.storage
    if storage is None or not storage.ready:
        trouble = _storage_trouble(observed)
        once = () if storage is None else _secret(observed, keys, now)
        return Startup(StartStage.STORAGE, tuple(objects), once, trouble=trouble)
    begun = Startup(
        StartStage.READY,
        tuple(objects),
        _secret(observed, keys, now),
        prepared=study.spec.prepare is not None,
    )
    if not observed.ensured:
        return replace(begun, stage=StartStage.ENSURE, prepared=False, trouble=observed.blocked)
    if study.spec.prepare is None or subject.has(reasons.PREPARED):
        return begun
    return _prepare(observed, begun, reach_of(observed, keys))


def _secret(observed: StudyObserved, keys: Keys, now: datetime.datetime) -> tuple[Object, ...]:
    name, storage = reach_of(observed, keys).secret, observed.storage
    if name is None or storage is None or name in observed.created:
        return ()
    where = access.StorageNames(observed.subject.namespace, storage.name)
    owner, uid = observed.subject.owner, uid_of_token(observed, keys)
    return (access.build_access_secret(owner, keys, uid, where, storage.token_key, now),)


def _storage_trouble(observed: StudyObserved) -> Trouble | None:
    assert observed.study is not None
    name, storage = observed.study.spec.storage_name, observed.storage
    if storage is not None:
        if not storage.message:
            return None
        return Trouble(storage.reason, f"storage {storage.name!r}: {storage.message}")
    if name is None:
        return None
    return Trouble(
        reasons.STORAGE_MISSING,
        f"spec.storage.name: found no StudyStorage {name!r} in the namespace "
        f"{observed.subject.namespace!r}",
    )


def _prepare(observed: StudyObserved, begun: Startup, reach: Reach) -> Startup:
    study, subject = observed.study, observed.subject
    assert study is not None
    waiting = replace(begun, stage=StartStage.PREPARE, prepared=False)
    jobs = [job for job in observed.jobs_for(names.COMPONENT_PREPARE) if not job.deleting]
    stale = [job for job in jobs if job.failure and job.generation < subject.generation]
    if stale:
        # The spec has changed since: a new try.
        removals = tuple(Removal("batch/v1", "Job", job.name, job.uid) for job in stale)
        return replace(waiting, removals=removals)
    for job in jobs:
        if job.complete:
            return begun
        if job.failure:
            message = f"prepare has failed: {job.failure}"
            said = [
                pod.end.message
                for pod in observed.pods
                if pod.job == job.name and pod.end is not None and pod.end.message
            ]
            if said:
                message = f"{message}; {said[-1]}"
            return replace(waiting, failed=Trouble(reasons.PREPARE_FAILED, message))
    if observed.jobs_for(names.COMPONENT_PREPARE):
        return waiting
    made = run_once.build_prepare(subject.owner, study, reach=reach, generation=subject.generation)
    return replace(waiting, objects=(*begun.objects, made))

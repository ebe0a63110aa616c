"""Before the first trial: the storage, what the storage knows of the study, and ``prepare``."""

import enum
from dataclasses import dataclass

from trialfleet import names
from trialfleet.controller import reasons
from trialfleet.controller.build import own_storage, run_once, workers
from trialfleet.controller.build.objects import Object
from trialfleet.controller.observed import StudyObserved
from trialfleet.controller.options import Options
from trialfleet.controller.plan import Removal
from trialfleet.controller.pod_view import Trouble


class Stage(enum.Enum):
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

    stage: Stage
    objects: tuple[Object, ...] = ()
    removals: tuple[Removal, ...] = ()
    prepared: bool = False
    trouble: Trouble | None = None
    failed: Trouble | None = None
    """It will never run."""


def plan_startup(observed: StudyObserved, options: Options) -> Startup:
    """Decide what a study needs before its first trial."""
    study, subject = observed.study, observed.subject
    assert study is not None
    objects = []
    if study.spec.storage is None:
        objects.append(own_storage.build_own_storage(subject.owner, study))
    objects.append(workers.build_config(subject.owner, study))
    storage = observed.storage
    if storage is None or not storage.ready:
        return Startup(
            Stage.STORAGE, tuple(objects), trouble=_storage_trouble(observed), prepared=False
        )
    if not observed.ensured:
        return Startup(Stage.ENSURE, tuple(objects), trouble=observed.blocked)
    if study.spec.prepare is None or subject.has(reasons.PREPARED):
        return Startup(Stage.READY, tuple(objects), prepared=study.spec.prepare is not None)
    return _prepare(observed, tuple(objects), storage.proxies, options)


def _storage_trouble(observed: StudyObserved) -> Trouble | None:
    assert observed.study is not None
    reference, storage = observed.study.spec.storage, observed.storage
    if storage is not None:
        return Trouble(storage.reason, storage.message) if storage.message else None
    if reference is None:
        return None
    return Trouble(
        reasons.STORAGE_MISSING,
        f"spec.storage.name: found no StudyStorage {reference.name!r} in the namespace "
        f"{observed.subject.namespace!r}",
    )


def _prepare(
    observed: StudyObserved, objects: tuple[Object, ...], proxies: str, options: Options
) -> Startup:
    study, subject, storage = observed.study, observed.subject, observed.storage
    assert study is not None and storage is not None
    jobs = [job for job in observed.jobs_for(names.COMPONENT_PREPARE) if not job.deleting]
    stale = [job for job in jobs if job.failure and job.generation < subject.generation]
    if stale:
        # The spec has changed since: a new try.
        removals = tuple(Removal("batch/v1", "Job", job.name, job.uid) for job in stale)
        return Startup(Stage.PREPARE, objects, removals)
    for job in jobs:
        if job.complete:
            return Startup(Stage.READY, objects, prepared=True)
        if job.failure:
            message = f"prepare has failed: {job.failure}"
            said = [
                pod.end.message
                for pod in observed.pods
                if pod.job == job.name and pod.end is not None and pod.end.message
            ]
            if said:
                message = f"{message}; {said[-1]}"
            return Startup(Stage.PREPARE, objects, failed=Trouble(reasons.PREPARE_FAILED, message))
    if jobs or observed.jobs_for(names.COMPONENT_PREPARE):
        return Startup(Stage.PREPARE, objects)
    made = run_once.build_prepare(
        subject.owner,
        study,
        storage=storage.name,
        proxies=proxies,
        generation=subject.generation,
        options=options,
    )
    return Startup(Stage.PREPARE, (*objects, made))

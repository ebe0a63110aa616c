"""After the last trial: workers leave, ``collate`` runs once, nothing is left but the storage."""

import enum
from dataclasses import dataclass

from trialfleet import names
from trialfleet.controller.build import run_once
from trialfleet.controller.build.worker_job import Reach
from trialfleet.controller.observed import StudyObserved
from trialfleet.controller.options import OperatorOptions
from trialfleet.controller.plan import Removal
from trialfleet.kube import reasons
from trialfleet.kube.objects import Object
from trialfleet.kube.pod_status import Trouble


class FinishStage(enum.Enum):
    """How far the end of a study is."""

    DRAIN = enum.auto()
    """Its last trials run."""
    COLLATE = enum.auto()
    DONE = enum.auto()


@dataclass(frozen=True, slots=True)
class Ending:
    """What is to be done about a study whose budget allows no further trial."""

    stage: FinishStage
    objects: tuple[Object, ...] = ()
    removals: tuple[Removal, ...] = ()
    collated: bool = False
    failed: Trouble | None = None


def plan_ending(observed: StudyObserved, options: OperatorOptions, reach: Reach) -> Ending:
    """Decide what a study needs after its end."""
    study, summary = observed.study, observed.summary
    assert study is not None and summary is not None
    if summary.counts.running:
        # Workers leave by themselves, each when its trial is done.
        return Ending(FinishStage.DRAIN)
    if study.spec.collate is None:
        return Ending(FinishStage.DONE, removals=remove_jobs(observed))
    if observed.subject.has(reasons.COLLATED):
        return Ending(FinishStage.DONE, removals=remove_jobs(observed), collated=True)
    return _collate(observed, options, reach)


def remove_jobs(observed: StudyObserved, *components: str) -> tuple[Removal, ...]:
    """Return the removals of a study's Jobs, of all or of some components."""
    return tuple(
        Removal("batch/v1", "Job", job.name, job.uid)
        for job in observed.jobs
        if not job.deleting and (not components or job.component in components)
    )


def _collate(observed: StudyObserved, options: OperatorOptions, reach: Reach) -> Ending:
    study, subject = observed.study, observed.subject
    assert study is not None
    others = remove_jobs(observed, names.COMPONENT_WORKER, names.COMPONENT_PREPARE)
    jobs = observed.jobs_for(names.COMPONENT_COLLATE)
    for job in jobs:
        if job.deleting:
            continue
        if job.generation < subject.generation and job.finished:
            # Of an earlier end: the study has gone on since.
            removal = Removal("batch/v1", "Job", job.name, job.uid)
            return Ending(FinishStage.COLLATE, removals=(*others, removal))
        if job.complete:
            return Ending(FinishStage.DONE, removals=remove_jobs(observed), collated=True)
        if job.failure:
            message = f"collate has failed: {job.failure}"
            return Ending(
                FinishStage.COLLATE,
                removals=others,
                failed=Trouble(reasons.COLLATE_FAILED, message),
            )
    if jobs:
        return Ending(FinishStage.COLLATE, removals=others)
    made = run_once.build_collate(
        subject.owner,
        study,
        reach=reach,
        generation=subject.generation,
        options=options,
    )
    return Ending(FinishStage.COLLATE, (made,), others)

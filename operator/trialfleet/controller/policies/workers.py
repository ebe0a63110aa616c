"""How many workers there are, and in which Jobs.

A study has one Job of workers, as long as that one can start workers. A Job can't once one of its
workers has ended clean, or has another pod template than the study needs now; and it starts them
late when one died, because Kubernetes waits after each pod that failed, from 10 s on twice as long
each time, also where the failure policy says Ignore. Then another Job takes over what is missing;
the first keeps the workers that it has.

So the Job's own back-off is left to work only where it is wanted: for workers that die before they
have opened a session.
"""

import datetime
from collections import Counter
from dataclasses import dataclass
from typing import Final

from trialfleet import names
from trialfleet.controller.build import worker_job as build
from trialfleet.controller.build.template import dump_template
from trialfleet.controller.build.worker_job import Reach
from trialfleet.controller.job_view import JobView
from trialfleet.controller.observed import StudyObserved
from trialfleet.controller.options import OperatorOptions
from trialfleet.controller.plan import Note, Removal
from trialfleet.controller.pod_view import PodView
from trialfleet.controller.policies.rollout import has_running, plan_rollout
from trialfleet.kube import reasons
from trialfleet.kube.objects import Object
from trialfleet.kube.pod_status import Trouble
from trialfleet.model.ends import EndKind

REPLACE_AFTER: Final = datetime.timedelta(seconds=15)
"""What Kubernetes gets to replace a lost worker that had opened no session, before another Job does
it: after the first loss it waits 10 s, after each further one twice as long, up to 10 minutes."""

_NOT_ITS_FAULT: Final = (reasons.QUOTA_EXCEEDED, reasons.PODS_FORBIDDEN)
"""What keeps any Job from starting workers."""


@dataclass(frozen=True, slots=True)
class Workers:
    """What is to be done about a study's workers."""

    desired: int
    objects: tuple[Object, ...] = ()
    removals: tuple[Removal, ...] = ()
    failed: Trouble | None = None
    """No worker can run, now or later."""
    stopped: bool = False
    """A worker said that there is no more work, before the budget was used up."""
    requeue_after: datetime.timedelta | None = None
    trouble: Trouble | None = None
    """Workers of a new template can't run; those of the old one go on."""
    notes: tuple[Note, ...] = ()


def plan_workers(
    observed: StudyObserved, options: OperatorOptions, reach: Reach, now: datetime.datetime
) -> Workers:
    """Decide the Jobs of a study that is to run."""
    study = observed.study
    assert study is not None
    if study.spec.suspend or study.spec.parallelism == 0:
        return remove_workers(observed)
    contract = build.contract(reach, dump_template(study.spec.template))
    jobs = observed.jobs_for(names.COMPONENT_WORKER)
    present = [job for job in jobs if not job.deleting]
    finished = [job for job in present if job.finished]
    live = [job for job in present if not job.finished and job.contract == contract]
    others = [job for job in present if not job.finished and job.contract != contract]
    # Those that can't reach the storage any more are replaced at once.
    outdated = [job for job in others if build.reaches(job.live, reach)]
    cut_off = [job for job in others if job not in outdated]
    current = live[-1] if live and not _is_past(live[-1], observed, now) else None
    if current is None:
        verdict = _verdict(observed, finished)
        if verdict is not None and verdict.failed and has_running(observed, outdated):
            return Workers(study.spec.parallelism, trouble=verdict.failed)
        if verdict is not None:
            return verdict
    retiring = [job for job in live if job is not current]
    alive = Counter(pod.job for pod in observed.alive)
    busy = sum(alive[job.name] for job in retiring)
    leaving = sum(alive[job.name] for job in outdated)
    granted = 0 if current is None else current.parallelism
    desired = _desired(observed, busy + granted + leaving)
    wanted = max(0, desired - busy)
    objects = [_retired(job) for job in retiring if job.parallelism > job.active]
    removals = cut_off + finished + [job for job in retiring if not job.active]
    gone = tuple(Removal("batch/v1", "Job", job.name, job.uid) for job in removals)
    notes: tuple[Note, ...] = ()
    if outdated:
        rollout = plan_rollout(observed, outdated, live, desired, now)
        wanted = max(0, rollout.new - busy)
        objects += rollout.objects
        gone = (*rollout.removals, *gone)
        ends = len(rollout.removals) == len(outdated)
        notes = _notes(begins=not live and not ends, ends=ends and bool(live))
    if current is None:
        objects.append(_new_job(observed, jobs, wanted, reach, options))
    elif current.parallelism != wanted or (current.suspended and not current.queued):
        grows = wanted > current.parallelism
        limit = build.backoff_limit_for(wanted) if grows else None
        objects.append(build.resized(dict(current.live), wanted, backoff_limit=limit))
    return Workers(
        desired,
        tuple(objects),
        gone,
        requeue_after=REPLACE_AFTER if current and current.uid in observed.short_since else None,
        notes=notes,
    )


def _notes(*, begins: bool, ends: bool) -> tuple[Note, ...]:
    if begins:
        text = "workers of the new template take the place of the others, a few at a time"
        return (Note(reasons.EVENT_WORKERS_FOLLOW, text),)
    if ends:
        return (Note(reasons.EVENT_WORKERS_REPLACED, "all workers are of the new template"),)
    return ()


def plan_first(observed: StudyObserved, options: OperatorOptions, reach: Reach) -> Workers:
    """Decide the first Job of a study, before anything is known of its trials."""
    desired = _desired(observed, 0)
    return Workers(desired, (_new_job(observed, [], desired, reach, options),))


def remove_workers(observed: StudyObserved) -> Workers:
    """Decide to have no workers: each finishes its trial or hands it back."""
    removals = tuple(
        Removal("batch/v1", "Job", job.name, job.uid)
        for job in observed.jobs_for(names.COMPONENT_WORKER)
        if not job.deleting
    )
    return Workers(0, removals=removals)


def _desired(observed: StudyObserved, present: int) -> int:
    """Return how many workers there should be: no more than there can be trials for.

    Never fewer than there are for that reason: Kubernetes would choose which of them has to go.
    """
    assert observed.study is not None
    spec, summary = observed.study.spec, observed.summary
    if spec.budget.trials is None or summary is None:
        return spec.parallelism
    left = max(1, spec.budget.trials - summary.counts.counted)
    return min(spec.parallelism, max(left, present))


def _verdict(observed: StudyObserved, finished: list[JobView]) -> Workers | None:
    """Return what follows if the newest Job of this spec has ended, and nothing is to be done."""
    generation, summary = observed.subject.generation, observed.summary
    judged = [job for job in finished if job.generation >= generation]
    if not judged:
        return None
    newest = judged[-1]
    if newest.failure:
        if _has_served(newest, observed):
            return None
        return Workers(0, failed=_why_failed(newest, observed))
    counts = None if summary is None else summary.counts
    if counts is None:
        return Workers(0)
    if counts.waiting == counts.running == 0:
        return Workers(0, stopped=True)
    return None


def _why_failed(job: JobView, observed: StudyObserved) -> Trouble:
    ends = [
        pod.end
        for pod in observed.workers
        if pod.job == job.name and pod.end is not None and pod.end.kind is not EndKind.LOST
    ]
    for end in ends:
        if end.unusable:
            return Trouble(end.reason, end.message or job.failure)
    said = [end for end in ends if end.message]
    if said and said[-1].reason == reasons.PACKAGES_FAILED:
        return Trouble(reasons.PACKAGES_FAILED, said[-1].message)
    return Trouble(
        reasons.WORKERS_FAILED, "; ".join([job.failure, *(end.message for end in said[-1:])])
    )


def _has_served(job: JobView, observed: StudyObserved) -> bool:
    """Whether a Job has ended only because its workers died with their trials."""
    ends = [pod for pod in observed.workers if pod.job == job.name and pod.end is not None]
    if any(pod.end is not None and pod.end.unusable for pod in ends):
        return False
    return any(pod.uid in observed.served for pod in ends)


def _is_past(job: JobView, observed: StudyObserved, now: datetime.datetime) -> bool:
    """Whether a Job starts no workers any more, or too late."""
    if job.succeeded:
        # A worker has said that there is no more work; it may be that there is by a newer spec.
        return job.generation < observed.subject.generation
    since = observed.short_since.get(job.uid)
    if since is None or any(trouble.reason in _NOT_ITS_FAULT for trouble in observed.troubles):
        return False
    dead = [pod for pod in observed.workers if pod.job == job.name and not observed.lives(pod)]
    if any(pod.uid in observed.served or _left(pod) for pod in dead):
        return True
    lost = any(pod.end is not None and pod.end.kind is EndKind.LOST for pod in dead)
    return lost and now - since >= REPLACE_AFTER


def _left(pod: PodView) -> bool:
    """Whether a worker left for a reason of its node's, not of its own."""
    return pod.end is None or pod.end.kind is EndKind.LEFT


def _retired(job: JobView) -> Object:
    """Return a Job that is to start no workers any more, and keeps those that it has."""
    return build.resized(dict(job.live), job.active, backoff_limit=build.NO_LIMIT)


def _new_job(
    observed: StudyObserved,
    jobs: list[JobView],
    parallelism: int,
    reach: Reach,
    options: OperatorOptions,
) -> Object:
    assert observed.study is not None
    return build.build_job(
        observed.subject.owner,
        observed.study,
        index=max((job.index for job in jobs), default=0) + 1,
        parallelism=parallelism,
        reach=reach,
        generation=observed.subject.generation,
        options=options,
    )

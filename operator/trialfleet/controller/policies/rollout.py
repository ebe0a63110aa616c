"""Workers follow their template: those of the old one leave a few at a time, and hand trials back.

As many as a quarter are replaced at once, so that three quarters are at work; of fewer than four
workers, one leaves when its successor is at work. The next ones follow when all of the new template
are at work: where one of them can't start, or ends before it has a session, the others stay.
"""

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from trialfleet.controller.build import worker_job as build
from trialfleet.controller.job_view import JobView
from trialfleet.controller.observed import StudyObserved
from trialfleet.controller.plan import Removal
from trialfleet.kube.objects import Object

_PARTS: Final = 4

_SURE_AFTER: Final = datetime.timedelta(minutes=1)
"""A worker that has run for so long is at work, whatever the number of sessions says."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far the workers are replaced."""

    new: int
    """Workers of the new template that there should be."""
    objects: tuple[Object, ...]
    """Jobs of the old template that get smaller."""
    removals: tuple[Removal, ...]
    """Jobs of the old template that are not needed any more."""


def plan_rollout(
    observed: StudyObserved,
    outdated: Sequence[JobView],
    live: Sequence[JobView],
    desired: int,
    now: datetime.datetime,
) -> Rollout:
    """Decide the next step, with the Jobs of the old and the new template."""
    running = [pod for pod in observed.alive if pod.running]
    staying = [pod for pod in running if pod.overdue is None]
    by_job = Counter(pod.job for pod in staying)
    old = sum(by_job[job.name] for job in outdated)
    granted = sum(job.parallelism for job in live)
    names = {job.name for job in live}
    # Nothing says whose a session is, so all that run must have one. A worker that leaves is
    # counted as long as it is there: it may still have its session.
    sessions = 0 if observed.summary is None else observed.summary.sessions
    settled = sessions >= len(running)
    at_work = sum(
        pod.job in names and (settled or now - pod.created >= _SURE_AFTER) for pod in staying
    )
    step = max(1, desired // _PARTS)
    new = max(granted, step)
    if at_work >= granted:
        new = max(granted + step, desired - old)
    elif not old:
        new = desired
    new = min(new, desired)
    left = min(old, desired - (new if desired >= _PARTS else min(at_work, desired)))
    objects, removals = [], []
    for job in reversed(outdated):
        kept = min(job.parallelism, left)
        left -= kept
        if not kept:
            removals.append(Removal("batch/v1", "Job", job.name, job.uid))
        elif kept < job.parallelism:
            objects.append(build.resized(dict(job.live), kept))
    return Rollout(new, tuple(objects), tuple(removals))


def has_running(observed: StudyObserved, jobs: Sequence[JobView]) -> bool:
    """Whether a worker of one of the Jobs runs."""
    names = {job.name for job in jobs}
    return any(pod.job in names and pod.running for pod in observed.alive)

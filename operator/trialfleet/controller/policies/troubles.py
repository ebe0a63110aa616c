"""What is in the way of a study, in one reason and one message."""

import datetime
from collections import Counter
from collections.abc import Iterable
from typing import Final

from trialfleet import names
from trialfleet.controller.observed import StudyObserved
from trialfleet.controller.pod_view import PodView, whose
from trialfleet.kube import reasons
from trialfleet.kube.pod_status import Trouble
from trialfleet.model.ends import EndKind

PATIENCE: Final = datetime.timedelta(seconds=15)
"""What a pod gets to start before its trouble is told: a volume is often made late, a mount or a
pull succeeds at the second try. A Warning means that somebody has to act."""

_ORDER: Final = (
    reasons.IMAGE_PULL_FAILED,
    reasons.CONFIG_MISSING,
    reasons.VOLUME_FAILED,
    reasons.PACKAGES_FAILED,
    reasons.START_FAILED,
    reasons.CRASH_LOOP,
    reasons.OBJECT_REFUSED,
    reasons.QUOTA_EXCEEDED,
    reasons.PODS_FORBIDDEN,
    reasons.UNSCHEDULABLE,
    reasons.NODE_LOST,
)
"""Which of several troubles is told: what people have to mend comes before what may pass."""


def find_trouble(
    pods: Iterable[PodView], events: Iterable[Trouble], now: datetime.datetime
) -> Trouble | None:
    """Return the worst of what is in the way of pods, with whose it is and how many it concerns."""
    found = [
        (pod.trouble, pod.component)
        for pod in pods
        if pod.trouble is not None
        and pod.end is None
        and pod.overdue is None
        and now - pod.created >= PATIENCE
    ]
    told = Counter((trouble.reason, component) for trouble, component in found)
    candidates = [
        *(Trouble(one.reason, _attributed(one, told[one.reason, of], of)) for one, of in found),
        *events,
    ]
    return min(candidates, key=lambda trouble: _rank(trouble.reason), default=None)


def _attributed(trouble: Trouble, count: int, component: str) -> str:
    number = f"{count} " if count > 1 else ""
    return f"{number}{whose(component, count)}: {trouble.message}"


def soonest(pods: Iterable[PodView], now: datetime.datetime) -> datetime.timedelta | None:
    """Return when to look again at pods that have not started yet."""
    waits = [
        pod.created + PATIENCE - now
        for pod in pods
        if pod.trouble is not None and pod.end is None and now - pod.created < PATIENCE
    ]
    return min(waits, default=None)


def of_study(observed: StudyObserved, now: datetime.datetime) -> Trouble | None:
    """Return the worst of what is in the way of a study's pods."""
    return find_trouble(observed.pods, (*observed.troubles, *_early_deaths(observed)), now)


def _early_deaths(observed: StudyObserved) -> Iterable[Trouble]:
    """Yield how the last pod of a Job ended that came to nothing, as long as none is at work.

    The Job tries again, later each time.
    """
    at_work = observed.summary is not None and observed.summary.sessions > 0
    for job in observed.jobs:
        worker = job.component == names.COMPONENT_WORKER
        if (
            job.finished
            or job.deleting
            or (worker and at_work and job.uid not in observed.short_since)
        ):
            continue
        dead = [
            (pod.ended or pod.created, pod.end)
            for pod in observed.pods
            if pod.job == job.name and pod.end is not None and _came_to_nothing(pod, observed)
        ]
        if not dead:
            continue
        _, end = max(dead, key=lambda one: one[0])
        reason = end.reason if end.kind is EndKind.NOT_STARTED else reasons.CRASH_LOOP
        what = "ended before its first trial, " if worker and reason is reasons.CRASH_LOOP else ""
        text = f"{whose(job.component)}: {what}{end.message or end.reason}"
        yield Trouble(reason, f"{text} ({len(dead)} so far; the next one starts later each time)")


def _came_to_nothing(pod: PodView, observed: StudyObserved) -> bool:
    assert pod.end is not None
    if pod.end.kind is EndKind.NOT_STARTED:
        return pod.end.reason != reasons.DELETED
    if pod.end.kind is not EndKind.FAILED:
        return False
    if pod.component != names.COMPONENT_WORKER:
        return True
    return pod.uid in observed.reported and pod.uid not in observed.served


def _rank(reason: str) -> int:
    return _ORDER.index(reason) if reason in _ORDER else len(_ORDER)

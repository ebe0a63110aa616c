"""What is in the way of a study, in one reason and one message."""

import datetime
from collections import Counter
from collections.abc import Iterable
from typing import Final

from trialfleet.controller import reasons
from trialfleet.controller.observed import StudyObserved
from trialfleet.controller.pod_view import PodView, Trouble

PATIENCE: Final = datetime.timedelta(seconds=5)
"""What a pod gets to start before its trouble is told: a scheduler often finds a place late."""

_ORDER: Final = (
    reasons.IMAGE_PULL_FAILED,
    reasons.CONFIG_MISSING,
    reasons.VOLUME_FAILED,
    reasons.START_FAILED,
    reasons.CRASH_LOOP,
    reasons.QUOTA_EXCEEDED,
    reasons.PODS_FORBIDDEN,
    reasons.UNSCHEDULABLE,
)
"""Which of several troubles is told: what people have to mend comes before what may pass."""


def find_trouble(
    pods: Iterable[PodView], events: Iterable[Trouble], now: datetime.datetime
) -> Trouble | None:
    """Return the worst of what is in the way of pods, with how many it concerns."""
    pods = list(pods)
    waiting = [
        pod
        for pod in pods
        if pod.trouble is not None
        and pod.end is None
        and pod.overdue is None
        and now - pod.created >= PATIENCE
    ]
    found = [pod.trouble for pod in waiting if pod.trouble is not None]
    told = Counter(trouble.reason for trouble in found)
    candidates = [*found, *events]
    if not candidates:
        return None
    worst = min(candidates, key=lambda trouble: _rank(trouble.reason))
    count = told[worst.reason]
    if count > 1:
        return Trouble(worst.reason, f"{count} pods: {worst.message}")
    return worst


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
    return find_trouble(observed.pods, observed.troubles, now)


def _rank(reason: str) -> int:
    return _ORDER.index(reason) if reason in _ORDER else len(_ORDER)

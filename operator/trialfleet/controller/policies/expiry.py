"""A study that has ended is deleted after a while, if it says so."""

import datetime
from dataclasses import dataclass

from trialfleet.kube.times import parse_time


@dataclass(frozen=True, slots=True)
class Expiry:
    """Whether the study has had its time."""

    expired: bool = False
    requeue_after: datetime.timedelta | None = None


def plan_expiry(ttl_s: int | None, completion_time: str | None, now: datetime.datetime) -> Expiry:
    """Decide whether a study that ended at a time is to be deleted now."""
    completed = parse_time(completion_time)
    if ttl_s is None or completed is None:
        return Expiry()
    left = completed + datetime.timedelta(seconds=ttl_s) - now
    if left <= datetime.timedelta(0):
        return Expiry(expired=True)
    return Expiry(requeue_after=left)

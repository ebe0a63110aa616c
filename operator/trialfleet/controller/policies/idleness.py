"""A storage that no study needs is put to sleep, if it says so. Pure."""

import datetime
from dataclasses import dataclass
from typing import Final

from trialfleet.controller.conditions import Wanted, find
from trialfleet.controller.observed import StorageObserved
from trialfleet.controller.plan import Note
from trialfleet.controller.policies import backups
from trialfleet.kube import reasons
from trialfleet.kube.times import parse_time

_ASLEEP: Final = (
    "all of its studies have ended: PostgreSQL and the proxies are stopped, the volume is kept; a "
    "larger budget, a new study, or 'trialfleet storage wake' start them again"
)
_WOKEN: Final = "PostgreSQL and the proxies are started"


@dataclass(frozen=True, slots=True)
class Idleness:
    """Whether a storage is asleep."""

    asleep: bool = False
    requeue_after: datetime.timedelta | None = None
    """Then it is, if nothing happens."""
    notes: tuple[Note, ...] = ()

    @property
    def condition(self) -> Wanted:
        """What the status says of it."""
        if not self.asleep:
            return Wanted(reasons.ASLEEP, False, reasons.NEEDED)
        return Wanted(reasons.ASLEEP, True, reasons.NO_STUDY_RUNS, "the volume is kept")


_START: Final = datetime.timedelta(minutes=10)
"""What a storage gets to start, before it sleeps although nobody could use it."""

NOT_IDLE: Final = Idleness()


def plan_idleness(observed: StorageObserved, now: datetime.datetime) -> Idleness:
    """Decide whether a storage sleeps: so long after the last study ended, or was woken."""
    storage, subject = observed.storage, observed.subject
    assert storage is not None
    was = subject.has(reasons.ASLEEP)
    awake = Idleness(notes=(Note(reasons.EVENT_AWAKE, _WOKEN),) if was else ())
    managed = storage.spec.postgres.managed
    in_pod = managed is not None and managed.empty_dir is not None
    idle = storage.spec.idle
    if idle is None or idle.action == "Keep" or observed.busy or in_pod:
        # What is in the pod only would be gone with it.
        return awake
    if backups.is_due(observed):
        # None is made while it sleeps: the next one, which wakes this again, has all trials.
        return awake
    ready = find(subject.conditions, reasons.READY)
    served = ready is not None and ready.status == "True"
    became = parse_time(ready.last_transition_time) if ready is not None and served else None
    since = max(filter(None, (subject.created, observed.ended, observed.woken, became)))
    # Whoever woke it has nothing of it while it starts.
    after = idle.after if was or served else max(idle.after, _START)
    left = since + after - now
    if left > datetime.timedelta(0):
        return Idleness(requeue_after=left, notes=awake.notes)
    note = Note(reasons.EVENT_ASLEEP, _ASLEEP)
    return Idleness(asleep=True, notes=() if was else (note,))

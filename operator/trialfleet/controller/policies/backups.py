"""What is said of a storage's dumps, and when none are made. Pure."""

import datetime
from dataclasses import dataclass
from typing import Final

from trialfleet import names
from trialfleet.controller.conditions import Wanted, find, short
from trialfleet.controller.observed import StorageObserved
from trialfleet.controller.plan import Note
from trialfleet.controller.policies import troubles
from trialfleet.kube import reasons
from trialfleet.kube.pod_status import Trouble
from trialfleet.kube.times import timestamp

_NONE_YET: Final = "no dump was made yet"


@dataclass(frozen=True, slots=True)
class Backups:
    """What the status says of the dumps."""

    condition: Wanted | None = None
    """None: none are asked for."""
    last: str | None = None
    """When the newest was begun."""
    notes: tuple[Note, ...] = ()


def plan_backups(observed: StorageObserved, now: datetime.datetime) -> Backups:
    """Say how old the newest dump is, and why there is no newer one."""
    seen = observed.backup
    last = None if seen.succeeded is None else timestamp(seen.succeeded)
    if observed.storage is None or observed.storage.spec.backup is None:
        return Backups(last=last)
    pods = [pod for pod in observed.pods if pod.component == names.COMPONENT_BACKUP]
    trouble = troubles.find_trouble(pods, (), now)
    if trouble is None and seen.failure:
        trouble = Trouble(reasons.BACKUP_FAILED, seen.failure)
    if trouble is None:
        if last is None:
            return Backups(Wanted(reasons.BACKED_UP, False, reasons.NOT_YET, _NONE_YET))
        return Backups(Wanted(reasons.BACKED_UP, True, reasons.SUCCEEDED), last)
    wanted = Wanted(reasons.BACKED_UP, False, trouble.reason, trouble.message)
    old = find(observed.subject.conditions, reasons.BACKED_UP)
    told = old is not None and old.status == "False" and old.message == short(trouble.message)
    note = Note(reasons.BACKUP_FAILED, trouble.message, "Warning")
    return Backups(wanted, last, () if told else (note,))


def is_due(observed: StorageObserved) -> bool:
    """Whether trials of studies that have ended are in no dump yet."""
    storage, ended = observed.storage, observed.ended
    if storage is None or storage.spec.backup is None or ended is None:
        return False
    return observed.backup.succeeded is None or observed.backup.succeeded < ended

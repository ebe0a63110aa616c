"""Whether the database is the one that held a storage's trials, and what was known of it. Pure."""

import datetime
from dataclasses import dataclass
from typing import Final

from trialfleet import names
from trialfleet.controller.observed import StorageObserved
from trialfleet.controller.plan import Note
from trialfleet.kube import reasons
from trialfleet.kube.objects import Object
from trialfleet.kube.pod_status import Trouble
from trialfleet.kube.times import timestamp

_COUNTED: Final = ("studies", "trials")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of a storage's database."""

    database: Object | None = None
    """For the status; None: nothing yet."""
    lost: Trouble | None = None
    """It is not the one that held the trials."""
    unknown: bool = False
    """A loss is accepted, and which database takes the place is not known yet."""
    notes: tuple[Note, ...] = ()

    @property
    def identity(self) -> str:
        """Of the database that the proxies may serve; empty: not known."""
        return "" if self.database is None else str(self.database["identity"])


NOTHING_KNOWN: Final = Judgement()


def judge(observed: StorageObserved, now: datetime.datetime) -> Judgement:
    """Compare the database that the proxies serve with the one that was served before."""
    known: Object = dict(observed.subject.status.get("database") or {})
    before = str(known.get("identity", ""))
    spec = None if observed.storage is None else observed.storage.spec
    accepted = bool(before) and spec is not None and spec.accept_data_loss == before
    if before and not accepted:
        what = _what_is_lost(observed, before)
        if what:
            for key, count in zip(_COUNTED, _counts(observed), strict=True):
                known[key] = max(count, int(known.get(key, 0)))
            return Judgement(known, Trouble(reasons.DATA_LOST, _told(observed, known, what)))
    if not observed.identity:
        return Judgement(known or None, unknown=accepted)
    counted = dict(zip(_COUNTED, _counts(observed), strict=True))
    found = {"identity": observed.identity, **counted}
    if found == {key: known.get(key) for key in found}:
        return Judgement(known)
    notes: tuple[Note, ...] = ()
    if before and before != observed.identity:
        text = f"goes on without the trials of the database {before}, as spec.acceptDataLoss says"
        notes = (Note(reasons.EVENT_LOSS_ACCEPTED, text),)
    return Judgement({**found, "seenTime": timestamp(now)}, notes=notes)


def _what_is_lost(observed: StorageObserved, before: str) -> str:
    if observed.identity and observed.identity != before:
        return f"the database is another one, {observed.identity}"
    prefix = f"{names.REASON_DATA_LOST}: "
    if not observed.identity and observed.proxy_error.startswith(prefix):
        return observed.proxy_error.removeprefix(prefix).partition(";")[0]
    return ""


def _told(observed: StorageObserved, known: Object, what: str) -> str:
    patch = f'{{"spec":{{"acceptDataLoss":"{known["identity"]}"}}}}'
    trials = "1 finished trial" if known["trials"] == 1 else f"{known['trials']} finished trials"
    studies = "1 study" if known["studies"] == 1 else f"{known['studies']} studies"
    return (
        f"{what}; the one of before, {known['identity']}, had {trials} of {studies} at "
        f"{known.get('seenTime')}. Nothing goes on until it is back. To go on without its trials: "
        f"kubectl patch studystorage {observed.subject.name} --type merge -p '{patch}'"
    )


def _counts(observed: StorageObserved) -> tuple[int, int]:
    return observed.studies, observed.trials

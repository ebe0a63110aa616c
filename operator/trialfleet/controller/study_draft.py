"""A plan for a study in the making, and what it says: conditions, one line, Events. Pure."""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from trialfleet.controller.conditions import Wanted, find, one_line
from trialfleet.controller.observed import StudyObserved
from trialfleet.controller.plan import Note, Removal
from trialfleet.controller.status import failures, improvement
from trialfleet.kube import reasons
from trialfleet.kube.objects import Object
from trialfleet.kube.pod_status import Trouble

_STALLED_EVERY: Final = datetime.timedelta(minutes=5)


@dataclass
class Draft:
    """What the policies have decided so far."""

    phase: str = "Pending"
    desired: int = 0
    objects: list[Object] = field(default_factory=list)
    once: tuple[Object, ...] = ()
    removals: list[Removal] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    waits: list[datetime.timedelta | None] = field(default_factory=list)
    running: tuple[bool, str, str] = (False, reasons.STARTING, "")
    trouble: Trouble | None = None
    failed: Trouble | None = None
    ended: str = ""
    prepared: bool | None = None
    collated: bool | None = None
    ensure: bool = False
    urgent: bool = False
    """Something is told that no later look would tell again."""
    undecided: bool = False
    """Whether it goes on by a newer spec is not known yet."""

    def remove(self, removals: Iterable[Removal]) -> None:
        """Decide to delete objects."""
        known = {one.uid for one in self.removals}
        self.removals += [one for one in removals if one.uid not in known]


def wanted_conditions(observed: StudyObserved, draft: Draft) -> list[Wanted]:
    """Return the conditions of the status."""
    storage = observed.storage
    wanted = []
    if observed.study is not None:
        ready = storage is not None and storage.ready
        trouble = draft.trouble if not ready else None
        wanted.append(
            Wanted(
                reasons.STORAGE_READY,
                ready,
                reasons.AVAILABLE if ready else trouble.reason if trouble else reasons.STARTING,
                "" if trouble is None else trouble.message,
            )
        )
    if draft.prepared is not None:
        wanted.append(
            Wanted(
                reasons.PREPARED,
                draft.prepared,
                reasons.SUCCEEDED if draft.prepared else reasons.PREPARING,
            )
        )
    wanted.append(Wanted(reasons.RUNNING, *draft.running))
    wanted.append(_stalled(draft))
    suspended = draft.phase == "Suspended"
    wanted.append(
        Wanted(
            reasons.SUSPENDED, suspended, reasons.BY_SPEC if suspended else reasons.NOT_SUSPENDED
        )
    )
    if draft.collated is not None:
        wanted.append(
            Wanted(
                reasons.COLLATED,
                draft.collated,
                reasons.SUCCEEDED if draft.collated else reasons.COLLATING,
            )
        )
    complete, failed = draft.phase == "Complete", draft.failed
    wanted.append(
        Wanted(
            reasons.COMPLETE,
            complete,
            draft.ended if complete else reasons.NOT_ENDED,
            _end_message(observed, draft) if complete else "",
        )
    )
    wanted.append(
        Wanted(
            reasons.FAILED,
            failed is not None,
            failed.reason if failed else reasons.NOT_FAILED,
            failed.message if failed else "",
        )
    )
    return wanted


def _stalled(draft: Draft) -> Wanted:
    trouble = draft.failed or draft.trouble
    if trouble is None:
        return Wanted(reasons.STALLED, False, reasons.PROGRESSING)
    return Wanted(reasons.STALLED, True, trouble.reason, trouble.message)


def message_of(observed: StudyObserved, draft: Draft) -> str:
    """Return what there is to say beside the phase, in one line."""
    trouble = draft.failed or draft.trouble
    if trouble is not None:
        return one_line(trouble.message or trouble.reason)
    if draft.phase == "Complete":
        return one_line(_end_message(observed, draft))
    return one_line(draft.running[2])


def _end_message(observed: StudyObserved, draft: Draft) -> str:
    old = find(observed.subject.conditions, reasons.COMPLETE)
    if observed.summary is None:
        return old.message if old is not None else ""
    counts = observed.summary.counts
    return (
        f"{counts.complete} complete, {counts.pruned} pruned, {counts.failed} failed, "
        f"{counts.lost} lost"
    )


def _started(observed: StudyObserved) -> Note:
    if not observed.found:
        taken = 0 if observed.summary is None else observed.summary.taken
        after = f", after {taken} finished ones of other studies were taken over" if taken else ""
        return Note(reasons.EVENT_STARTED, f"the first trial was opened{after}")
    assert observed.study is not None
    which = "adopted as spec.adopt says" if observed.study.spec.adopt else "of the same definition"
    text = f"goes on with {observed.found} trials of an earlier study of this name, {which}"
    return Note(reasons.EVENT_TAKEN_OVER, text)


def notes_of(observed: StudyObserved, draft: Draft, status: Object) -> list[Note]:
    """Return the Events that the difference from the status before is worth."""
    subject = observed.subject
    before = subject.status.get("phase")
    notes = []
    if "startTime" in status and "startTime" not in subject.status:
        notes.append(_started(observed))
    if before != draft.phase:
        if draft.phase == "Suspended":
            notes.append(Note(reasons.EVENT_SUSPENDED, "workers leave, trials are kept"))
        elif before == "Suspended" and not draft.failed:
            notes.append(Note(reasons.EVENT_RESUMED, "workers start again"))
        if draft.phase == "Complete":
            what = _end_message(observed, draft)
            notes.append(Note(reasons.EVENT_COMPLETE, f"{draft.ended}: {what}"))
    if observed.study is not None and observed.summary is not None:
        improved = improvement(subject.status, status, observed.study)
        notes += [] if improved is None else [improved]
        notes += failures(subject.status, observed.summary)
    old = find(subject.conditions, reasons.STALLED)
    trouble = draft.failed or draft.trouble
    if trouble is not None and (
        old is None or old.status != "True" or old.reason != trouble.reason
    ):
        text = trouble.message or trouble.reason
        notes.append(Note(trouble.reason, text, "Warning", at_most_every=_STALLED_EVERY))
    return notes

"""Dead workers: whose end a proxy has to know, and which pods are to be given up."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from trialfleet import names
from trialfleet.client.answers import GivenUp
from trialfleet.controller.observed import StudyObserved
from trialfleet.controller.plan import DeadWorker, Note, Removal
from trialfleet.controller.pod_view import PodView
from trialfleet.kube import reasons
from trialfleet.model.ends import EndKind

OVERDUE: Final = datetime.timedelta(seconds=20)
"""How long after its grace a deleted pod may still be there: then its node is away."""

_LISTED: Final = 5
"""Pods that an Event names."""

_MERGED: Final = datetime.timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Deaths:
    """Workers that are dead."""

    dead: tuple[DeadWorker, ...] = ()
    removals: tuple[Removal, ...] = ()
    notes: tuple[Note, ...] = ()
    requeue_after: datetime.timedelta | None = None


def plan_deaths(observed: StudyObserved, now: datetime.datetime) -> Deaths:
    """Decide which workers are to be given up.

    One that ended in order has closed its session by itself.
    """
    dead: list[DeadWorker] = []
    removals: list[Removal] = []
    waits: list[datetime.timedelta] = []
    summary = observed.summary
    silent = set() if summary is None else set(summary.silent)
    hung: list[PodView] = []
    for pod in observed.workers:
        if pod.lingers and pod.overdue is None:
            # Another container of the pod goes on, and the Job waits for it.
            removals.append(Removal("v1", "Pod", pod.name, pod.uid))
        if pod.end is None and pod.overdue is not None:
            left = _until_lost(pod, now)
            if left > datetime.timedelta(0):
                waits.append(left)
            else:
                # Safe: once its session is given up, whatever it still does is not written.
                removals.append(Removal("v1", "Pod", pod.name, pod.uid, force=True))
        if pod.name in silent and observed.lives(pod):
            hung.append(pod)
            dead.append(_silent_worker(pod))
            if pod.overdue is None:
                removals.append(Removal("v1", "Pod", pod.name, pod.uid))
            continue
        worker = _dead_worker(pod, now)
        if worker is not None and pod.uid not in observed.reported:
            dead.append(worker)
    notes = (_note_of_silent(hung),) if hung else ()
    return Deaths(tuple(dead), tuple(removals), notes, min(waits, default=None))


def _silent_worker(pod: PodView) -> DeadWorker:
    """Return a worker whose session a proxy has given up: it hangs, or its node does not answer."""
    message = f"the worker said nothing for {names.SESSION_TIME_TO_LIVE_S:g} s"
    return DeadWorker(pod.uid, pod.name, names.REASON_KEEP_ALIVE, message, failed=False)


def _note_of_silent(pods: Sequence[PodView]) -> Note:
    listed = ", ".join(pod.name for pod in pods[:_LISTED])
    more = f" and {len(pods) - _LISTED} more" if len(pods) > _LISTED else ""
    text = (
        f"{listed}{more} said nothing for {names.SESSION_TIME_TO_LIVE_S:g} s: what they ran was "
        "given up and is run again, other pods take their place"
    )
    return Note(reasons.EVENT_WORKER_SILENT, text, "Warning", at_most_every=_MERGED)


def _until_lost(pod: PodView, now: datetime.datetime) -> datetime.timedelta:
    """Return after how long a deleted pod that does not end is taken for lost."""
    assert pod.overdue is not None
    # Nobody can end it: it was deleted because its node does not answer.
    return datetime.timedelta(0) if pod.unreachable else pod.overdue + OVERDUE - now


def _dead_worker(pod: PodView, now: datetime.datetime) -> DeadWorker | None:
    if pod.end is None:
        if pod.overdue is None or _until_lost(pod, now) > datetime.timedelta(0):
            return None
        message = "the pod was deleted and its node does not answer"
        return DeadWorker(pod.uid, pod.name, reasons.NODE_LOST, message, failed=False)
    if pod.end.kind not in (EndKind.LOST, EndKind.FAILED):
        return None
    return DeadWorker(
        pod.uid,
        pod.name,
        pod.end.reason,
        pod.end.message,
        failed=pod.end.kind is EndKind.FAILED,
    )


def note_of(reported: Sequence[tuple[DeadWorker, GivenUp]]) -> list[Note]:
    """Return the Event about trials that were lost with their workers.

    Those that failed are told with all other failures, once for each reason.
    """
    told = [(worker, given_up.lost) for worker, given_up in reported if given_up.lost]
    if not told:
        return []
    worker = told[0][0]
    listed = ", ".join(str(number) for _, trials in told for number in trials)
    more = f" and {len(told) - 1} more" if len(told) > 1 else ""
    what = f"{worker.reason}: {worker.message}" if worker.message else worker.reason
    again = [number for _, given_up in reported for number in given_up.requeued]
    then = f"run again as {', '.join(map(str, again))}" if again else "not run again"
    text = f"trial {listed} lost with worker {worker.worker}{more}: {what}; {then}"
    return [Note(reasons.EVENT_TRIAL_LOST, text, "Warning", at_most_every=_MERGED)]

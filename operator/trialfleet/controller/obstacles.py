"""What stands in the way of carrying out a plan, and is told in the status."""

import datetime
from dataclasses import replace
from typing import Final

from trialfleet.controller.conditions import Wanted, find, one_line, short, with_condition
from trialfleet.controller.observed import StorageObserved, StudyObserved, Subject
from trialfleet.controller.plan import Note, Plan
from trialfleet.kube import reasons
from trialfleet.kube.cluster import ClusterError
from trialfleet.kube.pod_status import Trouble

_AGAIN: Final = datetime.timedelta(seconds=15)
"""Between two looks at what is not watched and stands in the way."""

_REFUSALS: Final = (400, 403, 422)
"""Status codes of an API server that will not have an object, however often it is sent."""


def misses_config(observed: StudyObserved | StorageObserved) -> bool:
    """Whether a pod says that it misses something: it may be a Secret of ours."""
    found = [pod.trouble for pod in observed.pods if pod.trouble is not None]
    return any(one.reason == reasons.CONFIG_MISSING for one in (*found, *observed.troubles))


def refusal(error: ClusterError) -> Trouble | None:
    """Return why the API server will not have an object: a quota, a policy, a field's value.

    None for an error of another kind.
    """
    if error.gone or error.code not in _REFUSALS:
        return None
    _, _, said = str(error).partition(": ")
    quota = "exceeded quota" in said
    return Trouble(reasons.QUOTA_EXCEEDED if quota else reasons.OBJECT_REFUSED, said)


def stalled(plan: Plan, subject: Subject, trouble: Trouble, now: datetime.datetime) -> Plan:
    """Return a plan whose status says what stood in its way."""
    old = find(subject.conditions, reasons.STALLED)
    told = old is not None and old.status == "True" and old.message == short(trouble.message)
    note = Note(trouble.reason, trouble.message, "Warning")
    wanted = Wanted(reasons.STALLED, True, trouble.reason, trouble.message)
    status = with_condition(plan.status or {}, subject.conditions, wanted, subject.generation, now)
    status["message"] = one_line(trouble.message)
    if subject.kind == "Study" and status.get("phase") == "Pending":
        status["phase"] = "Stalled"
    # What else is in the way follows from it.
    others = tuple(one for one in plan.notes if one.type != "Warning")
    return replace(
        plan,
        status=status,
        notes=others if told else (*others, note),
        requeue_after=_AGAIN,
        urgent=True,
    )

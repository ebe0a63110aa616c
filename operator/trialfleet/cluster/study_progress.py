"""How far a study is, as its status tells it, and what happened meanwhile."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from trialfleet.client import Summary
from trialfleet.cluster.diagnosis import event_time
from trialfleet.cluster.namespace import EVENTS, Namespace
from trialfleet.model.study import Counts

_TOLD: Final = ("TrialLost", "TrialFailed")
"""Events of no weight that are told."""


def summarize(study: Mapping[str, Any]) -> Summary:
    """Return the summary that a study's status has; the best trial without its parameters."""
    status = study.get("status", {})
    counts = Counts(**{key: int(count) for key, count in status.get("trials", {}).items()})
    return Summary(
        counts=counts,
        best=[_trial(one) for one in status.get("best", ())],
        front=int(status.get("paretoFront", bool(status.get("best")))),
        ended=status.get("ended", ""),
        sessions=int(status.get("workers", {}).get("ready", 0)),
        lost_reasons=dict(status.get("lostReasons", {})),
    )


def condition(study: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """Return a condition that is true, of the study as it is specified now; else None."""
    status = study.get("status", {})
    if status.get("observedGeneration", 0) < study["metadata"].get("generation", 0):
        return None
    for one in status.get("conditions", ()):
        if one["type"] == kind and one["status"] == "True":
            found: Mapping[str, Any] = one
            return found
    return None


class Happenings:
    """Tells once what has happened to a study."""

    def __init__(self, namespace: Namespace, name: str) -> None:
        """``name``: of the study. What its Events told before now is not told."""
        self._namespace = namespace
        self._name = name
        self._seen: dict[str, str] = {}
        self._workers = self._lost = self._way = ""
        self._events()

    def look(self, study: Mapping[str, Any]) -> Iterator[str]:
        """Yield what is new, in lines."""
        way = self._in_the_way(study)
        if way != self._way:
            yield way or "nothing is in the way any more"
            self._way = way
        workers = study.get("status", {}).get("workers")
        if workers and workers["desired"] and "completionTime" not in study["status"]:
            told = f"{workers['ready']} of {workers['desired']} workers"
            if told != self._workers:
                yield told
                self._workers = told
        yield from self._events()
        reasons = study.get("status", {}).get("lostReasons", {})
        lost = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        if lost != self._lost:
            yield f"lost trials: {lost}"
            self._lost = lost

    def _in_the_way(self, study: Mapping[str, Any]) -> str:
        if condition(study, "Suspended"):
            return f"suspended; go on: trialfleet resume {self._name}"
        stalled = condition(study, "Stalled")
        if stalled is None:
            return ""
        said = " ".join(str(stalled.get("message") or "").split())
        return f"{stalled['reason']}: {said}; what to do: trialfleet why {self._name}"

    def _events(self) -> Sequence[str]:
        lines = []
        fields = f"involvedObject.name={self._name},involvedObject.kind=Study"
        found = self._namespace.list(EVENTS, fields=fields)
        for event in sorted(found, key=event_time):
            uid, last = event["metadata"]["uid"], event_time(event)
            if self._seen.get(uid) != last and event.get("reason") in _TOLD:
                said = " ".join(str(event.get("message") or "").split())
                lines.append(f"{event['reason']}: {said}")
            self._seen[uid] = last
        return lines


def _trial(best: Mapping[str, Any]) -> FrozenTrial:
    params = best.get("params", {})
    trial = create_trial(
        state=TrialState.COMPLETE,
        values=list(best["values"].values()),
        params=params,
        distributions={name: CategoricalDistribution([value]) for name, value in params.items()},
    )
    trial.number = int(best["number"])
    return trial

"""The status of a study, from what was observed and decided. Pure."""

import datetime
import math
from collections.abc import Mapping
from typing import Any, Final

from optuna.trial import FrozenTrial

from trialfleet import names
from trialfleet.api.study import Study
from trialfleet.client.answers import Summary
from trialfleet.controller.observed import StudyObserved
from trialfleet.controller.plan import Note
from trialfleet.kube import reasons
from trialfleet.kube.objects import Object
from trialfleet.kube.times import timestamp
from trialfleet.model.study import Failure

BEST: Final = 5
"""Trials of a Pareto front's head that the status shows."""

_LONGEST_PARAMS: Final = 1024
"""Bytes of one best trial's parameters in the status: it has to stay small."""
_LONGEST_TEXT: Final = 128

_OF_SUMMARY: Final = (
    *("progress", "trials", "bestValue", "best", "paretoFront", "lostReasons"),
    *("lastFailure", "failedReasons"),
)
_LONGEST_FAILURE: Final = 1024

_REASONS: Final = 16
"""How many of the most frequent reasons of lost or failed trials are shown."""

_UNKNOWN: Final = "Unknown"
"""The reason of a failure of which nobody said why."""

_BEST_EVERY: Final = datetime.timedelta(seconds=30)


def progress_fields(observed: StudyObserved, desired: int, now: datetime.datetime) -> Object:
    """Return the fields that tell how far a study is; as they were if no proxy answered."""
    study, summary, old = observed.study, observed.summary, observed.subject.status
    assert study is not None
    fields: Object = {
        "selector": f"{names.LABEL_STUDY}={observed.subject.name},"
        f"{names.LABEL_COMPONENT}={names.COMPONENT_WORKER}",
        "storage": observed.storage.name if observed.storage else _storage_name(study),
    }
    for key in ("startTime", "completionTime"):
        if key in old:
            fields[key] = old[key]
    ready = _running(observed) if summary is None else summary.sessions
    fields["workers"] = {"desired": desired, "ready": ready}
    if summary is None:
        for key in _OF_SUMMARY:
            if key in old:
                fields[key] = old[key]
        return fields
    fields |= _summary_fields(study, summary)
    counts = summary.counts
    opened = counts.counted + counts.running + counts.lost
    if opened and "startTime" not in fields:
        fields["startTime"] = timestamp(now)
    return fields


def _running(observed: StudyObserved) -> int:
    """Return how many workers are at work, as far as that is known without a proxy."""
    if "startTime" not in observed.subject.status:
        # They wait for the storage.
        return 0
    return sum(pod.running and not pod.unreachable for pod in observed.workers)


def improvement(old: Mapping[str, Any], new: Mapping[str, Any], study: Study) -> Note | None:
    """Return the Event for a better best trial, or a larger head of the Pareto front."""
    best, before = new.get("best"), old.get("best")
    if not best or best == before:
        return None
    first = best[0]
    if before and first["number"] == before[0]["number"]:
        return None
    values = ", ".join(f"{name} {value:.6g}" for name, value in first["values"].items())
    if len(study.spec.objectives) > 1:
        text = f"trial {first['number']} leads the Pareto front: {values}"
    else:
        text = f"trial {first['number']} is the best so far: {values}"
    return Note(reasons.EVENT_BEST_IMPROVED, text, at_most_every=_BEST_EVERY)


def _storage_name(study: Study) -> str:
    return study.spec.storage_name or study.metadata.name


def _summary_fields(study: Study, summary: Summary) -> Object:
    counts = summary.counts
    total = study.spec.budget.trials
    fields: Object = {
        "progress": str(counts.counted) if total is None else f"{counts.counted}/{total}",
        "trials": {
            "complete": counts.complete,
            "pruned": counts.pruned,
            "failed": counts.failed,
            "running": counts.running,
            "waiting": counts.waiting,
            "lost": counts.lost,
        },
    }
    if summary.lost_reasons:
        fields["lostReasons"] = _most(summary.lost_reasons)
    if summary.failed_reasons:
        fields["failedReasons"] = _most(summary.failed_reasons)
    if summary.failure is not None:
        fields["lastFailure"] = _last_failure(summary.failure)[:_LONGEST_FAILURE]
    best = [_best(study, trial) for trial in summary.best[:BEST]]
    if best:
        fields["best"] = best
    if len(study.spec.objectives) > 1:
        fields["paretoFront"] = summary.front
    elif best:
        fields["bestValue"] = f"{next(iter(best[0]['values'].values())):.6g}"
    return fields


def _most(counts: Mapping[str, int]) -> dict[str, int]:
    most = sorted(counts.items(), key=lambda item: -item[1])[:_REASONS]
    return {reason or _UNKNOWN: count for reason, count in sorted(most)}


def _last_failure(failure: Failure) -> str:
    reason = failure.reason or _UNKNOWN
    return f"trial {failure.number}: {reason}" + (f": {failure.message}" if failure.message else "")


def with_failure(text: str, summary: Summary) -> str:
    """Return a text with why the newest trial failed."""
    return text if summary.failure is None else f"{text}; {_last_failure(summary.failure)}"


def only_failures(summary: Summary) -> bool:
    """Whether trials have failed, and none has come to a value."""
    counts = summary.counts
    return bool(counts.failed) and counts.complete == counts.pruned == 0


def failures(old: Mapping[str, Any], summary: Summary) -> list[Note]:
    """Return the Event for a reason for which a trial has failed the first time."""
    failure, known = summary.failure, old.get("failedReasons", {})
    if failure is None or (failure.reason or _UNKNOWN) in known:
        return []
    return [Note(reasons.EVENT_TRIAL_FAILED, _last_failure(failure), "Warning")]


def _best(study: Study, trial: FrozenTrial) -> Object:
    values = {
        objective.name: _finite(value)
        for objective, value in zip(study.spec.objectives, trial.values or (), strict=False)
    }
    return {"number": trial.number, "values": values, "params": _params(trial.params)}


def _params(params: Mapping[str, Any]) -> Object:
    shown: Object = {}
    size = 0
    for name, value in params.items():
        if isinstance(value, float):
            value = _finite(value)
        elif isinstance(value, str) and len(value) > _LONGEST_TEXT:
            value = value[: _LONGEST_TEXT - 3] + "..."
        elif not isinstance(value, bool | int | str | None):
            value = str(value)[:_LONGEST_TEXT]
        size += len(name) + len(str(value)) + 6
        if size > _LONGEST_PARAMS:
            break
        shown[name] = value
    return shown


def _finite(value: float) -> float:
    """Return a number that JSON has: an infinite best value is shown as the largest one."""
    if math.isfinite(value):
        return value
    return math.copysign(1.7976931348623157e308, value)

"""What is in a study's way: conditions, failures, Events, the pods' own words, and what to do."""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trialfleet import names
from trialfleet.cluster import pod_states
from trialfleet.cluster.advice import advise
from trialfleet.cluster.connect import storage_name
from trialfleet.cluster.namespace import EVENTS, PODS, STORAGES, Namespace, Object

_PODS_SHOWN: Final = 4
_EVENTS_SHOWN: Final = 10

_BAD: Final = {"Stalled": "True", "Failed": "True", "Suspended": "True"}
_GOOD: Final = ("StorageReady", "Prepared", "PostgresReady", "ProxiesReady", "Ready")


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    lines: Sequence[str]


def examine(
    namespace: Namespace, study: Mapping[str, Any], now: datetime.datetime
) -> list[Section]:
    """Return the page, without the parts that have nothing to say."""
    name, storage = study["metadata"]["name"], storage_name(study)
    found = namespace.find(STORAGES, storage)
    looked_at = _pods(namespace, name, storage)
    sections = [
        Section("", [_headline(study)]),
        Section("In the way", list(_in_the_way(study, found, storage))),
        Section("Conditions", _conditions(study, now)),
        Section(f"Storage {storage}", [] if found is None else _conditions(found, now)),
        Section("Last failure", _last_failure(study)),
        Section("Lost trials", list(_lost(study))),
        Section("Pods", list(_pod_lines(namespace, looked_at))),
        Section("Events", _events(namespace, name, storage, now)),
    ]
    return [section for section in sections if section.lines]


def _headline(study: Mapping[str, Any]) -> str:
    name, status = study["metadata"]["name"], study.get("status", {})
    parts = [str(status.get("phase") or "not looked at yet")]
    if "progress" in status:
        parts.append(f"{status['progress']} trials")
    workers = status.get("workers")
    if workers and "completionTime" not in status:
        parts.append(f"{workers['ready']} of {workers['desired']} workers")
    return f"{name}: {', '.join(parts)}"


def _in_the_way(
    study: Mapping[str, Any], storage: Mapping[str, Any] | None, storage_name: str
) -> Iterator[str]:
    name, status = study["metadata"]["name"], study.get("status", {})
    generation = study["metadata"].get("generation", 0)
    if status.get("observedGeneration", 0) < generation:
        yield "no operator has looked at this study, or at its last change"
        yield (
            "  do: wait some seconds; then see whether the operator runs: kubectl get pods -A "
            f"-l {names.LABEL_APP}={names.OPERATOR}"
        )
    if storage is None and status:
        yield f"there is no storage {storage_name!r}"
    told = set()
    for condition in (*_troubles(study), *_troubles(storage or {})):
        if condition["reason"] in told:
            continue
        told.add(condition["reason"])
        first, *rest = str(condition.get("message") or "").splitlines() or [""]
        yield f"{condition['reason']}: {first}" if first else condition["reason"]
        yield from (f"  {line}" for line in rest)
        advice = advise(condition["reason"], name).replace("STORAGE", storage_name)
        if advice:
            yield f"  do: {advice}"
    if not told and status:
        yield "nothing"
        ended = status.get("ended") or ""
        reason = ended or next(
            (one["reason"] for one in status.get("conditions", ()) if one["type"] == "Running"), ""
        )
        if reason:
            yield f"  {reason}: {advise(reason, name)}"


def _troubles(obj: Mapping[str, Any]) -> Iterator[Object]:
    """Yield the conditions that say what is wrong, the gravest first."""
    conditions = obj.get("status", {}).get("conditions", ())
    for kind, bad in _BAD.items():
        yield from (one for one in conditions if one["type"] == kind and one["status"] == bad)
    if any(one["type"] == "Complete" and one["status"] == "True" for one in conditions):
        return
    for kind in _GOOD:
        yield from (one for one in conditions if one["type"] == kind and one["status"] == "False")


def _conditions(obj: Mapping[str, Any], now: datetime.datetime) -> list[str]:
    lines = []
    for one in obj.get("status", {}).get("conditions", ()):
        since = _ago(one.get("lastTransitionTime"), now)
        line = f"{one['type']:<14} {one['status']:<6} {one['reason']:<22} {since:>5}"
        message = " ".join(str(one.get("message") or "").split())
        lines.append(f"{line}  {message}".rstrip())
    return lines


def _last_failure(study: Mapping[str, Any]) -> list[str]:
    said = study.get("status", {}).get("lastFailure")
    if not said:
        return []
    name = study["metadata"]["name"]
    return [*str(said).splitlines(), f"  do: {advise(names.REASON_OBJECTIVE_RAISED, name)}"]


def _lost(study: Mapping[str, Any]) -> Iterator[str]:
    for reason, count in study.get("status", {}).get("lostReasons", {}).items():
        advice = advise(reason, study["metadata"]["name"])
        yield f"{count} {reason}" + (f": {advice}" if advice else "")


def _pods(namespace: Namespace, study: str, storage: str) -> list[Object]:
    own = namespace.list(PODS, labels=f"{names.LABEL_STUDY}={study}")
    return [*own, *namespace.list(PODS, labels=f"{names.LABEL_STORAGE}={storage}")]


def _pod_lines(namespace: Namespace, found: Sequence[Object]) -> Iterator[str]:
    well: dict[str, int] = {}
    ill: dict[str, list[Object]] = {}
    for pod in found:
        component = pod["metadata"].get("labels", {}).get(names.LABEL_COMPONENT, "pod")
        if pod_states.is_well(pod):
            phase = "ready" if pod_states.is_ready(pod) else pod["status"]["phase"].lower()
            kind = f"{component} {phase}"
            well[kind] = well.get(kind, 0) + 1
        else:
            ill.setdefault(component, []).append(pod)
    if well:
        yield ", ".join(f"{count} {kind}" for kind, count in sorted(well.items()))
    for component, some in sorted(ill.items()):
        # The newest have the freshest words.
        some.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp")), reverse=True)
        for pod in some[:_PODS_SHOWN]:
            yield from pod_states.describe(namespace, pod)
        if len(some) > _PODS_SHOWN:
            yield f"and {len(some) - _PODS_SHOWN} more of component {component}"


def _events(namespace: Namespace, study: str, storage: str, now: datetime.datetime) -> list[str]:
    prefixes = (
        f"{study}-workers-",
        names.prepare_job_name(study),
        names.collate_job_name(study),
        names.proxy_name(storage),
        names.postgres_name(storage),
    )
    told: dict[tuple[str, str, str], str] = {}
    for event in namespace.list(EVENTS):
        involved = event.get("involvedObject", {})
        name, kind = involved.get("name", ""), involved.get("kind", "")
        own = (kind, name) in (("Study", study), ("StudyStorage", storage))
        # What a kubelet does as usual is not told.
        if own or (event.get("type") == "Warning" and name.startswith(prefixes)):
            message = " ".join(str(event.get("message") or "").split())
            what = (event.get("reason") or "", f"{kind} {name}", message)
            told[what] = max(told.get(what, ""), event_time(event))
    newest = sorted(told.items(), key=lambda item: item[1])[-_EVENTS_SHOWN:]
    return [
        f"{_ago(when, now):>5}  {reason:<18} {about}: {message}"
        for (reason, about, message), when in newest
    ]


def event_time(event: Mapping[str, Any]) -> str:
    """Return when an Event happened last, as the API server writes it."""
    series = event.get("series") or {}
    return str(
        series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or ""
    )


def _ago(moment: str | None, now: datetime.datetime) -> str:
    """Return how long ago something was, as kubectl writes it."""
    if not moment:
        return ""
    seconds = int((now - datetime.datetime.fromisoformat(moment)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"

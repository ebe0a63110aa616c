"""How far the backups of a storage are, by the Jobs of its CronJob and their pods."""

import datetime
from collections.abc import Iterable, Mapping
from typing import Any, Final

from trialfleet import names
from trialfleet.controller.observed import BackupView
from trialfleet.kube.pod_status import first_lines
from trialfleet.kube.times import parse_time

_NEVER: Final = datetime.datetime.fromtimestamp(0, datetime.UTC)


def view_backups(
    status: Mapping[str, Any],
    jobs: Iterable[Mapping[str, Any]],
    pods: Iterable[Mapping[str, Any]],
) -> BackupView:
    """Return what is known of the dumps; ``status`` is the storage's, as it was written last."""
    told = parse_time(status.get("lastBackupTime"))
    begun = [] if told is None else [told]
    ended: list[datetime.datetime] = []
    failures: list[tuple[datetime.datetime, str, str]] = []
    for job in jobs:
        metadata = job["metadata"]
        if metadata.get("labels", {}).get(names.LABEL_COMPONENT) != names.COMPONENT_BACKUP:
            continue
        if complete := _condition(job, "Complete"):
            begun.append(_time(job["status"].get("startTime"), metadata))
            ended.append(_time(complete.get("lastTransitionTime"), metadata))
        elif failed := _condition(job, "Failed"):
            said = failed.get("message") or failed.get("reason") or "failed"
            when = _time(failed.get("lastTransitionTime"), metadata)
            failures.append((when, metadata["name"], said))
    succeeded = max(begun, default=None)
    if not failures or max(failures)[0] <= max(ended, default=_NEVER):
        return BackupView(succeeded)
    _, name, said = max(failures)
    return BackupView(succeeded, f"Job {name}: {_last_words(name, pods) or said}")


def _condition(job: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    conditions = (job.get("status") or {}).get("conditions", ())
    found = (one for one in conditions if one["type"] == kind and one["status"] == "True")
    return next(found, None)


def _time(text: str | None, metadata: Mapping[str, Any]) -> datetime.datetime:
    return parse_time(text) or datetime.datetime.fromisoformat(metadata["creationTimestamp"])


def _last_words(job: str, pods: Iterable[Mapping[str, Any]]) -> str:
    """Return what the newest pod of a Job said last."""
    ended = []
    for pod in pods:
        if pod["metadata"].get("labels", {}).get("batch.kubernetes.io/job-name") != job:
            continue
        for container in pod.get("status", {}).get("containerStatuses", ()):
            end = container.get("state", {}).get("terminated")
            if end is not None and end.get("exitCode"):
                words = first_lines(end.get("message", ""))
                ended.append((end.get("finishedAt") or "", words))
    return max(ended)[1] if ended else ""

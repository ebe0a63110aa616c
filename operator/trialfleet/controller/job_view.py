"""A Job as the operator sees it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trialfleet import names


@dataclass(frozen=True, slots=True)
class JobView:
    """A Job and how far it is."""

    name: str
    uid: str
    component: str
    index: int
    """Of a Job of workers: later ones have a higher one."""
    generation: int
    """The generation of the study's spec that it was made for."""
    contract: str
    parallelism: int
    suspended: bool
    queued: bool
    """Kueue says when it runs."""
    active: int
    """Pods that have not ended."""
    succeeded: int
    complete: bool
    failure: str
    """Why it has failed, for people; empty: it has not."""
    deleting: bool
    live: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether it starts no pod any more."""
        return self.complete or bool(self.failure)

    def mounts(self, secret: str) -> bool:
        """Whether its pods have a Secret mounted."""
        volumes = self.live["spec"]["template"]["spec"].get("volumes", ())
        return any(one.get("secret", {}).get("secretName") == secret for one in volumes)


def view_job(job: Mapping[str, Any]) -> JobView:
    """Return a Job as the operator sees it."""
    metadata, spec, status = job["metadata"], job["spec"], job.get("status", {})
    annotations = metadata.get("annotations", {})
    labels = metadata.get("labels", {})
    said = {one["type"]: one for one in status.get("conditions", ()) if one["status"] == "True"}
    # FailureTarget comes first, Failed when the last pod is gone.
    failed = said.get("Failed") or said.get("FailureTarget")
    failure = "" if failed is None else failed.get("message") or failed.get("reason") or "failed"
    generation = annotations.get(names.ANNOTATION_GENERATION, "0")
    return JobView(
        name=metadata["name"],
        uid=metadata["uid"],
        component=labels.get(names.LABEL_COMPONENT, ""),
        index=names.worker_job_index(metadata["name"]),
        generation=int(generation) if generation.isdigit() else 0,
        contract=annotations.get(names.ANNOTATION_CONTRACT, ""),
        parallelism=spec.get("parallelism", 1),
        suspended=bool(spec.get("suspend")),
        queued=names.LABEL_QUEUE in labels,
        active=status.get("active", 0),
        succeeded=status.get("succeeded", 0),
        complete="Complete" in said,
        failure=failure,
        deleting="deletionTimestamp" in metadata,
        live=job,
    )

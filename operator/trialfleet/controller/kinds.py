"""The kinds of objects that the operator deals with, and which of them it watches."""

from dataclasses import dataclass
from typing import Final

from trialfleet import names
from trialfleet.controller.build.postgres_server import CNPG_API


@dataclass(frozen=True, slots=True)
class ResourceKind:
    """A kind of object, and where the API server has it."""

    api_version: str
    kind: str
    plural: str

    @property
    def group(self) -> str:
        """The API group; empty for the core."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """The API version without the group."""
        return self.api_version.rpartition("/")[2]

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Return the path of an object, or of all in a namespace; empty: in all namespaces."""
        parts = [f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"]
        if namespace:
            parts.append(f"namespaces/{namespace}")
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/".join(parts)


STUDY: Final = ResourceKind(names.API_VERSION, "Study", "studies")
STORAGE: Final = ResourceKind(names.API_VERSION, "StudyStorage", "studystorages")
POD: Final = ResourceKind("v1", "Pod", "pods")
EVENT: Final = ResourceKind("v1", "Event", "events")
SECRET: Final = ResourceKind("v1", "Secret", "secrets")
CONFIG_MAP: Final = ResourceKind("v1", "ConfigMap", "configmaps")
CLAIM: Final = ResourceKind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
JOB: Final = ResourceKind("batch/v1", "Job", "jobs")
LEASE: Final = ResourceKind("coordination.k8s.io/v1", "Lease", "leases")
CRON_JOB: Final = ResourceKind("batch/v1", "CronJob", "cronjobs")

CNPG: Final = ResourceKind(CNPG_API, "Cluster", "clusters")

OURS: Final = (STUDY, STORAGE)

CHILDREN: Final = (
    POD,
    CONFIG_MAP,
    JOB,
    CRON_JOB,
    ResourceKind("v1", "Service", "services"),
    ResourceKind("apps/v1", "StatefulSet", "statefulsets"),
    ResourceKind("apps/v1", "DaemonSet", "daemonsets"),
    ResourceKind("apps/v1", "Deployment", "deployments"),
    ResourceKind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    ResourceKind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    CNPG,
)
"""Watched where they have a label of ours. Secrets are not: to watch them is to read them."""

_ALL: Final = {
    (kind.api_version, kind.kind): kind for kind in (*OURS, *CHILDREN, EVENT, SECRET, CLAIM, LEASE)
}


def kind_of(api_version: str, kind: str) -> ResourceKind:
    """Return a kind that the operator knows; raises ``KeyError`` for another."""
    return _ALL[api_version, kind]

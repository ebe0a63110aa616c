"""The kinds of objects that the operator deals with, and which of them it watches."""

from dataclasses import dataclass
from typing import Final

from trialfleet import names
from trialfleet.controller.build.postgres_server import CNPG_API


@dataclass(frozen=True, slots=True)
class Kind:
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


STUDY: Final = Kind(names.API_VERSION, "Study", "studies")
STORAGE: Final = Kind(names.API_VERSION, "StudyStorage", "studystorages")
POD: Final = Kind("v1", "Pod", "pods")
EVENT: Final = Kind("v1", "Event", "events")
SECRET: Final = Kind("v1", "Secret", "secrets")
CONFIG_MAP: Final = Kind("v1", "ConfigMap", "configmaps")
CLAIM: Final = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
JOB: Final = Kind("batch/v1", "Job", "jobs")

CNPG: Final = Kind(CNPG_API, "Cluster", "clusters")

OURS: Final = (STUDY, STORAGE)

CHILDREN: Final = (
    POD,
    CONFIG_MAP,
    JOB,
    Kind("v1", "Service", "services"),
    Kind("apps/v1", "StatefulSet", "statefulsets"),
    Kind("apps/v1", "DaemonSet", "daemonsets"),
    Kind("apps/v1", "Deployment", "deployments"),
    Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    CNPG,
)
"""Watched where they have a label of ours. Secrets are not: to watch them is to read them."""

_ALL: Final = {
    (kind.api_version, kind.kind): kind for kind in (*OURS, *CHILDREN, EVENT, SECRET, CONFIG_MAP)
}


def kind_of(api_version: str, kind: str) -> Kind:
    """Return a kind that the operator knows; raises ``KeyError`` for another."""
    return _ALL[api_version, kind]

"""Kinds of objects, and where the API server has them."""

from dataclasses import dataclass
from typing import Final

from trialfleet import names


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
SERVICE: Final = ResourceKind("v1", "Service", "services")
JOB: Final = ResourceKind("batch/v1", "Job", "jobs")
CRON_JOB: Final = ResourceKind("batch/v1", "CronJob", "cronjobs")
STATEFUL_SET: Final = ResourceKind("apps/v1", "StatefulSet", "statefulsets")
DAEMON_SET: Final = ResourceKind("apps/v1", "DaemonSet", "daemonsets")
DEPLOYMENT: Final = ResourceKind("apps/v1", "Deployment", "deployments")
LEASE: Final = ResourceKind("coordination.k8s.io/v1", "Lease", "leases")
NETWORK_POLICY: Final = ResourceKind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
DISRUPTION_BUDGET: Final = ResourceKind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
SERVICE_ACCOUNT: Final = ResourceKind("v1", "ServiceAccount", "serviceaccounts")
ROLE_BINDING: Final = ResourceKind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings")
CNPG: Final = ResourceKind("postgresql.cnpg.io/v1", "Cluster", "clusters")

_ALL: Final = {
    (kind.api_version, kind.kind): kind
    for kind in (
        *(STUDY, STORAGE, POD, EVENT, SECRET, CONFIG_MAP, CLAIM, SERVICE, JOB, CRON_JOB),
        *(STATEFUL_SET, DAEMON_SET, DEPLOYMENT, LEASE, NETWORK_POLICY, DISRUPTION_BUDGET),
        *(SERVICE_ACCOUNT, ROLE_BINDING, CNPG),
    )
}


def kind_of(api_version: str, kind: str) -> ResourceKind:
    """Return a kind of this module; raises ``KeyError`` for another."""
    return _ALL[api_version, kind]

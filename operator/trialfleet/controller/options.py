"""How an operator runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

IMAGE: Final = "ghcr.io/trialfleet/trialfleet"
POSTGRES_IMAGE: Final = "docker.io/library/postgres:18"
WORKER_IMAGE: Final = "ghcr.io/trialfleet/worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorOptions:
    """What the operator is told when it starts."""

    namespace: str = ""
    """The one namespace to look after; empty: all but the excluded ones."""
    excluded: frozenset[str] = frozenset()
    """Namespaces that are none of the operator's business."""
    image: str
    """Image of proxies: the operator's own."""
    worker_image: str
    """Image of workers whose template names none."""
    worker_resources: Mapping[str, Any] = field(default_factory=dict)
    """What workers may use whose template says nothing of it, as in a container."""
    postgres_image: str = POSTGRES_IMAGE
    """Image of PostgreSQL for storages that name none."""
    image_pull_policy: str = ""
    """For the images above; empty: Kubernetes' default."""
    image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets, in the studies' namespaces, for pods of these images."""
    package_variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of what installs an objective's packages: index and proxy."""
    package_secret: str = ""
    """Name of a Secret, in the studies' namespaces, with more such variables; empty: none."""
    network_policies: bool = True
    """Make NetworkPolicies that let in only what is needed."""
    metrics_namespaces: tuple[str, ...] = ()
    """Whose pods these let in to the proxies' metrics; empty: all."""
    home: str = "default"
    """The operator's own namespace."""
    key_secret: str = "trialfleet-operator"
    """Name of the Secret in it that holds the key from which all passwords are derived."""
    lease: str = "trialfleet-operator"
    """Name of the Lease there: of several operators, the one that holds it acts."""
    lease_s: int = 12
    """Seconds without a renewal after which another may take it."""

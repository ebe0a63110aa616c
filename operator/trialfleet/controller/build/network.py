"""NetworkPolicies: who may talk to PostgreSQL and to the proxies of a storage.

Workers get none: what an objective needs of the network, only its author knows.
"""

from trialfleet import names
from trialfleet.api.study_storage import StudyStorageSpec
from trialfleet.controller.build import postgres_server, proxies
from trialfleet.controller.build.objects import Object, Owner


def build_policies(owner: Owner, spec: StudyStorageSpec) -> list[Object]:
    """Return the policies of a storage."""
    policies = [_proxies(owner, spec)]
    if spec.postgres.managed is not None:
        policies.append(_postgres(owner))
    if spec.backup is not None:
        policies.append(_backups(owner))
    return policies


def _postgres(owner: Owner) -> Object:
    return owner.make(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        names.postgres_name(owner.name),
        names.COMPONENT_POSTGRES,
        spec={
            "podSelector": {"matchLabels": postgres_server.selector(owner)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "from": [
                        {"podSelector": {"matchLabels": proxies.selector(owner)}},
                        {"podSelector": _of_backups(owner)},
                    ],
                    "ports": [{"port": "postgres", "protocol": "TCP"}],
                }
            ],
            "egress": [],
        },
    )


def _backups(owner: Owner) -> Object:
    return owner.make(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        names.backup_name(owner.name),
        names.COMPONENT_BACKUP,
        spec={
            "podSelector": _of_backups(owner),
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [],
            # Names may be looked up anywhere, and where all is denied this lets them out.
            "egress": [{}],
        },
    )


def _of_backups(owner: Owner) -> Object:
    components = [names.COMPONENT_BACKUP, names.COMPONENT_RESTORE]
    return {
        "matchLabels": {names.LABEL_STORAGE: owner.name},
        "matchExpressions": [
            {"key": names.LABEL_COMPONENT, "operator": "In", "values": components}
        ],
    }


def _proxies(owner: Owner, spec: StudyStorageSpec) -> Object:
    workers = {
        "podSelector": {
            "matchLabels": {names.LABEL_STORAGE: owner.name},
            "matchExpressions": [
                {
                    "key": names.LABEL_COMPONENT,
                    "operator": "In",
                    "values": [
                        names.COMPONENT_WORKER,
                        names.COMPONENT_PREPARE,
                        names.COMPONENT_COLLATE,
                    ],
                }
            ],
        }
    }
    operator = {
        # The operator may run in any namespace; the label is its own there.
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {names.LABEL_APP: names.OPERATOR}},
    }
    # What watches over a cluster may be anywhere in it; kubelets are always let in.
    open_ports = ["metrics"]
    if spec.security.plaintext_port is not None:
        open_ports.append("plaintext")
    return owner.make(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        names.proxy_name(owner.name),
        names.COMPONENT_PROXY,
        spec={
            "podSelector": {"matchLabels": proxies.selector(owner)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [workers, operator], "ports": [{"port": "grpc", "protocol": "TCP"}]},
                {"ports": [{"port": port, "protocol": "TCP"} for port in open_ports]},
            ],
            # PostgreSQL may be anywhere, on any port: a URL in a Secret says where.
            "egress": [{}],
        },
    )

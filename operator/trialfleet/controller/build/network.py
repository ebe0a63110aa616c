"""NetworkPolicies: who may talk to PostgreSQL and to the proxies of a storage.

Workers get none: what an objective needs of the network, only its author knows.
"""

from collections.abc import Sequence
from typing import Final

from trialfleet import names
from trialfleet.api.study_storage import StudyStorageSpec
from trialfleet.controller.build import postgres_server, proxies
from trialfleet.controller.options import OperatorOptions
from trialfleet.kube.objects import Object, Owner

_NAMESPACE: Final = "kubernetes.io/metadata.name"
"""The label that Kubernetes gives each namespace."""


def build_policies(owner: Owner, spec: StudyStorageSpec, options: OperatorOptions) -> list[Object]:
    """Return the policies of a storage."""
    policies = [_proxies(owner, spec, options)]
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


def _in_namespaces(namespaces: Sequence[str]) -> Object:
    expression = {"key": _NAMESPACE, "operator": "In", "values": list(namespaces)}
    return {"namespaceSelector": {"matchExpressions": [expression]}}


def _of_backups(owner: Owner) -> Object:
    components = [names.COMPONENT_BACKUP, names.COMPONENT_RESTORE]
    return {
        "matchLabels": {names.LABEL_STORAGE: owner.name},
        "matchExpressions": [
            {"key": names.LABEL_COMPONENT, "operator": "In", "values": components}
        ],
    }


def _proxies(owner: Owner, spec: StudyStorageSpec, options: OperatorOptions) -> Object:
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
        # Anybody may give a pod of theirs this label.
        "namespaceSelector": {"matchLabels": {_NAMESPACE: options.home}},
        "podSelector": {"matchLabels": {names.LABEL_APP: names.OPERATOR}},
    }
    # Kubelets are always let in.
    rules: list[Object] = [
        {"from": [workers, operator], "ports": [{"port": "grpc", "protocol": "TCP"}]},
        {
            "ports": [{"port": "metrics", "protocol": "TCP"}],
            **(
                {"from": [_in_namespaces(options.metrics_namespaces)]}
                if options.metrics_namespaces
                else {}
            ),
        },
    ]
    if spec.security.plaintext_port is not None:
        rules.append({"ports": [{"port": "plaintext", "protocol": "TCP"}]})
    return owner.make(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        names.proxy_name(owner.name),
        names.COMPONENT_PROXY,
        spec={
            "podSelector": {"matchLabels": proxies.selector(owner)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": rules,
            # PostgreSQL may be anywhere, on any port: a URL in a Secret says where.
            "egress": [{}],
        },
    )

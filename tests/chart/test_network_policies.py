"""In a namespace that denies everything by default, what has to talk can, and nothing else.

The policies are evaluated here as Kubernetes defines them: few clusters for tests enforce them.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

from tests.chart.rendering import Object, of_kind, only, render
from trialfleet import names
from trialfleet.api.study_storage import ManagedPostgres, PostgresSettings, StudyStorageSpec
from trialfleet.controller.build.network import build_policies
from trialfleet.controller.build.template import labels_of_pods
from trialfleet.controller.options import OperatorOptions
from trialfleet.kube.objects import Owner

SYSTEM, TEAM, OTHER = "trialfleet-system", "team", "other"
STORAGE = Owner("StudyStorage", "shared", TEAM, "1")
STUDY = Owner("Study", "digits", TEAM, "2")

DENY: Object = {
    "kind": "NetworkPolicy",
    "metadata": {"name": "deny", "namespace": TEAM},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
}


class Pod(NamedTuple):
    """An end of a connection; outside of the cluster without a namespace."""

    namespace: str
    labels: Mapping[str, str]
    ports: Mapping[str, int] = {}


OPERATOR = Pod(
    SYSTEM,
    only(render({}, namespace=SYSTEM), "Deployment")["spec"]["template"]["metadata"]["labels"],
)
PROXY = Pod(
    TEAM,
    STORAGE.labels(names.COMPONENT_PROXY),
    {"grpc": names.PROXY_PORT, "metrics": names.METRICS_PORT},
)
POSTGRES = Pod(TEAM, STORAGE.labels(names.COMPONENT_POSTGRES), {"postgres": names.POSTGRES_PORT})
WORKER = Pod(TEAM, labels_of_pods(STUDY.labels(names.COMPONENT_WORKER), "shared"))
COLLATE = Pod(TEAM, labels_of_pods(STUDY.labels(names.COMPONENT_COLLATE), "shared"))
STRANGER = Pod(OTHER, {"app": "web"})
DNS = Pod("kube-system", {"k8s-app": "kube-dns"})
OUTSIDE = Pod("", {})


@functools.cache
def policies() -> list[Object]:
    """Return all policies of the cluster."""
    chart = render({"networkPolicy": {"studyNamespaces": [TEAM]}}, namespace=SYSTEM)
    options = OperatorOptions(image="operator", worker_image="worker", home=SYSTEM)
    spec = StudyStorageSpec(postgres=PostgresSettings(managed=ManagedPostgres()))
    return [DENY, *of_kind(chart, "NetworkPolicy"), *build_policies(STORAGE, spec, options)]


def reaches(source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection is let out there and let in here."""
    return _lets(source, target, target, port, protocol, "Egress") and _lets(
        target, source, target, port, protocol, "Ingress"
    )


def _lets(pod: Pod, peer: Pod, target: Pod, port: int, protocol: str, way: str) -> bool:
    chosen = [
        policy["spec"]
        for policy in policies()
        if policy["metadata"]["namespace"] == pod.namespace
        and way in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], pod.labels)
    ]
    if not chosen:
        return True
    return any(
        _peers(rule.get("from" if way == "Ingress" else "to"), pod.namespace, peer)
        and _ports(rule.get("ports"), target, port, protocol)
        for spec in chosen
        for rule in spec.get(way.lower()) or ()
    )


def _peers(peers: list[Object] | None, namespace: str, peer: Pod) -> bool:
    if not peers:
        return True
    return any(
        _selects(one.get("podSelector", {}), peer.labels)
        and (
            _selects(one["namespaceSelector"], {"kubernetes.io/metadata.name": peer.namespace})
            if "namespaceSelector" in one
            else peer.namespace == namespace
        )
        for one in peers
    )


def _ports(ports: list[Object] | None, target: Pod, port: int, protocol: str) -> bool:
    if not ports:
        return True
    return any(
        one.get("protocol", "TCP") == protocol
        and (target.ports.get(one["port"]) if isinstance(one["port"], str) else one["port"]) == port
        for one in ports
    )


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert {one["operator"] for one in selector.get("matchExpressions", ())} <= {"In"}
    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items()) and all(
        labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", ())
    )


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        (WORKER, PROXY, names.PROXY_PORT),
        (COLLATE, PROXY, names.PROXY_PORT),
        (OPERATOR, PROXY, names.PROXY_PORT),
        (PROXY, POSTGRES, names.POSTGRES_PORT),
        (OPERATOR, OUTSIDE, 6443),
        (STRANGER, PROXY, names.METRICS_PORT),
    ],
)
def test_what_has_to_talk_can(source: Pod, target: Pod, port: int) -> None:
    assert reaches(source, target, port)


@pytest.mark.parametrize("source", [OPERATOR, WORKER, COLLATE, PROXY])
def test_all_can_look_up_names(source: Pod) -> None:
    assert reaches(source, DNS, 53, "UDP") and reaches(source, DNS, 53)


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        (WORKER, POSTGRES, names.POSTGRES_PORT),
        (OPERATOR, POSTGRES, names.POSTGRES_PORT),
        (STRANGER, POSTGRES, names.POSTGRES_PORT),
        (STRANGER, PROXY, names.PROXY_PORT),
        (WORKER, WORKER, 22),
        (WORKER, OUTSIDE, 443),
        (WORKER, OPERATOR, 8080),
        (STRANGER, OPERATOR, 8080),
        (POSTGRES, OUTSIDE, 443),
        # The same labels in another namespace open nothing.
        (WORKER._replace(namespace=OTHER), PROXY, names.PROXY_PORT),
        (PROXY._replace(namespace=OTHER), POSTGRES, names.POSTGRES_PORT),
        (OPERATOR._replace(namespace=OTHER), PROXY, names.PROXY_PORT),
    ],
)
def test_nothing_else_does(source: Pod, target: Pod, port: int) -> None:
    assert not reaches(source, target, port)

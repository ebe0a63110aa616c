"""What is planned for a storage."""

import dataclasses
import datetime
from typing import Any

import kubernetes_validate
import pytest

from tests.controller.observations import (
    KEYS,
    NOW,
    OPTIONS,
    ago,
    conditions,
    made,
    pod,
    storage_observed,
    workload,
)
from trialfleet import names
from trialfleet.api.study_storage import StudyStorageSpec
from trialfleet.controller.build import access
from trialfleet.controller.observed import StorageObserved
from trialfleet.controller.plan import Plan
from trialfleet.controller.storage_plan import plan_storage
from trialfleet.kube import reasons
from trialfleet.kube.pod_status import Trouble
from trialfleet.kube.times import timestamp


def plan(seen: StorageObserved, **options: Any) -> Plan:
    return plan_storage(seen, dataclasses.replace(OPTIONS, **options), KEYS, NOW)


PROXIES = [
    "Service/s-tf-proxy",
    "Service/s-tf-node",
    "DaemonSet/s-tf-proxy",
    "NetworkPolicy/s-tf-proxy",
]
BUDGET = "PodDisruptionBudget/s-tpg"
POSTGRES = ["Service/s-tpg", "StatefulSet/s-tpg"]
PLAIN = {"security": {"tls": False}}
EXTERNAL = {"postgres": {"external": {"secretRef": {"name": "db", "key": "url"}}}, **PLAIN}

WHERE = access.StorageNames("ns", "s")


def secret_of(spec: dict[str, Any], now: datetime.datetime = NOW) -> str:
    owner = storage_observed().subject.owner
    made = StudyStorageSpec.model_validate(spec)
    secret = access.build_storage_secret(owner, KEYS, WHERE, made, now)
    assert secret is not None
    return f"Secret/{secret['metadata']['name']}"


SECRET = secret_of({})
PLAIN_SECRET = secret_of(PLAIN)


@pytest.mark.parametrize(
    ("spec", "objects"),
    [
        ({}, [*POSTGRES, *PROXIES, "NetworkPolicy/s-tpg", BUDGET, SECRET]),
        (PLAIN, [*POSTGRES, *PROXIES, "NetworkPolicy/s-tpg", BUDGET, PLAIN_SECRET]),
        (EXTERNAL, PROXIES),
        (
            {"postgres": {"cloudNativePG": {"instances": 2}}, **PLAIN},
            ["Cluster/s-tpg", *PROXIES],
        ),
        (
            {**EXTERNAL, "proxy": {"placement": "Shared", "workersPerReplica": 10}},
            [
                *("Service/s-tf-proxy", "Deployment/s-tf-proxy", "NetworkPolicy/s-tf-proxy"),
                "PodDisruptionBudget/s-tf-proxy",
            ],
        ),
    ],
)
def test_objects(spec: dict[str, Any], objects: list[str]) -> None:
    assert sorted(made(plan(storage_observed(spec)))) == sorted(objects)


@pytest.mark.parametrize(
    ("spec", "runs", "allowed"),
    [
        ({}, True, 0),
        ({}, False, 1),
        # Whoever evicts it loses the trials.
        ({"postgres": {"managed": {"emptyDir": {}}}}, False, 0),
    ],
)
def test_a_postgresql_that_is_needed_is_not_evicted(
    spec: dict[str, Any], runs: bool, allowed: int
) -> None:
    planned = plan(dataclasses.replace(storage_observed(spec), runs=runs))
    (budget,) = (one for one in planned.objects if one["kind"] == "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == allowed
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    (server,) = (one for one in planned.objects if one["kind"] == "StatefulSet")
    labels = server["spec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    kubernetes_validate.validate(budget, "1.36", strict=True)


def test_of_shared_proxies_one_may_be_evicted_at_a_time() -> None:
    spec = {**EXTERNAL, "proxy": {"placement": "Shared"}}
    seen = storage_observed(spec)
    (budget,) = (one for one in plan(seen).objects if one["kind"] == "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    # The budget of a Deployment would hold up the eviction of a DaemonSet's pods.
    budget["metadata"]["uid"] = "b"
    live = {"PodDisruptionBudget/s-tf-proxy": budget}
    placed = dataclasses.replace(storage_observed(EXTERNAL), live=live)
    assert [(one.kind, one.uid) for one in plan(placed).removals] == [("PodDisruptionBudget", "b")]


def test_proxies_trust_cloudnativepg_by_its_authority() -> None:
    planned = plan(storage_observed({"postgres": {"cloudNativePG": {}}}))
    (daemon_set,) = (one for one in planned.objects if one["kind"] == "DaemonSet")
    pod = daemon_set["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert environment["PGSSLMODE"] == "verify-full"
    (volume,) = (one for one in pod["volumes"] if one["name"] == "postgres-authority")
    assert volume["secret"]["secretName"] == "s-tpg-ca"
    assert [one["key"] for one in volume["secret"]["items"]] == ["ca.crt"]
    (mount,) = (one for one in container["volumeMounts"] if one["name"] == "postgres-authority")
    assert environment["PGSSLROOTCERT"] == f"{mount['mountPath']}/ca.crt"


def test_who_may_reach_the_proxies() -> None:
    def rules(**options: Any) -> list[Any]:
        planned = plan(storage_observed(), home="operators", **options)
        (policy,) = (
            one
            for one in planned.objects
            if one["metadata"]["name"] == "s-tf-proxy" and one["kind"] == "NetworkPolicy"
        )
        return list(policy["spec"]["ingress"])

    calls, metrics = rules()
    assert calls["from"][1]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "operators"
    }
    assert "from" not in metrics
    _, metrics = rules(metrics_namespaces=("monitoring",))
    (watcher,) = metrics["from"]
    (expression,) = watcher["namespaceSelector"]["matchExpressions"]
    assert expression["values"] == ["monitoring"]


def test_network_policies_are_optional() -> None:
    planned = plan(storage_observed(), network_policies=False)
    assert not [name for name in made(planned) if name.startswith("NetworkPolicy")]


@pytest.mark.parametrize(("workers", "replicas"), [(0, 1), (10, 1), (11, 2), (95, 10)])
def test_shared_proxies_follow_the_workers(workers: int, replicas: int) -> None:
    spec = {**EXTERNAL, "proxy": {"placement": "Shared", "workersPerReplica": 10}}
    (deployment,) = [
        one
        for one in plan(storage_observed(spec, workers=workers)).objects
        if one["kind"] == "Deployment"
    ]
    assert deployment["spec"]["replicas"] == replicas


def test_what_can_not_change_in_a_stateful_set_stays() -> None:
    seen = storage_observed({"postgres": {"managed": {"volume": {"size": "1Gi"}}}})
    (before,) = [one for one in plan(seen).objects if one["kind"] == "StatefulSet"]
    larger = storage_observed({"postgres": {"managed": {"volume": {"size": "2Gi"}}}})
    live = {"StatefulSet/s-tpg": before}
    (after,) = [
        one
        for one in plan(dataclasses.replace(larger, live=live)).objects
        if one["kind"] == "StatefulSet"
    ]
    assert after["spec"]["volumeClaimTemplates"] == before["spec"]["volumeClaimTemplates"]


def test_cloud_native_pg_that_is_not_installed_is_told() -> None:
    seen = storage_observed({"postgres": {"cloudNativePG": {}}}, cnpg_installed=False)
    planned = plan(seen)
    assert made(planned) == []
    assert conditions(planned)["Stalled"] == ("True", reasons.CRD_MISSING)


def test_ready_means_that_a_proxy_serves() -> None:
    planned = plan(storage_observed(postgres=workload(1, 1), proxies=workload(0)))
    assert conditions(planned)["PostgresReady"][0] == "True"
    assert conditions(planned)["Ready"][0] == "False"
    planned = plan(storage_observed(postgres=workload(1, 1), proxies=workload(1)))
    assert conditions(planned)["Ready"] == ("True", reasons.AVAILABLE)
    assert planned.status is not None
    assert planned.status["phase"] == "Ready"
    assert planned.status["proxies"] == "1/2"
    assert planned.status["endpoint"] == f"s-tf-proxy.ns.svc:{names.PROXY_PORT}"
    assert [note.reason for note in planned.notes] == [reasons.EVENT_READY]


@pytest.mark.parametrize(
    ("age_s", "phase", "told"),
    [
        (19, "Pending", False),
        (21, "Pending", True),
        (2, "Unavailable", False),
        (4, "Unavailable", True),
    ],
)
def test_a_database_that_does_not_answer_is_told(age_s: float, phase: str, told: bool) -> None:
    seen = storage_observed(proxies=workload(0), proxy_error="password authentication failed")
    status = {
        "phase": phase,
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "x",
                "lastTransitionTime": ago(age_s).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        ],
    }
    planned = plan(
        dataclasses.replace(seen, subject=dataclasses.replace(seen.subject, status=status))
    )
    expected = ("True", reasons.STORAGE_UNAVAILABLE) if told else ("False", reasons.PROGRESSING)
    assert conditions(planned)["Stalled"] == expected
    assert planned.requeue_after == datetime.timedelta(seconds=3)


def test_the_trouble_of_a_pod_is_told() -> None:
    trouble = Trouble(reasons.CONFIG_MISSING, 'secret "db" not found')
    waiting = pod(component=names.COMPONENT_PROXY, running=False, ready=False, trouble=trouble)
    planned = plan(storage_observed(EXTERNAL, pods=(waiting,), proxies=workload(0)))
    assert conditions(planned)["Ready"] == ("False", reasons.CONFIG_MISSING)
    assert [note.message for note in planned.notes] == ['proxy: secret "db" not found']


def test_a_spec_that_is_refused_makes_nothing() -> None:
    planned = plan(dataclasses.replace(storage_observed(), storage=None, refusal="spec: no"))
    assert made(planned) == []
    assert conditions(planned)["Stalled"] == ("True", reasons.INVALID_SPEC)


class TestSecret:
    def test_is_made_once(self) -> None:
        name = SECRET.removeprefix("Secret/")
        assert plan(storage_observed(created=frozenset({name}))).once == ()

    def test_is_another_when_its_certificates_are_to_be_renewed(self) -> None:
        year = datetime.timedelta(days=366)
        assert secret_of({}, NOW + year) != SECRET
        assert secret_of(PLAIN, NOW + year) == PLAIN_SECRET

    def test_the_proxies_use_what_is_in_it(self) -> None:
        planned = plan(storage_observed())
        (secret,) = planned.once
        held = secret["stringData"]
        for obj in planned.objects:
            if "template" not in obj["spec"]:
                continue
            spec = obj["spec"]["template"]["spec"]
            (volume,) = [one["secret"] for one in spec["volumes"] if "secret" in one]
            assert volume["secretName"] == secret["metadata"]["name"]
            assert {item["key"] for item in volume["items"]} <= held.keys()
            text = str(spec["containers"][0])
            for item in volume["items"]:
                if item["path"] != "ca.crt":
                    assert f"/run/trialfleet/{item['path']}" in text
        assert held["url"].endswith("?sslmode=verify-full&sslrootcert=/run/trialfleet/ca.crt")

    def test_health_is_asked_where_nothing_is_encrypted(self) -> None:
        planned = plan(storage_observed())
        (daemon_set,) = [one for one in planned.objects if one["kind"] == "DaemonSet"]
        (container,) = daemon_set["spec"]["template"]["spec"]["containers"]
        assert container["readinessProbe"]["grpc"]["port"] == names.HEALTH_PORT
        for probe, service in (
            ("startupProbe", names.HEALTH_STARTUP),
            ("livenessProbe", names.HEALTH_LIVENESS),
        ):
            asked = {"port": names.HEALTH_PORT, "service": service}
            assert container[probe]["grpc"] == asked

    def test_a_proxy_serves_until_nobody_is_sent_to_it(self) -> None:
        planned = plan(storage_observed({"proxy": {"gracePeriod": "10s"}}))
        (daemon_set,) = [one for one in planned.objects if one["kind"] == "DaemonSet"]
        pod = daemon_set["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        sleep_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert sleep_s > 0
        assert "--grace=10" in container["args"]
        assert pod["terminationGracePeriodSeconds"] > 10 + sleep_s

    def test_a_plaintext_port_is_opened_if_asked_for(self) -> None:
        planned = plan(storage_observed({"security": {"plaintextPort": 14000}}))
        assert conditions(planned)["PlaintextPort"] == ("True", reasons.OPEN_WITHOUT_TOKEN)
        assert "PlaintextPort" not in conditions(plan(storage_observed()))
        kinds = {f"{one['kind']}/{one['metadata']['name']}": one for one in planned.objects}
        ports = kinds["Service/s-tf-proxy"]["spec"]["ports"]
        assert [port["port"] for port in ports] == [names.PROXY_PORT, 14000]
        rules = kinds["NetworkPolicy/s-tf-proxy"]["spec"]["ingress"]
        assert {"port": "plaintext", "protocol": "TCP"} in rules[-1]["ports"]
        assert "from" not in rules[-1]


def test_a_postgresql_that_is_slow_to_start_is_no_trouble() -> None:
    """The first start writes a whole cluster's files, a later one may have to recover."""
    server = pod(component=names.COMPONENT_POSTGRES)
    late = dataclasses.replace(storage_observed().subject, created=ago(60))
    seen = storage_observed(
        subject=late, pods=(server,), postgres=workload(0, 1), proxies=workload(0)
    )
    assert conditions(plan(seen))["Stalled"][0] == "False"
    seen = dataclasses.replace(seen, subject=dataclasses.replace(late, created=ago(130)))
    assert conditions(plan(seen))["Stalled"] == ("True", reasons.STORAGE_UNAVAILABLE)
    answers = dataclasses.replace(seen, postgres=workload(1, 1))
    assert conditions(plan(answers))["Stalled"][0] == "False"
    for since_s, told in ((10, "False"), (30, "True")):
        condition = {
            "type": reasons.POSTGRES_READY,
            "status": "True",
            "reason": reasons.AVAILABLE,
            "message": "",
            "lastTransitionTime": timestamp(ago(since_s)),
            "observedGeneration": 1,
        }
        status = {"conditions": [condition]}
        known = dataclasses.replace(answers.subject, status=status)
        planned = plan(dataclasses.replace(answers, subject=known))
        assert conditions(planned)["Stalled"][0] == told


def test_a_postgresql_that_hangs_is_started_again() -> None:
    """Its start is waited for by one probe: each that fails would be a Warning."""
    (made,) = [obj for obj in plan(storage_observed()).objects if obj["kind"] == "StatefulSet"]
    (server,) = made["spec"]["template"]["spec"]["containers"]
    for name in ("startupProbe", "livenessProbe"):
        assert "pg_isready" in server[name]["exec"]["command"][-1]
    start = server["startupProbe"]
    assert start["timeoutSeconds"] * start["failureThreshold"] == 3600
    # A server that hangs takes no signal: the pod's grace would only be waited for.
    grace_s = made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert server["livenessProbe"]["terminationGracePeriodSeconds"] < grace_s


def test_proxies_reach_a_postgresql_as_soon_as_it_listens() -> None:
    """Without waiting for its pod to be counted as ready: there is no other to be sent to."""
    services = {
        obj["metadata"]["name"]: obj["spec"]
        for obj in plan(storage_observed()).objects
        if obj["kind"] == "Service"
    }
    assert services.pop("s-tpg")["publishNotReadyAddresses"]
    # A proxy that is about to stop is to get no calls any more.
    assert services and not any("publishNotReadyAddresses" in one for one in services.values())

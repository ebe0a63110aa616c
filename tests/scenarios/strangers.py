"""Scenarios: an object of somebody else's has a name that the operator needs."""

from typing import Any

import pytest

from tests.controller.kube import Object, condition, wait_for
from tests.scenarios.env import Env
from tests.scenarios.stuck import WITHIN_S, stalled
from trialfleet import names

_POD: Object = {
    "metadata": {"labels": {"app": "theirs"}},
    "spec": {"containers": [{"name": "theirs", "image": "example.invalid/theirs:1"}]},
}
_SELECTED: Object = {"selector": {"matchLabels": {"app": "theirs"}}, "template": _POD}
_PORTS = [{"name": "theirs", "port": 80, "protocol": "TCP"}]


def _theirs(api_version: str, kind: str, name: str, **parts: Any) -> Object:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, **parts}


def _stay(env: Env, made: dict[str, Object]) -> None:
    """Check that objects are as their owner made them, but for what controllers wrote."""
    for resource, before in made.items():
        after = env.kube.get(resource, before["metadata"]["name"])
        for obj in (before, after):
            obj.pop("status", None)
            for key in ("resourceVersion", "managedFields"):
                obj["metadata"].pop(key, None)
            # The Deployment controller numbers what it rolls out.
            obj["metadata"].get("annotations", {}).pop("deployment.kubernetes.io/revision", None)
            obj["metadata"]["annotations"] = obj["metadata"].get("annotations") or {}
        assert after == before


def test_a_users_config_map_stays_theirs(env: Env) -> None:
    """Also with the study's end, and the study goes on once the name is free."""
    name = names.study_config_name("theirs")
    made = env.kube.create("configmaps", _theirs("v1", "ConfigMap", name, data={"mine": "yes"}))
    env.study("theirs", budget={"trials": 2})
    stalled(env, "theirs", "NameTaken", f"ConfigMap {name!r}", "rename or delete it")
    _stay(env, {"configmaps": made})
    env.kube.delete("configmaps", name)
    assert not condition(env.wait_condition("theirs", "Complete"), "Stalled")
    env.kube.delete("studies", "theirs")
    wait_for("gone", lambda: env.kube.find("configmaps", name) is None, env.patience_s)
    made = env.kube.create("configmaps", _theirs("v1", "ConfigMap", name, data={"mine": "yes"}))
    env.study("theirs", budget={"trials": 2})
    stalled(env, "theirs", "NameTaken")
    env.kube.delete("studies", "theirs")
    wait_for("gone", lambda: env.kube.find("studies", "theirs") is None, env.patience_s)
    _stay(env, {"configmaps": made})


def test_a_users_job_stays_theirs(env: Env) -> None:
    name = names.worker_job_name("jobbed", 1)
    pod = {**_POD, "spec": {**_POD["spec"], "restartPolicy": "Never"}}
    theirs = {"parallelism": 0, "template": pod}
    made = env.kube.create("jobs", _theirs("batch/v1", "Job", name, spec=theirs))
    env.study("jobbed")
    stalled(env, "jobbed", "NameTaken", f"Job {name!r}")
    _stay(env, {"jobs": made})
    env.kube.delete("jobs", name, propagationPolicy="Background")


_WORKLOADS: dict[str, Object] = {
    "services": _theirs(
        "v1", "Service", names.postgres_service("own"), spec={"ports": _PORTS, "clusterIP": "None"}
    ),
    "statefulsets": _theirs(
        "apps/v1", "StatefulSet", names.postgres_name("own"), spec={**_SELECTED, "replicas": 0}
    ),
    "deployments": _theirs(
        "apps/v1", "Deployment", names.proxy_name("own"), spec={**_SELECTED, "replicas": 0}
    ),
    "networkpolicies": _theirs(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        names.proxy_name("own"),
        spec={"podSelector": {"matchLabels": {"app": "theirs"}}},
    ),
}


@pytest.mark.parametrize("resource", _WORKLOADS)
def test_what_a_storage_needs_may_be_theirs(env: Env, resource: str) -> None:
    theirs = _WORKLOADS[resource]
    name = theirs["metadata"]["name"]
    made = env.kube.create(resource, theirs)
    storage = _theirs(names.API_VERSION, "StudyStorage", "own")
    storage["spec"] = {
        "postgres": {"managed": {"emptyDir": {}}},
        "proxy": {"placement": "Shared"},
    }
    env.kube.create("studystorages", storage)

    def told() -> bool:
        found = condition(env.kube.get("studystorages", "own"), "Stalled")
        return found is not None and found["reason"] == "NameTaken" and name in found["message"]

    wait_for(f"NameTaken: {name}", told, WITHIN_S)
    wait_for("an Event", lambda: "NameTaken" in env.reasons("own"), 5)
    env.kube.delete("studystorages", "own")
    wait_for("gone", lambda: env.kube.find("studystorages", "own") is None, env.patience_s)
    _stay(env, {resource: made})
    env.kube.delete(resource, name, propagationPolicy="Background")


def test_a_users_storage_is_not_taken_for_a_studys_own(env: Env) -> None:
    external = {"external": {"secretRef": {"name": "none"}}}
    theirs = _theirs(names.API_VERSION, "StudyStorage", "same", spec={"postgres": external})
    made = env.kube.create("studystorages", theirs)
    env.study("same", storage=None)
    stalled(env, "same", "NameTaken", "StudyStorage 'same'")
    after = env.kube.get("studystorages", "same")
    assert after["spec"] == made["spec"]
    assert "ownerReferences" not in after["metadata"]
    env.kube.delete("studies", "same")
    wait_for("gone", lambda: env.kube.find("studies", "same") is None, env.patience_s)
    assert env.kube.get("studystorages", "same")["metadata"]["uid"] == made["metadata"]["uid"]
    env.kube.delete("studystorages", "same")

"""The chart in one locked-down namespace: installed, upgraded during a study, and removed."""

import functools
import uuid
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest

from tests.controller.kube import Kube, condition, wait_for
from tests.e2e.conftest import PATIENCE_S, RESTRICTED, Cluster
from trialfleet import names

CHART = "charts/trialfleet"
RESOURCES = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}


@pytest.fixture
def kube(cluster: Cluster) -> Iterator[Kube]:
    """A namespace under ``restricted``, with a quota, where all traffic is denied by default."""
    # Two operators of different keys would look after the same studies.
    cluster.stop_operator()
    client = Kube(cluster.kubeconfig, f"chart-{uuid.uuid4().hex[:8]}")
    client.create("namespaces", {"metadata": {"name": client.namespace, "labels": RESTRICTED}})
    hard = {"pods": "20", "requests.cpu": "2", "requests.memory": "4Gi", "limits.memory": "8Gi"}
    client.create("resourcequotas", {"metadata": {"name": "team"}, "spec": {"hard": hard}})
    deny = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    client.create("networkpolicies", {"metadata": {"name": "deny"}, "spec": deny})
    yield client
    client.delete("namespaces", client.namespace)
    wait_for("namespace gone", lambda: client.find("namespaces", client.namespace) is None, 180)
    client.close()
    cluster.start_operator()


def image(name: str) -> dict[str, str]:
    """Return the values that name an image."""
    repository, _, tag = name.rpartition(":")
    return {"repository": repository, "tag": tag}


def make_study(kube: Kube, name: str, trials: int, seconds: float) -> None:
    """Create a study whose trials must not be lost even once."""
    source = (
        "import time\n"
        "def objective(trial):\n"
        f"    time.sleep({seconds})\n"
        "    return trial.suggest_float('x', -1, 1) ** 2\n"
    )
    spec: dict[str, Any] = {
        "objectives": [{"name": "loss", "direction": "minimize"}],
        "sampler": {"name": "RandomSampler", "options": {"seed": 7}},
        "budget": {"trials": trials},
        "parallelism": 2,
        "retries": 0,
        "storage": {"name": "shared"},
        "objective": {"python": {"source": source}},
        "template": {"spec": {"containers": [{"name": "worker", "resources": RESOURCES}]}},
    }
    head = {"apiVersion": names.API_VERSION, "kind": "Study", "metadata": {"name": name}}
    kube.create("studies", {**head, "spec": spec})


def trials_of(kube: Kube, name: str) -> dict[str, int]:
    """Return the counts of a study's trials."""
    counts: dict[str, int] = kube.get("studies", name).get("status", {}).get("trials", {})
    return counts


def operators(kube: Kube) -> set[str]:
    """Return the names of the operator's pods."""
    pods = kube.call("GET", f"api/v1/namespaces/{kube.namespace}/pods")["items"]
    return {
        pod["metadata"]["name"]
        for pod in pods
        if pod["metadata"].get("labels", {}).get(names.LABEL_APP) == names.OPERATOR
    }


def is_empty(kube: Kube, resource: str) -> bool:
    """Whether there is no object of a kind."""
    return not kube.list(resource)


def test_install_upgrade_and_remove(cluster: Cluster, kube: Kube) -> None:
    values: dict[str, Any] = {
        "scope": "Namespace",
        "crds": {"install": False},
        "networkPolicy": {"studyNamespaces": [kube.namespace]},
        "image": image(cluster.config.getoption("--operator-image")),
        "workerImage": image(cluster.config.getoption("--worker-image")),
    }
    with helm_python.Config(kubeconfig_path=cluster.kubeconfig, namespace=kube.namespace) as helm:
        helm.install(CHART, "trialfleet", values, wait="watcher", timeout=180)
        storage: dict[str, Any] = {"postgres": {"managed": {"emptyDir": {}}}}
        head = {"apiVersion": names.API_VERSION, "kind": "StudyStorage"}
        kube.create("studystorages", {**head, "metadata": {"name": "shared"}, "spec": storage})
        make_study(kube, "long", trials=60, seconds=1.0)
        wait_for("trials", lambda: trials_of(kube, "long").get("complete", 0) >= 5, PATIENCE_S)

        before = operators(kube)
        helm.upgrade(
            CHART,
            "trialfleet",
            {**values, "podAnnotations": {"example.com/upgraded": "yes"}},
            wait="watcher",
            timeout=180,
        )
        assert trials_of(kube, "long")["complete"] < 60
        wait_for("old operator gone", lambda: not before & operators(kube), PATIENCE_S)
        wait_for("complete", lambda: condition(kube.get("studies", "long"), "Complete"), PATIENCE_S)
        assert trials_of(kube, "long") == {
            **dict.fromkeys(("pruned", "failed", "running", "waiting", "lost"), 0),
            "complete": 60,
        }
        log = cluster.kubectl("logs", "-n", kube.namespace, "deployment/trialfleet")
        assert "forbidden" not in log.lower(), log

        kube.delete("studies", "long")
        kube.delete("studystorages", "shared")
        helm.uninstall("trialfleet", wait="watcher", timeout=120)
    for resource in ("pods", "services", "jobs", "statefulsets", "daemonsets", "deployments"):
        wait_for(f"no {resource}", functools.partial(is_empty, kube, resource), PATIENCE_S)
    assert [one["metadata"]["name"] for one in kube.list("networkpolicies")] == ["deny"]
    # The key is what a later operator needs to know its storages again.
    assert [one["metadata"]["name"] for one in kube.list("secrets")] == ["trialfleet-key"]

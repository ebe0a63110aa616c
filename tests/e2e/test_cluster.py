"""What only a real cluster has: nodes, a scheduler, images, rollouts, kubectl."""

import base64
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.controller.kube import condition, wait_for
from tests.e2e.conftest import Cluster
from tests.scenarios.env import Env
from tests.scenarios.stuck import stalled
from trialfleet import names

NOTHING = dict.fromkeys(("complete", "pruned", "failed", "running", "waiting", "lost"), 0)
STORAGE = {"apiVersion": names.API_VERSION, "kind": "StudyStorage"}

SPREAD = {
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {names.LABEL_COMPONENT: "worker"}},
        }
    ]
}
"""Of pods: as many workers on each node."""


@pytest.fixture
def two_nodes(cluster: Cluster) -> list[str]:
    """The names of the nodes that take workers."""
    nodes = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    found = [
        node["metadata"]["name"]
        for node in nodes
        if condition(node, "Ready") and not node["spec"].get("taints")
    ]
    if len(found) < 2:
        pytest.skip("needs two nodes that take pods")
    return found


@pytest.fixture
def lose(cluster: Cluster) -> Iterator[Callable[[str], None]]:
    """Lose a node; it is back in the end."""
    command, lost = cluster.config.getoption("--node"), list[str]()
    if not command:
        pytest.skip("needs --node COMMAND: run with 'lose' or 'return' and a NODE")

    def lose(node: str) -> None:
        lost.append(node)
        subprocess.run([*shlex.split(command), "lose", node], check=True)

    yield lose
    for node in lost:
        subprocess.run([*shlex.split(command), "return", node], check=True)
        cluster.kubectl("wait", "--for=condition=Ready", f"node/{node}", "--timeout=120s")


def spread(env: Env, name: str, seconds: float, **spec: Any) -> None:
    """Create a study with as many workers on each node."""
    template = {"spec": {**SPREAD, "containers": [{"name": "worker"}]}}
    env.study(name, seconds=seconds, template=template, **spec)


def pods_by_node(env: Env, **labels: str) -> dict[str, list[str]]:
    """Return the names of pods that have not ended, by their node."""
    found: dict[str, list[str]] = {}
    for pod in env.kube.list("pods", **labels):
        if pod["status"]["phase"] in ("Pending", "Running"):
            node = pod["spec"].get("nodeName", "")
            found.setdefault(node, []).append(pod["metadata"]["name"])
    return found


def calls(cluster: Cluster, env: Env, proxy: str, method: str) -> int:
    """Return how many calls a proxy has answered, of one method."""
    path = f"/api/v1/namespaces/{env.kube.namespace}/pods/{proxy}:{names.METRICS_PORT}/proxy"
    page = cluster.kubectl("get", "--raw", f"{path}/metrics")
    name = f'method="trialfleet.v1.TrialFleet.{method}"'
    lines = [line for line in page.splitlines() if "requests_total{" in line and name in line]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


def proxies(env: Env) -> set[str]:
    """Return the names of the proxies' pods."""
    return {pod["metadata"]["name"] for pod in env.kube.list("pods", component="proxy")}


def test_a_worker_speaks_to_the_proxy_of_its_node(
    cluster: Cluster, own_env: Env, two_nodes: list[str]
) -> None:
    spread(own_env, "near", 0.3, parallelism=4, budget={"trials": 80})
    own_env.running_workers("near", 4)
    workers = {node: len(pods) for node, pods in pods_by_node(own_env, study="near").items()}
    own_env.wait_condition("near", "Complete")
    proxies = pods_by_node(own_env, component="proxy")
    assert set(workers) <= set(proxies)
    told = {}
    for node, (proxy,) in proxies.items():
        assert calls(cluster, own_env, proxy, "OpenSession") == workers.get(node, 0)
        told[node] = calls(cluster, own_env, proxy, "Tell")
    assert sum(told.values()) >= 80 and all(told[node] > 0 for node in workers)


def test_a_lost_nodes_trials_are_run_again(
    own_env: Env, two_nodes: list[str], lose: Callable[[str], None]
) -> None:
    (database,) = pods_by_node(own_env, component="postgres")
    spread(own_env, "lost", 2.0, parallelism=4, budget={"trials": 80})
    own_env.wait_trials("lost", 4)
    workers = pods_by_node(own_env, study="lost")
    node = next(name for name in workers if name != database)
    lose(node)
    study = own_env.wait_condition("lost", "Complete")
    trials = study["status"]["trials"]
    assert (trials["complete"], trials["failed"], trials["running"]) == (80, 0, 0)
    assert 1 <= trials["lost"] <= len(workers[node])


def test_a_rolling_update_of_proxies_disturbs_no_trial(own_env: Env) -> None:
    own_env.study("rolled", seconds=0.3, budget={"trials": 120})
    own_env.wait_trials("rolled", 2)
    before = proxies(own_env)
    resources = {"requests": {"memory": "160Mi"}}
    own_env.kube.patch("studystorages", "shared", {"spec": {"proxy": {"resources": resources}}})
    wait_for(
        "all proxies replaced",
        lambda: not before & proxies(own_env),
        own_env.patience_s,
    )
    study = own_env.wait_condition("rolled", "Complete")
    assert study["status"]["trials"] == {**NOTHING, "complete": 120}


def replicas(env: Env) -> int:
    """Return how many shared proxies there should be."""
    found = env.kube.find("deployments", "few-tf-proxy")
    return 0 if found is None else int(found["spec"]["replicas"])


def test_shared_proxies(own_env: Env) -> None:
    spec = {
        "postgres": {"managed": {"emptyDir": {}}},
        "proxy": {"placement": "Shared", "workersPerReplica": 2},
    }
    own_env.kube.create("studystorages", {**STORAGE, "metadata": {"name": "few"}, "spec": spec})
    own_env.study("served", seconds=0.5, storage={"name": "few"}, parallelism=4)
    wait_for(
        "a replica per two workers",
        lambda: replicas(own_env) == 2,
        own_env.patience_s,
    )
    study = own_env.wait_condition("served", "Complete")
    assert study["status"]["trials"] == {**NOTHING, "complete": 12}
    assert not own_env.kube.find("daemonsets", "few-tf-proxy")


def test_a_database_that_someone_else_runs(own_env: Env) -> None:
    (secret,) = own_env.kube.list("secrets", storage="shared")
    url, _, _ = base64.b64decode(secret["data"]["url"]).decode().partition("?")
    given = {"metadata": {"name": "database"}, "stringData": {"url": f"{url}?sslmode=require"}}
    own_env.kube.create("secrets", given)
    # The test uses another storage's database, whose policy would refuse these proxies.
    policy = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}
    own_env.kube.create("networkpolicies", {"metadata": {"name": "open"}, "spec": policy})
    where = {"external": {"secretRef": {"name": "database", "key": "url"}}}
    storage = {"metadata": {"name": "theirs"}, "spec": {"postgres": where}}
    own_env.kube.create("studystorages", {**STORAGE, **storage})
    own_env.study("outside", storage={"name": "theirs"})
    study = own_env.wait_condition("outside", "Complete")
    assert study["status"]["trials"] == {**NOTHING, "complete": 12}
    assert not own_env.kube.find("statefulsets", "theirs-tpg")


def test_two_operators_do_no_harm(cluster: Cluster, env: Env) -> None:
    with cluster.second_operator():
        env.study("twice", seconds=0.2, budget={"trials": 60})
        study = env.wait_condition("twice", "Complete")
        env.wait_no_pods("twice")
    assert study["status"]["trials"] == {**NOTHING, "complete": 60}
    assert env.reasons("twice").count("Complete") == 1


def test_an_image_that_is_not_there(env: Env) -> None:
    container = {"name": "worker", "image": "example.invalid/nothing:1"}
    env.study("imageless", template={"spec": {"containers": [container]}})
    stalled(env, "imageless", "ImagePullFailed", "example.invalid/nothing:1")


def test_a_worker_that_no_node_takes(env: Env) -> None:
    spec = {"nodeSelector": {"example.com/none": "such"}, "containers": [{"name": "worker"}]}
    env.study("homeless", template={"spec": spec})
    stalled(env, "homeless", "Unschedulable", "node(s) didn't match")


def test_results_are_read_through_a_port_forward(
    cluster: Cluster, env: Env, tmp_path: Path
) -> None:
    """As docs/security.md says it."""
    env.study("told", budget={"trials": 3})
    env.wait_condition("told", "Complete")
    (secret,) = env.kube.list("secrets", study="told")
    for key in ("token", "ca.crt"):
        (tmp_path / key).write_bytes(base64.b64decode(secret["data"][key]))
    forward = subprocess.Popen(
        [
            *("kubectl", f"--kubeconfig={cluster.kubeconfig}", "port-forward"),
            *("-n", env.kube.namespace, f"service/{names.proxy_service('shared')}", ":13000"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert forward.stdout is not None
        port = forward.stdout.readline().split(" -> ")[0].rpartition(":")[2]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "trialfleet.cli.main", "trials", "told"),
                *("--proxy", f"localhost:{port}", "--output", "json"),
                *("--token-file", str(tmp_path / "token"), "--ca-file", str(tmp_path / "ca.crt")),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)) == 3
    finally:
        forward.terminate()
        forward.communicate()


def test_kubectl(cluster: Cluster, env: Env) -> None:
    env.study("seen", seconds=0.3, budget={"trials": 30}, parallelism=1)
    at = ("-n", env.kube.namespace)
    cluster.kubectl("scale", *at, "study/seen", "--replicas=3")
    env.running_workers("seen", 3)
    running = cluster.kubectl("get", *at, "studies", "seen").splitlines()
    assert "Running" in running[1] and "/30" in running[1]
    cluster.kubectl("wait", *at, "--for=condition=Complete", "study/seen", "--timeout=120s")
    head, line = cluster.kubectl("get", *at, "studies", "seen").splitlines()
    assert "Complete" in line and "30/30" in line
    wide = cluster.kubectl("get", *at, "studies", "-o", "wide").splitlines()[0]
    assert wide.startswith(head.rstrip()) and len(wide) > len(head)
    explained = cluster.kubectl("explain", "study.spec", "--recursive")
    for field in ("parallelism", "trialTimeout", "searchSpace", "ttlSecondsAfterFinished"):
        assert field in explained
    assert "FIELD: parallelism" in cluster.kubectl("explain", "study.spec.parallelism")

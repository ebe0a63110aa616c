"""The scenarios on a real cluster: ``pytest tests/e2e --cluster``, on the current KUBECONFIG.

The custom resources must be installed (``kubectl apply --server-side -f crds/``). Without
``--installed`` the operator runs on this machine, which must then reach the pods' addresses.
"""

import contextlib
import os
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.controller.kube import Kube, KubeError, wait_for
from tests.scenarios.env import Env
from trialfleet import names

PACKAGE = Path(__file__).parents[2] / "operator"
PATIENCE_S = 180.0

RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cluster")
    group.addoption("--cluster", action="store_true", help="run tests on the current cluster")
    group.addoption("--operator-image", default="trialfleet/operator:0.1.0")
    group.addoption("--postgres-image", default="docker.io/library/postgres:18")
    group.addoption("--worker-image", default="trialfleet/worker:0.1.0")
    group.addoption("--python-image", default="trialfleet/worker:0.1.0", help="of users' own pods")
    group.addoption("--kill", metavar="COMMAND", default="", help="signal NAMESPACE POD's process")
    group.addoption("--node", metavar="COMMAND", default="", help="lose NODE, or return NODE")
    group.addoption(
        "--installed",
        metavar="NAMESPACE",
        default="",
        help="namespace of an installed operator, a Deployment; else one runs on this machine",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return None if config.getoption("--cluster") or collection_path.is_dir() else True


@dataclass
class Cluster:
    """The cluster and what runs in it."""

    kubeconfig: Path
    config: pytest.Config
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    def kubectl(self, *arguments: str, check: bool = True, text: str = "") -> str:
        """Run kubectl; return what it wrote."""
        done = subprocess.run(
            ["kubectl", f"--kubeconfig={self.kubeconfig}", *arguments],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def start_operator(self) -> None:
        """Start the operator."""
        if not self._scale(1):
            self.process = self._operator()

    def stop_operator(self) -> None:
        """Stop the operator without giving it time for anything."""
        if not self._scale(0) and self.process is not None:
            self.process.kill()
            self.process.wait(20)
            self.process = None

    @contextlib.contextmanager
    def second_operator(self) -> Iterator[None]:
        """Have another operator beside the first."""
        if self._scale(2):
            yield
            self._scale(1)
            return
        process = self._operator()
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)

    def _scale(self, replicas: int) -> bool:
        """Scale the installed operator; return whether there is one."""
        namespace = self.config.getoption("--installed")
        if namespace:
            label = f"-l{names.LABEL_APP}={names.OPERATOR}"
            self.kubectl("scale", "deployment", "-n", namespace, label, f"--replicas={replicas}")
            self.kubectl("rollout", "status", "deployment", "-n", namespace, label)
        return bool(namespace)

    def _operator(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "trialfleet.cli.main", "operator"),
                    f"--image={self.config.getoption('--operator-image')}",
                    f"--worker-image={self.config.getoption('--worker-image')}",
                    f"--postgres-image={self.config.getoption('--postgres-image')}",
                    "--image-pull-policy=IfNotPresent",
                ],
                env={**os.environ, "KUBECONFIG": str(self.kubeconfig), "PYTHONPATH": str(PACKAGE)},
                stdout=log,
                stderr=log,
            )


@pytest.fixture(scope="session")
def cluster(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    kubeconfig = Path(os.environ.get("KUBECONFIG", Path.home() / ".kube" / "config"))
    made = Cluster(kubeconfig, pytestconfig, tmp_path_factory.mktemp("operator") / "log")
    if not pytestconfig.getoption("--installed"):
        made.start_operator()
    yield made
    if not pytestconfig.getoption("--installed"):
        made.stop_operator()
        said = made.log.read_text(errors="replace")
        assert "Traceback" not in said, said[-6000:]


@pytest.fixture(scope="module")
def everyones(cluster: Cluster) -> Iterator[Env]:
    """A namespace with a storage that all tests of a module may use."""
    with namespace(cluster) as made:
        made.ready()
        yield made


@pytest.fixture
def env(everyones: Env) -> Iterator[Env]:
    """A namespace with a storage that is ready; studies are deleted in the end."""
    yield everyones
    for study in everyones.kube.list("studies"):
        everyones.kube.delete("studies", study["metadata"]["name"])
        everyones.wait_no_pods(study["metadata"]["name"])


@pytest.fixture
def own_env(cluster: Cluster) -> Iterator[Env]:
    """A namespace with a storage, for a test that harms it."""
    with namespace(cluster) as made:
        made.ready()
        yield made


@contextlib.contextmanager
def namespace(cluster: Cluster) -> Iterator[Env]:
    """Give a namespace under Pod Security ``restricted`` with a storage; deleted in the end."""
    kube = Kube(cluster.kubeconfig, f"e2e-{uuid.uuid4().hex[:8]}")
    kube.create("namespaces", {"metadata": {"name": kube.namespace, "labels": RESTRICTED}})
    wait_for("its service account", lambda: _has_account(kube), 30)
    storage = {
        "apiVersion": names.API_VERSION,
        "kind": "StudyStorage",
        "metadata": {"name": "shared"},
        "spec": {"postgres": {"managed": {"emptyDir": {}}}},
    }
    kube.create("studystorages", storage)
    lost: list[str] = []
    yield Env(
        kube=kube,
        evict=lambda pod: _evict(kube, pod),
        kill=lambda pod: _signal(cluster, kube, pod, "SIGKILL", names.WORKER_CONTAINER),
        hang=lambda pod, container: _signal(cluster, kube, pod, "SIGSTOP", container),
        log=lambda pod: cluster.kubectl("logs", "-n", kube.namespace, pod, check=False),
        start_operator=cluster.start_operator,
        stop_operator=cluster.stop_operator,
        refuse_pods=lambda wanted: _refuse(kube, wanted),
        lose_database=lambda: _lose_database(kube),
        sql=lambda storage, statement: _sql(cluster, kube, storage, statement),
        lose_node=lambda node: _lose_node(cluster, node, lost),
        image=cluster.config.getoption("--python-image"),
        patience_s=PATIENCE_S,
        pod_start_s=8.0,
    )
    for node in lost:
        subprocess.run([*_node_command(cluster), "return", node], check=True)
        cluster.kubectl("wait", "--for=condition=Ready", f"node/{node}", "--timeout=120s")
    kube.delete("namespaces", kube.namespace)
    wait_for("namespace gone", lambda: kube.find("namespaces", kube.namespace) is None, 180)
    kube.close()


def _has_account(kube: Kube) -> bool:
    try:
        kube.call("GET", f"api/v1/namespaces/{kube.namespace}/serviceaccounts/default")
    except KubeError:
        return False
    return True


def _evict(kube: Kube, pod: str) -> None:
    path = f"api/v1/namespaces/{kube.namespace}/pods/{pod}/eviction"
    metadata = {"name": pod, "namespace": kube.namespace}
    kube.call(
        "POST", path, None, {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    )


def _signal(cluster: Cluster, kube: Kube, pod: str, name: str, container: str) -> None:
    """Send a signal to a container's process, from outside.

    Kubernetes has no such call: a forced deletion lets a worker hand its trial back, and from
    inside, process 1 of a container takes neither SIGKILL nor SIGSTOP.
    """
    command = cluster.config.getoption("--kill")
    if not command:
        pytest.skip(
            "needs --kill COMMAND: run with NAMESPACE POD, sends $SIGNAL to $CONTAINER's process"
        )
    environment = {**os.environ, "SIGNAL": name, "CONTAINER": container}
    subprocess.run([*shlex.split(command), kube.namespace, pod], check=True, env=environment)


def _node_command(cluster: Cluster) -> list[str]:
    command = cluster.config.getoption("--node")
    if not command:
        pytest.skip("needs --node COMMAND: run with 'lose' or 'return' and a NODE")
    return shlex.split(command)


def _lose_node(cluster: Cluster, node: str, lost: list[str]) -> None:
    command = _node_command(cluster)
    lost.append(node)
    subprocess.run([*command, "lose", node], check=True)


def _refuse(kube: Kube, wanted: bool) -> None:
    if wanted:
        quota = {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "1"}}}
        kube.create("resourcequotas", quota)
        wait_for(
            "the quota counts",
            lambda: kube.get("resourcequotas", "small").get("status", {}).get("used"),
            30,
        )
    else:
        kube.delete("resourcequotas", "small")


def _sql(cluster: Cluster, kube: Kube, storage: str, statement: str) -> None:
    pod = f"{names.postgres_name(storage)}-0"
    psql = ("psql", "-U", names.APP, "-v", "ON_ERROR_STOP=1", "-c", statement)
    cluster.kubectl("exec", "-n", kube.namespace, pod, "-c", "postgres", "--", *psql)


def _lose_database(kube: Kube) -> None:
    """Break the database so that its pod can't come back."""
    quota = {"metadata": {"name": "no-more"}, "spec": {"hard": {"pods": "1"}}}
    kube.create("resourcequotas", quota)
    wait_for(
        "the quota counts",
        lambda: kube.get("resourcequotas", "no-more").get("status", {}).get("used"),
        30,
    )
    kube.delete("pods", "shared-tpg-0", gracePeriodSeconds=0)


@pytest.fixture(scope="module")
def kube(pytestconfig: pytest.Config) -> Iterator[Kube]:
    """A namespace without an operator of this run."""
    kubeconfig = Path(os.environ.get("KUBECONFIG", Path.home() / ".kube" / "config"))
    client = Kube(kubeconfig, f"e2e-{uuid.uuid4().hex[:8]}")
    client.create("namespaces", {"metadata": {"name": client.namespace}})
    yield client
    client.delete("namespaces", client.namespace)
    client.close()

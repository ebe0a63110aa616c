"""A stand-in for a cluster, with the real operator process, and a namespace for each test."""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.controller.kube import Kube, Object, wait_for
from tests.controller.standin.containers import data_of
from tests.controller.standin.standin import StandIn
from tests.scenarios.env import Env
from trialfleet import names

PACKAGE = Path(__file__).parents[2] / "operator"


class Operator:
    """The operator's process."""

    def __init__(self, kubeconfig: Path, log: Path, *options: str) -> None:
        self._kubeconfig, self._log, self._options = kubeconfig, log, options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        environment = {
            **os.environ,
            "KUBECONFIG": str(self._kubeconfig),
            "PYTHONPATH": str(PACKAGE),
        }
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "trialfleet.cli.main", "operator"),
                    *("--image", "operator", "--worker-image", "worker", *self._options),
                ],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop it, and wait."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    with StandIn(tmp_path_factory.mktemp("standin")) as started:
        yield started


@pytest.fixture(scope="session")
def operator(standin: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator for all namespaces."""
    log = tmp_path_factory.mktemp("operator") / "log"
    started = Operator(standin.kubeconfig, log)
    started.start()
    yield started
    started.stop()
    said = log.read_text(errors="replace")
    assert "Traceback" not in said, said[-6000:]


@pytest.fixture(scope="module")
def everyones(standin: StandIn, operator: Operator, postgres_url: str) -> Iterator[Env]:
    """A namespace with a storage that all tests of a module may use."""
    with database(postgres_url) as url, namespace(standin, operator, url) as made:
        made.ready()
        yield made


@pytest.fixture
def env(everyones: Env) -> Iterator[Env]:
    """A namespace with a storage that is ready; studies are deleted in the end."""
    yield everyones
    delete_all(everyones.kube, "studies")


@pytest.fixture
def own_env(standin: StandIn, operator: Operator, postgres_url: str) -> Iterator[Env]:
    """A namespace with a storage, for a test that harms it."""
    with database(postgres_url) as url, namespace(standin, operator, url) as made:
        made.ready()
        yield made


@contextlib.contextmanager
def namespace(standin: StandIn, operator: Operator, url: str) -> Iterator[Env]:
    """Give a namespace with a storage of a database; it is empty in the end."""
    kube = Kube(standin.kubeconfig, f"t-{uuid.uuid4().hex[:8]}")
    kube.create(
        "secrets",
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "database"},
            "stringData": {"url": url},
        },
    )
    storage = {
        "apiVersion": names.API_VERSION,
        "kind": "StudyStorage",
        "metadata": {"name": "shared"},
        "spec": {
            "postgres": {"external": {"secretRef": {"name": "database"}}},
            # Certificates are for names, and here are addresses only.
            "security": {"tls": False},
        },
    }
    kube.create("studystorages", storage)

    def refuse(wanted: bool) -> None:
        why = "forbidden: exceeded quota: small, requested: pods=1, used: pods=9, limited: pods=9"
        standin.refuse_pods(why if wanted else "")

    lost: list[str] = []

    def lose_node(node: str) -> None:
        lost.append(node)
        standin.lose_node(node)

    yield Env(
        kube=kube,
        evict=lambda pod: standin.evict(kube.namespace, pod),
        kill=lambda pod: os.kill(standin.process(pod), signal.SIGKILL),
        hang=lambda pod, _: os.killpg(standin.process(pod), signal.SIGSTOP),
        log=standin.log,
        start_operator=operator.start,
        stop_operator=lambda: operator.stop(signal.SIGKILL),
        refuse_pods=refuse,
        break_api=standin.break_api,
        lose_database=lambda: close_database(url),
        sql=lambda storage, statement: execute(_url_of(kube, storage), statement),
        security={"tls": False},
        lose_node=lose_node,
    )
    for node in lost:
        standin.return_node(node)
    delete_all(kube, "studies")
    delete_all(kube, "studystorages")
    kube.close()


def _url_of(kube: Kube, storage: str) -> str:
    """Return the URL of a managed database, by the address of its pod."""
    (secret,) = kube.list("secrets", storage=storage)
    (pod,) = kube.list("pods", storage=storage, component="postgres")
    url = sa.make_url(data_of(secret)["url"].decode()).set(host=pod["status"]["podIP"])
    return url.render_as_string(hide_password=False)


def delete_all(kube: Kube, resource: str) -> None:
    """Delete all studies or storages, and wait for their pods to be gone."""
    for obj in kube.list(resource):
        kube.delete(resource, obj["metadata"]["name"])
    component = {
        "studies": ("worker", "prepare", "collate"),
        "studystorages": ("proxy", "postgres"),
    }
    left: list[Object] = []

    def none_left() -> bool:
        left[:] = [pod for one in component[resource] for pod in kube.list("pods", component=one)]
        return not left

    try:
        wait_for("no pod left", none_left, 60)
    except AssertionError as error:
        raise AssertionError(f"{error}: {left}") from None


@contextlib.contextmanager
def database(postgres_url: str) -> Iterator[str]:
    """Give the URL of a fresh database."""
    name = f"test_{uuid.uuid4().hex}"
    execute(postgres_url, f"CREATE DATABASE {name}")
    try:
        yield sa.make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    finally:
        execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


def close_database(url: str) -> None:
    """Let nobody reach a database any more, and throw out who is there."""
    parsed = sa.make_url(url)
    admin = parsed.set(database="postgres").render_as_string(hide_password=False)
    execute(admin, f"ALTER DATABASE {parsed.database} WITH ALLOW_CONNECTIONS false")
    execute(
        admin,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE datname = '{parsed.database}'",
    )


def execute(url: str, statement: str) -> None:
    """Run a statement outside of transactions."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(statement))


@pytest.fixture(scope="module")
def kube(standin: StandIn) -> Iterator[Kube]:
    """A namespace that no operator cares for."""
    client = Kube(standin.kubeconfig, f"t-{uuid.uuid4().hex[:8]}")
    yield client
    client.close()

"""What the chart grants the operator is what the operator asks for, and no more."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml

from tests.chart.guard import Guard, Right, rights_of
from tests.chart.rendering import ROOT, only, render
from tests.controller.kube import Kube, Object, condition, wait_for
from tests.controller.standin.standin import StandIn
from trialfleet import names

HOME = "trialfleet-system"
TEAM = "team"

ON_CONFLICT = {
    # Only asked for when somebody else has an object of the same name.
    *(Right("get", "", resource) for resource in ("services", "configmaps")),
    *(Right("get", "apps", kind) for kind in ("statefulsets", "daemonsets", "deployments")),
    *(Right("get", "batch", kind) for kind in ("jobs", "cronjobs")),
    Right("get", "networking.k8s.io", "networkpolicies"),
    Right("get", "policy", "poddisruptionbudgets"),
    Right("get", names.DOMAIN, "studystorages"),
}
ON_LOSS = {
    # Of a node: its pods are deleted by force.
    Right("delete", "", "pods"),
}


@contextlib.contextmanager
def database(postgres_url: str) -> Iterator[str]:
    """Give the URL of a database that the storages of a test share."""
    admin = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.execute(sa.text("CREATE DATABASE rights"))
        try:
            yield sa.make_url(postgres_url).set(database="rights").render_as_string(False)
        finally:
            connection.execute(sa.text("DROP DATABASE rights WITH (FORCE)"))


@pytest.fixture(scope="module", params=["Cluster", "Namespace"])
def guard(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_url: str
) -> Iterator[Guard]:
    """What stood between an operator and the cluster while it ran studies of all kinds."""
    scope = request.param
    home = HOME if scope == "Cluster" else TEAM
    objects = render({"scope": scope}, namespace=home)
    key = only(objects, "Role", "trialfleet-key")["rules"]
    if scope == "Cluster":
        everywhere, inside = only(objects, "ClusterRole", "trialfleet")["rules"], {home: key}
    else:
        everywhere, inside = [], {home: [*only(objects, "Role", "trialfleet")["rules"], *key]}
    container = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    # Ports that are a pod's own are not this machine's to give.
    ports = ("--liveness", "--metrics")
    arguments = [text for text in container["args"] if not text.startswith(ports)]
    folder = tmp_path_factory.mktemp(scope.lower())
    with database(postgres_url) as url, StandIn(folder) as cluster:
        config = yaml.safe_load(cluster.kubeconfig.read_text(encoding="utf-8"))
        server = config["clusters"][0]["cluster"]
        with Guard(server["server"], everywhere, inside) as started:
            server["server"] = started.url
            kubeconfig = folder / "guarded.yaml"
            kubeconfig.write_text(yaml.safe_dump(config), encoding="utf-8")
            log = folder / "log"
            operator = start(arguments, kubeconfig, home, log)
            try:
                exercise(Kube(cluster.kubeconfig, TEAM), url)
            except AssertionError as error:
                said = log.read_text(encoding="utf-8")[-4000:]
                raise AssertionError(f"{error}\n{started.refused}\n{said}") from None
            finally:
                operator.send_signal(signal.SIGTERM)
                operator.wait(20)
            yield started


def start(
    arguments: list[str], kubeconfig: Path, home: str, log: Path
) -> "subprocess.Popen[bytes]":
    """Start an operator as the chart's Deployment does."""
    environment = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "POD_NAMESPACE": home,
        "PYTHONPATH": str(ROOT / "operator"),
    }
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "trialfleet.cli.main", *arguments],
            env=environment,
            stdout=output,
            stderr=output,
        )


def exercise(kube: Kube, url: str) -> None:
    """Let the operator do all that it can."""

    def make(resource: str, kind: str, name: str, spec: dict[str, object]) -> None:
        kube.create(
            resource,
            {
                "apiVersion": names.API_VERSION,
                "kind": kind,
                "metadata": {"name": name},
                "spec": spec,
            },
        )

    def appears(resource: str, name: str) -> None:
        wait_for(f"{resource}/{name}", lambda: kube.find(resource, name), 60)

    for resource, kind, name, data in (
        ("secrets", "Secret", "database", {"stringData": {"url": url}}),
        ("configmaps", "ConfigMap", "points", {"data": {"points.json": '[{"x": 1.0}]'}}),
    ):
        head = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}
        kube.create(resource, {**head, **data})
    external = {"external": {"secretRef": {"name": "database"}}}
    # Certificates are for Services' names, which the stand-in's processes can't look up.
    plain = {"postgres": external, "security": {"tls": False}}
    make("studystorages", "StudyStorage", "shared", plain)
    make(
        *("studystorages", "StudyStorage", "pooled"),
        {"postgres": external, "proxy": {"placement": "Shared"}},
    )
    # At no time: the 30th of February.
    backup = {"backup": {"schedule": "0 0 30 2 *"}}
    make("studystorages", "StudyStorage", "dumped", {**backup, "security": {"tls": False}})
    study: dict[str, object] = {
        "objectives": [{"name": "loss", "direction": "minimize"}],
        "budget": {"trials": 3},
        "objective": {
            "python": {"source": "def objective(trial): return trial.suggest_float('x', 0, 1)"}
        },
    }
    points = {"configMap": {"name": "points", "key": "points.json"}}
    make(
        "studies", "Study", "first", {**study, "storage": {"name": "shared"}, "trialsFrom": points}
    )
    make("studies", "Study", "own", study)
    appears("deployments", "pooled-tf-proxy")
    appears("statefulsets", "own-tpg")
    for placement, resource in (("Node", "daemonsets"), ("Shared", "deployments")):
        kube.patch("studystorages", "pooled", {"spec": {"proxy": {"placement": placement}}})
        appears(resource, "pooled-tf-proxy")
    wait_for("no DaemonSet", lambda: kube.find("daemonsets", "pooled-tf-proxy") is None, 60)
    kube.delete("studies", "own")
    appears("cronjobs", "dumped-tf-backup")
    kube.patch("studystorages", "dumped", {"spec": {"backup": {**backup["backup"], "keep": 3}}})
    wait_for("a changed CronJob", lambda: changed(kube.get("cronjobs", "dumped-tf-backup")), 60)
    kube.patch("studystorages", "dumped", {"spec": {"backup": None}})
    wait_for("no CronJob", lambda: not kube.list("cronjobs"), 60)
    kube.delete("studystorages", "dumped")
    wait_for("first complete", lambda: condition(kube.get("studies", "first"), "Complete"), 60)
    wait_for("its Events", lambda: len(kube.list("events")) > 2, 60)
    # A finished study whose time has come is deleted, with its Jobs.
    kube.patch("studies", "first", {"spec": {"ttlSecondsAfterFinished": 0}})
    wait_for("first gone", lambda: kube.find("studies", "first") is None, 60)


def changed(cron_job: Object) -> bool:
    """Whether a CronJob is not what it was when it was made."""
    return int(cron_job["metadata"]["generation"]) > 1


def test_nothing_that_it_asks_for_is_refused(guard: Guard) -> None:
    assert guard.refused == []


def test_nothing_is_granted_that_it_does_not_ask_for(guard: Guard) -> None:
    granted = rights_of(
        [*guard._everywhere, *(r for rules in guard._inside.values() for r in rules)]
    )
    others = {right for right in granted if right.group == "postgresql.cnpg.io"}
    unused = granted - guard.used - others - ON_CONFLICT - ON_LOSS
    assert unused == set()


def test_no_secret_can_be_read_but_the_key() -> None:
    for scope in ("Cluster", "Namespace"):
        objects = render({"scope": scope})
        for role in (obj for obj in objects if obj["kind"] in ("Role", "ClusterRole")):
            for rule in role["rules"]:
                if "secrets" in rule["resources"] and rule["verbs"] != ["create"]:
                    assert rule["verbs"] == ["get"]
                    assert rule["resourceNames"] == ["trialfleet-key"]
                assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}

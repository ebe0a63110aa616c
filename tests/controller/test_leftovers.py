"""What is left of a study after each way to delete it: as the storage's retention says."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tests.controller.conftest import Operator, database, namespace
from tests.controller.kube import wait_for
from tests.controller.standin.standin import StandIn
from tests.scenarios.env import Env

pytestmark = pytest.mark.scenario

TABLES = ("studies", "trials", "trial_params", "trial_values", "trialfleet_studies")


class Rows:
    """The rows of a database."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, poolclass=sa.NullPool)

    def counts(self) -> dict[str, int]:
        """Return how many rows each table has."""
        with self._engine.connect() as connection:
            return {
                table: connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()
                for table in TABLES
            }

    def trials(self, study: str) -> int:
        """Return how many trials of a study there are."""
        query = "SELECT count(*) FROM trials JOIN studies USING (study_id) WHERE study_name = :name"
        with self._engine.connect() as connection:
            return int(connection.execute(sa.text(query), {"name": study}).scalar_one())

    def wait_none(self) -> None:
        """Wait until no row is left."""
        wait_for("no row left", lambda: not any(self.counts().values()), 60)


@pytest.fixture
def own(standin: StandIn, operator: Operator, postgres_url: str) -> Iterator[tuple[Env, Rows]]:
    """A namespace with a storage that deletes, and its database."""
    with database(postgres_url) as url, namespace(standin, operator, url) as env:
        env.kube.patch("studystorages", "shared", {"spec": {"retention": "Delete"}})
        env.ready()
        yield env, Rows(url)


def run(env: Env, name: str, seconds: float = 0.05) -> None:
    env.study(name, budget={"trials": 2}, seconds=seconds)
    env.wait_condition(name, "Complete")


def delete(env: Env, name: str) -> None:
    env.kube.delete("studies", name)
    wait_for("gone", lambda: env.kube.find("studies", name) is None, 10)


def objects(env: Env, **labels: str) -> list[str]:
    """Return the objects with labels that are left."""
    resources = ("pods", "jobs", "configmaps", "secrets", "services", "statefulsets", "daemonsets")
    more = ("deployments", "networkpolicies", "persistentvolumeclaims")
    return [
        f"{resource}/{obj['metadata']['name']}"
        for resource in (*resources, *more)
        for obj in env.kube.list(resource, **labels)
    ]


def test_nothing_is_left_where_the_storage_deletes(own: tuple[Env, Rows]) -> None:
    env, rows = own
    # With the operator there: one that has ended, and one that runs.
    run(env, "ended")
    env.study("runs", budget={"trials": 500})
    env.wait_trials("runs", 2)
    assert rows.trials("ended") == 2 and rows.trials("runs") >= 2
    for name in ("ended", "runs"):
        delete(env, name)
    rows.wait_none()
    for name in ("ended", "runs"):
        env.wait_no_pods(name)
        assert objects(env, study=name) == []
    # While the operator is away: one is deleted, and one is made anew that is another.
    run(env, "away")
    run(env, "anew")
    env.stop_operator()
    for name in ("away", "anew"):
        delete(env, name)
    other = "def objective(trial): return trial.suggest_int('other', 0, 9)"
    env.study("anew", source=other, budget={"trials": 3})
    assert rows.trials("away") == 2
    env.start_operator()
    study = env.wait_condition("anew", "Complete")
    # Its own three, by a definition that would differ from its predecessor's.
    assert study["status"]["trials"]["complete"] == rows.trials("anew") == 3
    wait_for("the other one's trials deleted", lambda: not rows.trials("away"), 60)
    assert rows.trials("anew") == 3
    delete(env, "anew")
    rows.wait_none()
    assert objects(env, study="away") == objects(env, study="anew") == []


def test_trials_stay_where_the_storage_retains_and_are_another_storages(
    own: tuple[Env, Rows],
) -> None:
    env, rows = own
    env.kube.patch("studystorages", "shared", {"spec": {"retention": "Retain"}})
    run(env, "kept")
    env.stop_operator()
    delete(env, "kept")
    # A storage of the same database, that deletes, has no part in it.
    external = {"external": {"secretRef": {"name": "database"}}}
    env.storage("second", postgres=external, retention="Delete")
    env.start_operator()
    env.ready("second")
    env.study("its-own", budget={"trials": 2}, storage={"name": "second"})
    env.wait_condition("its-own", "Complete")
    delete(env, "its-own")
    wait_for("its trials deleted", lambda: not rows.trials("its-own"), 60)
    assert rows.trials("kept") == 2
    # What the first one retains goes once it is told to delete; the Study is gone by then.
    env.kube.patch("studystorages", "shared", {"spec": {"retention": "Delete"}})
    rows.wait_none()

"""Scenarios: the PostgreSQL that a storage runs itself."""

from tests.controller.kube import Object, condition, wait_for
from tests.scenarios.env import Env
from tests.scenarios.stuck import stalled


def restart(env: Env, storage: str) -> None:
    """Delete PostgreSQL's pod, and wait until another one serves."""
    (before,) = env.pods(storage, "postgres")
    env.kube.delete("pods", before["metadata"]["name"])

    def another() -> bool:
        pods = [
            pod
            for pod in env.pods(storage, "postgres")
            if pod["metadata"]["uid"] != before["metadata"]["uid"]
        ]
        return any(condition(pod, "Ready") for pod in pods)

    wait_for("another pod of PostgreSQL", another, env.patience_s)


def test_a_managed_database_keeps_its_trials_when_its_pod_is_another(env: Env) -> None:
    """Also when its role has another password than the Secret's, as with another operator's key."""
    env.storage("managed")
    env.ready("managed")
    env.study("stored", storage={"name": "managed"}, budget={"trials": 4})
    env.wait_condition("stored", "Complete")
    env.sql("managed", "ALTER ROLE trialfleet PASSWORD 'another'")
    restart(env, "managed")
    env.kube.patch("studies", "stored", {"spec": {"budget": {"trials": 8}}})
    wait_for("8 trials", lambda: env.status("stored")["progress"] == "8/8", env.patience_s)
    env.wait_condition("stored", "Complete")
    env.kube.delete("studies", "stored")
    env.kube.delete("studystorages", "managed")


def test_a_database_that_came_back_empty_is_told_and_waits_for_the_user(env: Env) -> None:
    """Whatever starts anew meanwhile makes no tables in it."""
    env.storage("emptied")
    env.ready("emptied")
    env.study("reset", storage={"name": "emptied"}, seconds=0.5, budget={"trials": 100})
    env.wait_trials("reset", 3)
    known = wait_for("its identity", lambda: _database(env, "emptied"), env.patience_s)
    env.sql("emptied", "DROP SCHEMA public CASCADE")
    env.sql("emptied", "CREATE SCHEMA public")
    lost = wait_for("DataLost", lambda: _lost(env, "emptied"), env.patience_s)
    before = env.status("reset")["trials"]
    for part in ("empty", known["identity"], "of 1 study", "acceptDataLoss"):
        assert part in lost
    stalled(env, "reset", "DataLost", known["identity"])
    assert "DataLost" in env.reasons("emptied")
    for pod in env.pods("emptied", "proxy"):
        env.kube.delete("pods", pod["metadata"]["name"])
    wait_for("another proxy", lambda: _proxies_run(env, "emptied"), env.patience_s)
    wait_for("DataLost", lambda: _lost(env, "emptied"), env.patience_s)
    assert env.status("reset")["trials"]["complete"] == before["complete"] >= 3
    patch = {"spec": {"acceptDataLoss": known["identity"]}}
    env.kube.patch("studystorages", "emptied", patch)
    env.ready("emptied")
    assert _database(env, "emptied")["identity"] != known["identity"]
    env.kube.patch("studies", "reset", {"spec": {"budget": {"trials": 4}}})
    study = env.wait_condition("reset", "Complete")
    assert study["status"]["progress"] == "4/4"
    env.kube.delete("studies", "reset")
    env.kube.delete("studystorages", "emptied")


def _database(env: Env, storage: str) -> Object:
    found: Object = env.kube.get("studystorages", storage).get("status", {}).get("database", {})
    return found


def _lost(env: Env, storage: str) -> str:
    found = condition(env.kube.get("studystorages", storage), "Stalled")
    return found["message"] if found is not None and found["reason"] == "DataLost" else ""


def _proxies_run(env: Env, storage: str) -> bool:
    pods = env.pods(storage, "proxy")
    return bool(pods) and all(
        pod.get("status", {}).get("phase") == "Running"
        and "deletionTimestamp" not in pod["metadata"]
        for pod in pods
    )

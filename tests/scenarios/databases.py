"""Scenarios: the PostgreSQL that a storage runs itself."""

from tests.controller.kube import condition, wait_for
from tests.scenarios.env import Env


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

"""Scenarios: dumps of a storage's database, and what is restored of them."""

import uuid
from typing import Any

from tests.controller.kube import Object, condition, wait_for
from tests.scenarios.env import Env
from trialfleet import names


def run(env: Env, cron_job: str) -> Object:
    """Make a Job of a CronJob, as ``kubectl create job --from`` does; return it when it is done."""
    template = env.kube.get("cronjobs", cron_job)["spec"]["jobTemplate"]
    name = f"{cron_job}-{uuid.uuid4().hex[:5]}"
    labels = template["metadata"]["labels"]
    env.kube.create(
        "jobs", {"metadata": {"name": name, "labels": labels}, "spec": template["spec"]}
    )

    def done() -> Object | None:
        job = env.kube.get("jobs", name)
        return job if condition(job, "Complete") or condition(job, "Failed") else None

    return wait_for(f"Job {name}", done, env.patience_s)


def storage_of(env: Env, name: str) -> Object:
    return env.kube.get("studystorages", name)


def database(env: Env, name: str) -> dict[str, Any]:
    found: dict[str, Any] = storage_of(env, name).get("status", {}).get("database", {})
    return found


def test_a_lost_database_is_restored(env: Env) -> None:
    """Trials that are newer than the dump are run again; all others are there."""
    name = "dumped"
    env.storage(name, backup={"schedule": "0 0 30 2 *", "volume": {"size": "1Gi"}})
    env.ready(name)
    env.study("kept", storage={"name": name}, budget={"trials": 4})
    env.wait_condition("kept", "Complete")
    assert condition(run(env, names.backup_name(name)), "Complete")
    wait_for("the time", lambda: storage_of(env, name)["status"].get("lastBackupTime"), 30)
    assert condition(storage_of(env, name), "BackedUp")
    env.kube.patch("studies", "kept", {"spec": {"budget": {"trials": 6}}})
    wait_for("6 trials", lambda: env.status("kept")["progress"] == "6/6", env.patience_s)
    env.wait_condition("kept", "Complete")
    known = database(env, name)
    env.sql(name, "DROP SCHEMA public CASCADE")
    env.sql(name, "CREATE SCHEMA public")
    for pod in env.pods(name, "proxy"):
        env.kube.delete("pods", pod["metadata"]["name"])

    def lost() -> bool:
        found = condition(storage_of(env, name), "Stalled")
        return found is not None and found["reason"] == "DataLost"

    wait_for("DataLost", lost, env.patience_s)
    assert env.kube.get("cronjobs", names.backup_name(name))["spec"]["suspend"]
    # Nothing is dumped of an empty database, and that is told.
    assert condition(run(env, names.backup_name(name)), "Failed")
    wait_for("an Event", lambda: "BackupFailed" in env.reasons(name), env.patience_s)
    assert condition(run(env, names.restore_name(name)), "Complete")
    env.ready(name)
    assert database(env, name)["identity"] == known["identity"]
    env.kube.patch("studies", "kept", {"spec": {"budget": {"trials": 8}}})
    wait_for("8 trials", lambda: env.status("kept")["progress"] == "8/8", env.patience_s)
    study = env.wait_condition("kept", "Complete")
    assert study["status"]["trials"]["complete"] == 8
    env.kube.delete("studies", "kept")
    env.kube.delete("studystorages", name)

"""Scenarios: a storage that no study needs sleeps, and wakes; what is left of a deleted one."""

import json
import os
import subprocess
import sys
from typing import Any

from tests.controller.kube import condition, wait_for
from tests.scenarios.env import Env
from trialfleet import names


def phase(env: Env, storage: str) -> str:
    return str(env.kube.get("studystorages", storage).get("status", {}).get("phase", ""))


def pods(env: Env, storage: str) -> list[str]:
    """Return the names of the pods of PostgreSQL and the proxies."""
    both = (*env.pods(storage, "postgres"), *env.pods(storage, "proxy"))
    return [pod["metadata"]["name"] for pod in both]


def wait_asleep(env: Env, storage: str) -> None:
    wait_for("asleep", lambda: phase(env, storage) == "Asleep", env.patience_s)
    wait_for("no pod left", lambda: not pods(env, storage), env.patience_s)


def command(env: Env, *arguments: str) -> str:
    """Run ``trialfleet storage`` as a user; return what it wrote."""
    done = subprocess.run(
        [sys.executable, "-m", "trialfleet.cli.main", "storage", *arguments],
        env={**os.environ, "KUBECONFIG": str(env.kube.kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(env: Env) -> dict[str, Any]:
    """Return what ``trialfleet storage list`` says, by the storage's name."""
    told = command(env, "list", "--namespace", env.kube.namespace, "--output", "json")
    return {row["storage"]: row for row in json.loads(told)}


def test_a_storage_sleeps_when_its_study_has_ended_and_wakes_when_it_is_needed(env: Env) -> None:
    env.storage("lazy", idle={"after": "2s"})
    env.study("rested", storage={"name": "lazy"}, budget={"trials": 4})
    env.wait_condition("rested", "Complete")
    wait_asleep(env, "lazy")
    storage = env.kube.get("studystorages", "lazy")
    assert condition(storage, "Asleep") and not condition(storage, "Stalled")
    assert env.status("rested")["phase"] == "Complete"
    assert not condition(env.kube.get("studies", "rested"), "Stalled")
    # A larger budget.
    env.kube.patch("studies", "rested", {"spec": {"budget": {"trials": 8}}})
    wait_for("8 trials", lambda: env.status("rested")["progress"] == "8/8", env.patience_s)
    assert not condition(env.kube.get("studystorages", "lazy"), "Stalled")
    env.wait_condition("rested", "Complete")
    wait_asleep(env, "lazy")
    # A new study.
    env.study("awoken", storage={"name": "lazy"}, budget={"trials": 2})
    env.wait_condition("awoken", "Complete")
    wait_asleep(env, "lazy")
    # A user who wants to look at the trials.
    row = listed(env)["lazy"]
    assert (row["phase"], row["studies"], row["trials"]) == ("Asleep", 2, 10)
    env.kube.patch("studystorages", "lazy", {"spec": {"idle": {"after": "30s"}}})
    command(env, "wake", "lazy", "--namespace", env.kube.namespace)
    assert phase(env, "lazy") == "Ready"
    assert {"Asleep", "Awake"} <= set(env.reasons("lazy"))
    env.kube.delete("studies", "rested")
    env.kube.delete("studies", "awoken")
    env.kube.delete("studystorages", "lazy")


def test_a_volume_that_is_left_is_named(env: Env) -> None:
    env.storage("left", retention="Retain")
    env.ready("left")
    env.study("behind", storage={"name": "left"}, budget={"trials": 3})
    env.wait_condition("behind", "Complete")
    env.kube.delete("studies", "behind")
    wait_for("gone", lambda: env.kube.find("studies", "behind") is None, env.patience_s)
    env.kube.delete("studystorages", "left")
    claim = names.postgres_claim("left")

    def told() -> str:
        for one in env.kube.list("events"):
            if one["reason"] == "VolumeKept" and one["involvedObject"]["name"] == "left":
                return str(one["message"])
        return ""

    assert f"kubectl delete pvc {claim}" in wait_for("an Event", told, env.patience_s)
    row = listed(env)["left"]
    assert (row["phase"], row["volume"]) == ("Deleted", claim)
    env.kube.delete("persistentvolumeclaims", claim)

"""Scenarios: workers die, children are deleted, the operator is away."""

import time

import pytest

from tests.controller.kube import condition, wait_for
from tests.scenarios.env import Env

SPREAD = {
    "podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {
                "weight": 100,
                "podAffinityTerm": {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": {"trialfleet.dev/component": "worker"}},
                },
            }
        ]
    }
}
"""Of pods: workers on all nodes, as long as there are several."""

CRASH_ONCE = """
import os, pathlib, time
def objective(trial):
    x = trial.suggest_float("x", -1, 1)
    if trial.number == 2:
        {crash}
    time.sleep(0.1)
    return x * x
"""


def test_an_evicted_workers_trial_is_run_again(env: Env) -> None:
    env.study("evicted", seconds=2.0, budget={"trials": 8})
    pods = env.running_workers("evicted", 2)
    env.wait_trials("evicted", 1)
    env.evict(pods[0])
    study = env.wait_condition("evicted", "Complete")
    trials = study["status"]["trials"]
    assert trials["complete"] == 8
    assert trials["failed"] == 0


def test_a_killed_workers_trial_is_lost_and_run_again_soon(env: Env) -> None:
    env.study("killed", seconds=3.0, budget={"trials": 6})
    env.running_workers("killed", 2)
    wait_for("running", lambda: env.status("killed")["trials"]["running"] == 2, env.patience_s)
    pod = env.workers("killed")[0]["metadata"]["name"]
    env.kill(pod)
    killed = time.monotonic()
    wait_for("lost", lambda: env.status("killed")["trials"]["lost"] == 1, env.patience_s)
    assert time.monotonic() - killed < 10
    study = env.wait_condition("killed", "Complete")
    assert study["status"]["trials"]["complete"] == 6
    assert sum(study["status"]["lostReasons"].values()) == 1
    assert "TrialLost" in env.reasons("killed")


def test_a_crash_of_the_objective_counts_as_failed(env: Env) -> None:
    env.study("crashed", source=CRASH_ONCE.format(crash="os.abort()"), budget={"trials": 6})
    study = env.wait_condition("crashed", "Complete")
    trials = study["status"]["trials"]
    assert (trials["complete"], trials["failed"], trials["lost"]) == (5, 1, 0)
    wait_for("an Event", lambda: "TrialFailed" in env.reasons("crashed"), env.patience_s)


def test_an_exit_of_the_objective_counts_as_failed(env: Env) -> None:
    env.study("left", source=CRASH_ONCE.format(crash="os._exit(9)"), budget={"trials": 6})
    study = env.wait_condition("left", "Complete")
    trials = study["status"]["trials"]
    assert (trials["complete"], trials["failed"], trials["lost"]) == (5, 1, 0)


CRASH_EVERY_THIRD = """
import ctypes, os
def objective(trial):
    x = trial.suggest_float("x", -1, 1)
    if trial.number % 3 == 2:
        {crash}
    return x * x
"""


@pytest.mark.parametrize(
    ("name", "crash"),
    [("segfaults", "ctypes.string_at(0)"), ("exits", "os._exit(9)")],
)
def test_trials_that_crash_throttle_nothing(env: Env, name: str, crash: str) -> None:
    env.study(name, source=CRASH_EVERY_THIRD.format(crash=crash), budget={"trials": 40})
    # Thirteen pods, two at a time, and no pause between them.
    wait_for(
        f"study {name}: Complete",
        lambda: condition(env.kube.get("studies", name), "Complete"),
        13 * env.pod_start_s,
    )
    trials = env.status(name)["trials"]
    assert (trials["complete"], trials["failed"], trials["lost"]) == (27, 13, 0)
    env.wait_no_pods(name)
    wait_for("an Event", lambda: "TrialFailed" in env.reasons(name), 10)
    assert env.reasons(name).count("TrialFailed") == 1


def test_a_crash_beside_a_sidecar_is_replaced(env: Env) -> None:
    image = {} if env.image is None else {"image": env.image}
    sidecar = {
        "name": "sidecar",
        "command": ["python3", "-c", "import time; time.sleep(600)"],
        **image,
    }
    env.study(
        "accompanied",
        source=CRASH_ONCE.format(crash="os.abort()"),
        budget={"trials": 12},
        template={"spec": {"containers": [{"name": "worker"}, sidecar]}},
    )
    study = env.wait_condition("accompanied", "Complete")
    assert (study["status"]["trials"]["complete"], study["status"]["trials"]["failed"]) == (11, 1)
    env.wait_no_pods("accompanied")


def test_workers_of_a_lost_node_are_replaced_within_a_minute(own_env: Env) -> None:
    own_env.study(
        "bereft",
        seconds=1.0,
        budget={"trials": 10_000},
        parallelism=4,
        template={"spec": {"affinity": SPREAD, "containers": [{"name": "worker"}]}},
    )
    own_env.running_workers("bereft", 4)
    database = set(own_env.pods_by_node(component="postgres"))
    lost = next(node for node in own_env.pods_by_node(study="bereft") if node not in database)
    own_env.lose_node(lost)

    def short() -> bool:
        workers = own_env.status("bereft")["workers"]
        return bool(workers["ready"] < workers["desired"])

    wait_for("the loss is known", short, 120)
    began = time.monotonic()
    wait_for("all are back", lambda: not short(), 60)
    assert time.monotonic() - began < 60
    there = [
        pod
        for node, pods in own_env.pods_by_node(study="bereft").items()
        if node != lost
        for pod in pods
    ]
    assert len(there) == 4
    told = {"NodeLost", "WorkerSilent"}
    wait_for("an Event", lambda: told & set(own_env.reasons("bereft")), 10)


def test_deleted_children_come_back(own_env: Env) -> None:
    own_env.study("healed", seconds=0.5, budget={"trials": 40})
    own_env.wait_trials("healed", 1)
    (job,) = own_env.kube.list("jobs", study="healed", component="worker")
    uids = {}
    for resource, name in (
        ("configmaps", "healed-tf-study"),
        ("services", "shared-tf-proxy"),
        ("services", "shared-tf-node"),
        ("daemonsets", "shared-tf-proxy"),
        ("networkpolicies", "shared-tf-proxy"),
        ("jobs", job["metadata"]["name"]),
    ):
        uids[resource, name] = own_env.kube.get(resource, name)["metadata"]["uid"]
        own_env.kube.delete(resource, name, propagationPolicy="Background")
    for (resource, name), uid in uids.items():
        if resource == "jobs":
            continue

        def back(resource: str = resource, name: str = name, uid: str = uid) -> bool:
            found = own_env.kube.find(resource, name)
            return found is not None and found["metadata"]["uid"] != uid

        wait_for(f"{resource}/{name} back", back, own_env.patience_s)
    study = own_env.wait_condition("healed", "Complete")
    assert study["status"]["trials"]["complete"] == 40


def test_edited_children_are_mended(own_env: Env) -> None:
    own_env.study("edited", seconds=0.5, budget={"trials": 200})
    own_env.running_workers("edited", 2)
    (job,) = own_env.kube.list("jobs", study="edited", component="worker")
    own_env.kube.patch("jobs", job["metadata"]["name"], {"spec": {"parallelism": 5}})
    own_env.kube.patch("services", "shared-tf-proxy", {"spec": {"selector": {"nothing": "at-all"}}})
    wait_for(
        "the Job mended",
        lambda: own_env.kube.get("jobs", job["metadata"]["name"])["spec"]["parallelism"] == 2,
        own_env.patience_s,
    )
    wait_for(
        "the Service mended",
        lambda: (
            "nothing" not in own_env.kube.get("services", "shared-tf-proxy")["spec"]["selector"]
        ),
        own_env.patience_s,
    )


def test_workers_need_no_operator(env: Env) -> None:
    env.study("alone", seconds=0.2, budget={"trials": 30})
    env.wait_trials("alone", 2)
    env.stop_operator()
    try:
        wait_for(
            "workers end by themselves",
            lambda: all(
                pod["status"].get("phase") == "Succeeded"
                for pod in env.kube.list("pods", study="alone", component="worker")
            ),
            env.patience_s,
        )
    finally:
        env.start_operator()
    study = env.wait_condition("alone", "Complete")
    assert study["status"]["trials"]["complete"] == 30
    assert study["status"]["trials"]["lost"] == 0


def test_the_database_gone_stalls_and_deletes_all_the_same(own_env: Env) -> None:
    own_env.study("orphan", seconds=0.2, budget={"trials": 100_000})
    own_env.running_workers("orphan", 2)
    own_env.lose_database()
    study = own_env.wait_condition("orphan", "Stalled")
    reasons = {one["type"]: one["reason"] for one in study["status"]["conditions"]}
    # On a cluster it is a quota that keeps it from coming back.
    assert reasons["Stalled"] in ("StorageUnavailable", "QuotaExceeded")
    own_env.kube.delete("studies", "orphan")
    wait_for("gone", lambda: own_env.kube.find("studies", "orphan") is None, own_env.patience_s)
    own_env.wait_no_pods("orphan")

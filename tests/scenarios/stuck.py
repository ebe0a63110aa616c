"""Scenarios: a study that can't go on says why, within 30 s."""

import pytest

from tests.controller.kube import condition, wait_for
from tests.scenarios.env import Env

WITHIN_S = 30.0


def stalled(env: Env, name: str, reason: str, *words: str) -> None:
    """Wait until a study's condition and an Event say why it can't go on."""

    def look() -> str | None:
        found = condition(env.kube.get("studies", name), "Stalled")
        return found["message"] if found is not None and found["reason"] == reason else None

    told = wait_for(f"study {name} stalled: {reason}", look, WITHIN_S)
    for word in words:
        assert word in told
    wait_for("an Event", lambda: reason in env.reasons(name), 5)


def test_a_storage_that_is_not_there(env: Env) -> None:
    env.study("nowhere", storage={"name": "missing"})
    stalled(env, "nowhere", "StorageMissing", "'missing'")


def test_an_objective_that_can_not_be_imported(env: Env) -> None:
    env.study("unimportable", source="import nothing_like_that\ndef objective(trial): return 1\n")
    stalled(env, "unimportable", "ObjectiveImportFailed", "No module named 'nothing_like_that'")
    assert condition(env.kube.get("studies", "unimportable"), "Failed")
    assert env.status("unimportable")["phase"] == "Failed"


def test_a_config_map_that_is_not_there(env: Env) -> None:
    source = {"python": {"configMap": {"name": "absent", "key": "objective.py"}}}
    env.study("unconfigured", objective=source)
    stalled(env, "unconfigured", "ConfigMissing", "'absent'")
    text = "def objective(trial):\n    return trial.suggest_float('x', 0, 1)\n"
    env.kube.create("configmaps", {"metadata": {"name": "absent"}, "data": {"objective.py": text}})
    study = env.wait_condition("unconfigured", "Complete")
    assert not condition(study, "Stalled")


def test_an_image_without_a_worker(env: Env) -> None:
    container = {"name": "worker", "command": ["/no/such/trialfleet"]}
    env.study("hollow", template={"spec": {"containers": [container]}})
    stalled(env, "hollow", "StartFailed", "worker: ", "the image has no trialfleet")
    assert env.status("hollow")["phase"] == "Stalled"
    assert "trialfleet" in env.status("hollow")["message"]


def test_an_init_container_that_fails(env: Env) -> None:
    image = {} if env.image is None else {"image": env.image}
    fetch = {
        "name": "fetch",
        "command": ["python3", "-c", "raise SystemExit('no data set')"],
        **image,
    }
    pod = {"initContainers": [fetch], "containers": [{"name": "worker"}]}
    env.study("unfetched", template={"spec": pod})
    stalled(env, "unfetched", "StartFailed", "'fetch' ended with exit code 1", "no data set")


def test_a_worker_that_crashes_before_its_first_trial(env: Env) -> None:
    env.study("early", source="import os\nos.abort()\n")
    # abort() of a container's first process ends by another signal: the first one is ignored.
    stalled(env, "early", "CrashLoop", "ended before its first trial", "SIG")


def test_points_from_a_config_map_that_is_not_there(env: Env) -> None:
    env.study("pointless", trialsFrom={"configMap": {"name": "no-points", "key": "x.json"}})
    stalled(env, "pointless", "ConfigMissing", "no-points")


def test_a_quota(env: Env) -> None:
    env.ready()
    env.refuse_pods(True)
    try:
        env.study("poor")
        stalled(env, "poor", "QuotaExceeded", "exceeded quota")
    finally:
        env.refuse_pods(False)


@pytest.mark.parametrize("directions", [("minimize", "maximize")])
def test_a_study_that_the_storage_knows_otherwise(env: Env, directions: tuple[str, str]) -> None:
    env.study("turned", budget={"trials": 2})
    env.wait_condition("turned", "Complete")
    env.kube.delete("studies", "turned")
    wait_for("gone", lambda: env.kube.find("studies", "turned") is None, env.patience_s)
    env.study("turned", objectives=[{"name": "loss", "direction": directions[1]}])
    stalled(env, "turned", "StorageRefused")

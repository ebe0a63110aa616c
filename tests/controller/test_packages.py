"""Packages of an objective, with the real operator, the real pip and real workers."""

from pathlib import Path

import pytest

from tests.scenarios.env import Env
from tests.scenarios.stuck import stalled
from tests.wheels import environment, write_wheel

pytestmark = pytest.mark.scenario

SOURCE = """
import tfa
def objective(trial):
    return trial.suggest_float("x", -1, 1) + float(tfa.VERSION)
"""


def install(env: Env, name: str, wheels: Path, *packages: str) -> None:
    variables = [
        {"name": key, "value": text} for key, text in environment(wheels).items()
    ]  # as a study names an index of its own
    env.study(
        name,
        budget={"trials": 4},
        objective={"python": {"source": SOURCE, "packages": list(packages)}},
        template={"spec": {"containers": [{"name": "worker", "env": variables}]}},
    )


def test_they_are_there_before_the_first_trial(env: Env, tmp_path: Path) -> None:
    write_wheel(tmp_path, "tfa", "5.0")
    install(env, "installing", tmp_path, "tfa==5.*")
    trials = env.wait_condition("installing", "Complete")["status"]["trials"]
    assert (trials["complete"], trials["failed"]) == (4, 0)


def test_what_is_missing_is_told_and_tried_again(env: Env, tmp_path: Path) -> None:
    install(env, "missing", tmp_path, "tfa")
    stalled(env, "missing", "PackagesFailed", "No matching distribution found for tfa")
    assert env.status("missing").get("trials", {}).get("complete", 0) == 0
    write_wheel(tmp_path, "tfa", "5.0")
    study = env.wait_condition("missing", "Complete")
    assert study["status"]["trials"]["failed"] == 0


def test_a_conflict_fails_the_study_at_once(env: Env, tmp_path: Path) -> None:
    install(env, "conflict", tmp_path, "numpy<1")
    study = env.wait_condition("conflict", "Failed")
    (failed,) = (one for one in study["status"]["conditions"] if one["type"] == "Failed")
    assert failed["reason"] == "PackagesFailed"
    assert failed["message"].startswith(
        "spec.objective.python.packages[0]: found 'numpy<1', but Trialfleet runs with numpy "
    )

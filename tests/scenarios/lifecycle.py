"""Scenarios: a study from its manifest to its end, and what people do to it on the way."""

import json
from collections.abc import Mapping
from typing import Any

from tests.controller.kube import KubeError, condition, wait_for
from tests.scenarios.env import Env
from trialfleet import names


def test_a_study_completes_and_leaves_nothing_but_its_storage(env: Env) -> None:
    env.study("plain")
    study = env.wait_condition("plain", "Complete")
    status = study["status"]
    assert condition(study, "Complete")["reason"] == "TrialsComplete"  # type: ignore[index]
    assert status["phase"] == "Complete"
    assert status["progress"] == "12/12"
    assert status["trials"]["complete"] == 12
    assert status["trials"]["running"] == status["trials"]["lost"] == 0
    assert status["best"][0]["values"]["loss"] == float(f"{status['best'][0]['values']['loss']}")
    assert float(status["bestValue"]) >= 0
    assert status["storage"] == "shared"
    assert status["startTime"] <= status["completionTime"]
    assert status["observedGeneration"] == study["metadata"]["generation"]
    env.wait_no_pods("plain")
    assert env.kube.list("jobs", study="plain") == []
    wait_for("Events", lambda: {"Started", "Complete"} <= set(env.reasons("plain")), 10)
    assert len(json.dumps(study)) < 16 * 1024
    assert env.warnings("plain", "shared") == []


def test_workers_are_there_before_their_storage(env: Env) -> None:
    """They are scheduled, pulled and imported while the database comes up."""
    storage = {
        "apiVersion": names.API_VERSION,
        "kind": "StudyStorage",
        "metadata": {"name": "late"},
        "spec": {"postgres": {"managed": {"emptyDir": {}}}, "security": env.security},
    }
    env.kube.create("studystorages", storage)
    env.study("ahead", storage={"name": "late"})
    before = wait_for("workers", lambda: env.workers("ahead"), env.patience_s)
    assert not condition(env.kube.get("studystorages", "late"), "Ready")
    study = env.wait_condition("ahead", "Complete")
    assert study["status"]["trials"]["complete"] == 12
    assert study["status"]["trials"]["lost"] == study["status"]["trials"]["failed"] == 0
    assert env.warnings("ahead", "late", *(pod["metadata"]["name"] for pod in before)) == []
    env.kube.delete("studies", "ahead")
    env.wait_no_pods("ahead")
    env.kube.delete("studystorages", "late")


def test_a_study_begins_with_the_trials_of_another(env: Env) -> None:
    env.study("first", budget={"trials": 6})
    env.wait_condition("first", "Complete")
    env.study("second", warmStart=[{"study": "first"}], budget={"trials": 4})
    study = env.wait_condition("second", "Complete")
    assert study["status"]["trials"]["complete"] == 4
    assert study["status"]["progress"] == "4/4"

    def told() -> bool:
        return any(
            "after 6 finished ones of other studies were taken over" in event["message"]
            for event in env.kube.list("events")
            if event["involvedObject"]["name"] == "second"
        )

    wait_for("an Event", told, 10)
    env.study("third", warmStart=[{"study": "none"}])
    study = env.wait_condition("third", "Stalled")
    assert "warmStart[0].study: found 'none', which" in study["status"]["message"]
    env.kube.delete("studies", "third")
    env.wait_no_pods("third")


def test_a_goal_ends_a_study(env: Env) -> None:
    env.study(
        "goal",
        objectives=[{"name": "loss", "direction": "minimize", "goal": 0.5}],
        budget={"trials": 500},
    )
    study = env.wait_condition("goal", "Complete")
    assert condition(study, "Complete")["reason"] == names.ENDED_GOAL  # type: ignore[index]
    assert float(study["status"]["bestValue"]) <= 0.5


def test_a_timeout_ends_a_study(env: Env) -> None:
    env.study("late", budget={"timeout": "2s"})
    study = env.wait_condition("late", "Complete")
    assert condition(study, "Complete")["reason"] == names.ENDED_TIMEOUT  # type: ignore[index]


def test_trials_that_improve_nothing_end_a_study(env: Env) -> None:
    env.study(
        "settled",
        source="def objective(trial):\n    return float(max(0, 5 - trial.number))\n",
        budget={"patience": {"trials": 7}},
    )
    study = env.wait_condition("settled", "Complete")
    assert condition(study, "Complete")["reason"] == names.ENDED_PATIENCE  # type: ignore[index]
    assert float(study["status"]["bestValue"]) == 0
    # Trial 5 or one of its equals, whichever ended first, was the last one to improve something.
    assert study["status"]["trials"]["complete"] == study["status"]["best"][0]["number"] + 1 + 7


def test_too_many_failed_trials_fail_a_study(env: Env) -> None:
    env.study(
        "bad",
        source="def objective(trial):\n    raise ValueError('no')\n",
        budget={"trials": 100, "failedTrials": 4},
    )
    study = env.wait_condition("bad", "Failed")
    failed = condition(study, "Failed")
    assert failed is not None and failed["reason"] == names.ENDED_FAILED_TRIALS
    assert study["status"]["phase"] == "Failed"
    assert study["status"]["trials"]["failed"] >= 4
    assert study["status"]["failedReasons"] == {
        names.REASON_OBJECTIVE_RAISED: study["status"]["trials"]["failed"]
    }
    for text in (failed["message"], study["status"]["lastFailure"], study["status"]["message"]):
        assert "ValueError: no" in text
    env.wait_no_pods("bad")
    wait_for("an Event", lambda: "TrialFailed" in env.reasons("bad"), 10)
    assert env.reasons("bad").count("TrialFailed") == 1


def test_a_budget_that_failures_alone_used_up_is_a_failure(env: Env) -> None:
    command = {
        "args": ["python3", "-c", "raise SystemExit('no data set')"],
        "metrics": {"loss": {"regex": r"loss=(\S+)"}},
    }
    space = {"x": {"float": {"low": 0, "high": 1}}}
    objective = {"command": command}
    env.study("vain", objective=objective, searchSpace=space, budget={"trials": 6})
    study = env.wait_condition("vain", "Failed")
    failed = condition(study, "Failed")
    assert failed is not None and failed["reason"] == "NoTrialCompleted"
    assert "none of 6 trials has completed" in failed["message"]
    assert "no data set" in study["status"]["lastFailure"]
    assert not condition(study, "Complete")
    wait_for("an Event", lambda: "TrialFailed" in env.reasons("vain"), 10)


def test_parallelism_changes_live_and_leaving_workers_lose_nothing(env: Env) -> None:
    env.study("scaled", seconds=0.3, budget={"trials": 60}, parallelism=1)
    env.running_workers("scaled", 1)
    env.kube.patch("studies", "scaled", {"spec": {"replicas": 4}}, "scale")
    env.running_workers("scaled", 4)
    env.kube.patch("studies", "scaled", {"spec": {"replicas": 1}}, "scale")
    wait_for("one worker", lambda: len(env.workers("scaled")) == 1, env.patience_s)
    study = env.wait_condition("scaled", "Complete")
    assert study["status"]["trials"]["complete"] == 60
    assert study["status"]["trials"]["lost"] == 0


def test_a_suspended_study_has_no_workers_and_goes_on_with_its_history(env: Env) -> None:
    env.study("paused", seconds=0.3, budget={"trials": 30})
    env.wait_trials("paused", 3)
    env.kube.patch("studies", "paused", {"spec": {"suspend": True}})
    env.wait_condition("paused", "Suspended")
    env.wait_no_pods("paused")
    before = env.status("paused")["trials"]["complete"]
    assert 3 <= before < 30
    env.kube.patch("studies", "paused", {"spec": {"suspend": False}})
    study = env.wait_condition("paused", "Complete")
    assert study["status"]["trials"]["complete"] == 30
    assert study["status"]["trials"]["lost"] == 0
    assert {"Suspended", "Resumed"} <= set(env.reasons("paused"))


def test_a_larger_budget_goes_on_with_a_finished_study(env: Env) -> None:
    env.study("more", budget={"trials": 6})
    env.wait_condition("more", "Complete")
    env.kube.patch("studies", "more", {"spec": {"budget": {"trials": 15}}})
    wait_for(
        "15 trials",
        lambda: (
            env.status("more")["progress"] == "15/15" and env.status("more")["phase"] == "Complete"
        ),
        env.patience_s,
    )
    assert env.status("more")["trials"]["complete"] == 15


def test_points_to_run_first_are_run_first(env: Env) -> None:
    points = [{"x": 0.25}, {"x": -0.5}]
    env.kube.create(
        "configmaps",
        {"metadata": {"name": "points"}, "data": {"hparams.json": json.dumps(points)}},
    )
    env.study(
        "points",
        budget={"trials": 2},
        parallelism=1,
        trialsFrom={"configMap": {"name": "points", "key": "hparams.json"}},
    )
    study = env.wait_condition("points", "Complete")
    assert study["status"]["best"][0]["params"] == {"x": 0.25}


def test_prepare_runs_before_and_collate_sees_the_results(env: Env) -> None:
    image = {} if env.image is None else {"image": env.image}
    env.study(
        "framed",
        budget={"trials": 3},
        prepare={
            "spec": {
                "containers": [
                    {
                        "name": "prepare",
                        "command": [
                            "python3",
                            "-c",
                            "import os; print(os.environ['TRIALFLEET_STUDY'])",
                        ],
                        **image,
                    }
                ]
            }
        },
        collate={
            "spec": {
                "containers": [
                    {
                        "name": "collate",
                        "command": ["python3", "-c", _COLLATE],
                        **image,
                    }
                ]
            }
        },
    )
    study = env.wait_condition("framed", "Complete")
    assert condition(study, "Prepared")
    assert condition(study, "Collated")
    env.wait_no_pods("framed")


_PREPARE = "import os; print(os.environ['TRIALFLEET_STUDY'])"

_COLLATE = """
import csv, json, os, pathlib
folder = pathlib.Path(os.environ["TRIALFLEET_RESULTS"])
trials = json.loads((folder / "trials.json").read_text())
rows = list(csv.DictReader((folder / "trials.csv").open()))
assert len(trials) == len(rows) == 3, (trials, rows)
"""


def test_a_failing_prepare_fails_the_study_with_its_words(env: Env) -> None:
    image = {} if env.image is None else {"image": env.image}
    command = ["python3", "-c", "raise SystemExit('no data set')"]
    env.study(
        "unprepared",
        prepare={
            "spec": {"containers": [{"name": "prepare", "command": command, **image}]},
        },
    )
    study = env.wait_condition("unprepared", "Failed")
    failed = condition(study, "Failed")
    assert failed is not None and failed["reason"] == "PrepareFailed"
    assert "no data set" in failed["message"]


def test_an_ended_study_is_deleted_after_its_time_to_live(env: Env) -> None:
    env.study("brief", budget={"trials": 2}, ttlSecondsAfterFinished=2)
    wait_for("gone", lambda: env.kube.find("studies", "brief") is None, env.patience_s)


def test_a_deleted_study_takes_everything_with_it(env: Env) -> None:
    env.study("dropped", seconds=0.2, budget={"trials": 1000})
    env.running_workers("dropped", 2)
    env.kube.delete("studies", "dropped")
    wait_for("gone", lambda: env.kube.find("studies", "dropped") is None, env.patience_s)
    env.wait_no_pods("dropped")
    for resource in ("jobs", "configmaps"):
        assert env.kube.list(resource, study="dropped") == []


def test_trials_stay_or_go_with_a_study_as_the_storage_says(env: Env) -> None:
    # What is the default comes last: later tests may use the same storage.
    for retention, kept in (("Delete", 0), ("Retain", 3)):
        env.kube.patch("studystorages", "shared", {"spec": {"retention": retention}})
        env.study("kept", budget={"trials": 3})
        env.wait_condition("kept", "Complete")
        env.kube.delete("studies", "kept")
        wait_for("gone", lambda: env.kube.find("studies", "kept") is None, env.patience_s)

        def found(kept: int = kept) -> bool:
            env.study("kept", parallelism=0, budget={"trials": 100})
            wait_for("trials", lambda: "trials" in env.status("kept"), env.patience_s)
            complete = env.status("kept")["trials"]["complete"]
            env.kube.delete("studies", "kept")
            wait_for("gone", lambda: env.kube.find("studies", "kept") is None, env.patience_s)
            return bool(complete == kept)

        wait_for(f"{kept} trials kept", found, env.patience_s)


def test_what_the_cluster_can_not_check_is_told(env: Env) -> None:
    try:
        env.study("wrong", sampler={"name": "TPESampler", "options": {"sed": 7}})
    except KubeError:
        return
    study = env.wait_condition("wrong", "Failed")
    failed = condition(study, "Failed")
    assert failed is not None and failed["reason"] == "InvalidSpec"
    assert "spec.sampler.options.sed" in failed["message"]


def test_workers_of_a_running_study_follow_its_template(env: Env) -> None:
    source = (
        "import os, time\n"
        "def objective(trial):\n"
        "    time.sleep(0.3)\n"
        "    trial.set_user_attr('version', os.environ.get('VERSION', '1'))\n"
        "    return trial.suggest_float('x', -1, 1)\n"
    )

    def template(**worker: Any) -> Mapping[str, Any]:
        return {"spec": {"containers": [{"name": "worker", **worker}]}}

    env.study("follows", source=source, budget={"trials": 9000}, parallelism=4)
    env.running_workers("follows", 4)
    first = {pod["metadata"]["name"] for pod in env.workers("follows")}
    new = template(env=[{"name": "VERSION", "value": "2"}])
    env.kube.patch("studies", "follows", {"spec": {"template": new}})

    def replaced() -> bool:
        names_now = {pod["metadata"]["name"] for pod in env.workers("follows")}
        return len(names_now) == 4 and not names_now & first

    wait_for("other workers", replaced, env.patience_s)
    wait_for("an Event", lambda: "WorkersReplaced" in env.reasons("follows"), env.patience_s)
    second = {pod["metadata"]["name"] for pod in env.workers("follows")}
    # One that can't start: it is told, and the others go on.
    broken = template(command=["/no/such/trialfleet"])
    env.kube.patch("studies", "follows", {"spec": {"template": broken}})
    study = env.wait_condition("follows", "Stalled")
    assert study["status"]["phase"] == "Running"
    still = {pod["metadata"]["name"] for pod in env.workers("follows")}
    assert len(still & second) >= 3
    env.kube.patch("studies", "follows", {"spec": {"template": new}})
    wait_for("all well", lambda: not condition(env.kube.get("studies", "follows"), "Stalled"), 60)
    env.kube.patch("studies", "follows", {"spec": {"budget": {"trials": 10}}})
    study = env.wait_condition("follows", "Complete")
    assert study["status"]["trials"]["lost"] == study["status"]["trials"]["failed"] == 0

"""Scenarios: a study that is deleted and made anew, with the trials of the earlier one there."""

from tests.controller.kube import wait_for
from tests.scenarios.env import Env
from tests.scenarios.stuck import stalled

OTHER = """
def objective(trial):
    return 1000 + trial.suggest_float("x", -1, 1) ** 2
"""


def delete(env: Env, name: str) -> None:
    """Delete a study, and wait until it is gone."""
    env.kube.delete("studies", name)
    wait_for("gone", lambda: env.kube.find("studies", name) is None, env.patience_s)
    env.wait_no_pods(name)


def test_made_anew_as_it_was_it_goes_on_and_says_so(env: Env) -> None:
    """Budget, sampler and parallelism may be others."""
    env.study("same", budget={"trials": 3})
    env.wait_condition("same", "Complete")
    delete(env, "same")
    env.study("same", budget={"trials": 5}, parallelism=1, sampler={"name": "TPESampler"})
    study = env.wait_condition("same", "Complete")
    assert study["status"]["trials"]["complete"] == 5
    events = [
        one["message"]
        for one in env.kube.list("events")
        if one["involvedObject"]["name"] == "same" and one["reason"] == "TrialsTakenOver"
    ]
    assert events == [
        "goes on with 3 trials of an earlier study of this name, of the same definition"
    ]


def test_made_anew_with_another_objective_it_does_not_show_the_old_ones_results(env: Env) -> None:
    env.study("other", budget={"trials": 3})
    env.wait_condition("other", "Complete")
    delete(env, "other")
    env.study("other", OTHER, budget={"trials": 3})
    stalled(
        env,
        "other",
        "DefinitionDiffers",
        "3 trials of a study 'other' of another objective",
        "spec.adopt",
        "another name",
        "delete the trials",
    )
    status = env.status("other")
    assert status["phase"] == "Stalled"
    assert not {"best", "bestValue", "progress"} & status.keys()
    assert not env.kube.list("jobs", study="other")
    # One way out: to say that they count.
    env.kube.patch("studies", "other", {"spec": {"adopt": True, "budget": {"trials": 5}}})
    study = env.wait_condition("other", "Complete")
    assert study["status"]["progress"] == "5/5"
    assert study["status"]["best"][0]["values"]["loss"] < 1000
    assert "TrialsTakenOver" in env.reasons("other")
    # The other: another name.
    env.study("another", OTHER, budget={"trials": 3})
    study = env.wait_condition("another", "Complete")
    assert study["status"]["best"][0]["values"]["loss"] >= 1000


def test_without_a_trial_nothing_is_compared(env: Env) -> None:
    env.study("unborn", parallelism=0)
    wait_for("told", lambda: "trials" in env.status("unborn"), env.patience_s)
    delete(env, "unborn")
    env.study("unborn", OTHER, budget={"trials": 2})
    study = env.wait_condition("unborn", "Complete")
    assert study["status"]["best"][0]["values"]["loss"] >= 1000


def test_a_config_maps_text_counts(env: Env) -> None:
    held = {"python": {"configMap": {"name": "held", "key": "o.py"}}}
    text = "def objective(trial):\n    return trial.suggest_float('x', 0, 1)\n"
    env.kube.create("configmaps", {"metadata": {"name": "held"}, "data": {"o.py": text}})
    env.study("held", objective=held, budget={"trials": 2})
    env.wait_condition("held", "Complete")
    # What has run its trials is theirs, whatever the ConfigMap says later.
    env.kube.patch("configmaps", "held", {"data": {"o.py": text.replace("0, 1", "2, 3")}})
    env.kube.patch("studies", "held", {"spec": {"budget": {"trials": 3}}})
    wait_for("3 trials", lambda: env.status("held")["progress"] == "3/3", env.patience_s)
    delete(env, "held")
    env.kube.patch("configmaps", "held", {"data": {"o.py": text.replace("0, 1", "4, 5")}})
    env.study("held", objective=held, budget={"trials": 2})
    stalled(env, "held", "DefinitionDiffers", "of another objective")

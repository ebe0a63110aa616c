"""Objectives that do their work in processes of their own."""

from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.worker.fleet import Study, Worker, source
from trialfleet.model import errors

MakeStudy = Callable[..., Study]
StartWorker = Callable[..., Worker]

TRAINS = """
import multiprocessing
import optuna

def train(trial, answer):
    x = trial.suggest_float("x", 0, 1)
    for epoch in range(3):
        trial.report(x + epoch, epoch)
    trial.set_user_attr("by", "child")
    answer.put("pruned")

def objective(trial):
    kind = trial.suggest_categorical("kind", ["fork", "spawn", "forkserver"])
    context = multiprocessing.get_context(kind)
    answer = context.Queue()
    process = context.Process(target=train, args=(trial, answer))
    process.start()
    answer.get()
    process.join()
    raise optuna.TrialPruned
"""


@pytest.mark.parametrize("kind", ["fork", "spawn", "forkserver"])
def test_a_trial_pruned_in_a_child_process_keeps_its_last_report(
    make_study: MakeStudy, start_worker: StartWorker, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "child.py").write_text(TRAINS)
    study = make_study({"python": {"file": "child.py"}}, enqueue=[{"kind": kind, "x": 0.5}])

    worker = start_worker(study, "--worker", "one")

    assert worker.wait() == errors.EXIT_OK, worker.errors
    (trial,) = study.trials
    assert (trial.state, trial.value) == (TrialState.PRUNED, 2.5)
    assert trial.intermediate_values == {0: 0.5, 1: 1.5, 2: 2.5}
    assert trial.user_attrs == {"by": "child"}
    # What the child has opened says nothing of the worker.
    assert study.storage.give_up(worker="one", reason="Test").sessions == 0


FORKS = """
import os, sys

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    if trial.number == 0:
        pid = os.fork()
        if pid == 0:
            {leaves}
        _, status = os.waitpid(pid, 0)
        trial.set_user_attr("child", os.waitstatus_to_exitcode(status))
    return x
"""


@pytest.mark.parametrize(
    ("leaves", "code"),
    [
        ("return -1.0", 0),
        ("raise ValueError('of the child')", 1),
        ("sys.exit(7)", 7),
        ("sys.exit()", 0),
        ("sys.exit('words')", 1),
        ("raise KeyboardInterrupt", 1),
    ],
)
def test_a_forked_copy_that_leaves_the_objective_ends(
    make_study: MakeStudy, start_worker: StartWorker, leaves: str, code: int
) -> None:
    study = make_study(source(FORKS.format(leaves=leaves)), trials=3)

    worker = start_worker(study, "--worker", "one")

    assert worker.wait() == errors.EXIT_OK
    trials = study.trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    assert [trial.value for trial in trials] == [trial.params["x"] for trial in trials]
    assert trials[0].user_attrs == {"child": code}
    assert "of the child" not in worker.errors
    assert study.storage.give_up(worker="one", reason="Test").sessions == 0


def test_a_forked_copy_that_leaves_the_import_ends(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    text = """
    import os
    PID = os.fork()
    if PID:
        os.waitpid(PID, 0)

    def objective(trial):
        return float(PID == 0)
    """
    study = make_study(source(text), trials=2)

    assert start_worker(study).wait() == errors.EXIT_OK
    assert [trial.value for trial in study.trials] == [0.0, 0.0]


@pytest.mark.parametrize("low", [2**53 + 1, -(2**53) - 1])
def test_an_integer_that_is_rounded_when_stored_fails_its_trial(
    make_study: MakeStudy, start_worker: StartWorker, low: int
) -> None:
    text = f"""
    def objective(trial):
        trial.suggest_int("small", 0, 2**53)
        trial.suggest_int("seed", {low}, {low})
        return 0
    """
    study = make_study(source(text))

    assert start_worker(study).wait() == errors.EXIT_OK
    (trial,) = study.trials
    assert trial.state is TrialState.FAIL
    assert trial.system_attrs["trialfleet:message"].startswith(
        f"ValueError: parameter 'seed': found {low}, which Optuna rounds when it stores it; "
        "accepted: -2^53 to 2^53"
    )


def test_equal_choices_of_a_python_objective_are_told_once(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    text = """
    def objective(trial):
        trial.suggest_categorical("same", [1, 1, "1", None, 2])
        return trial.suggest_categorical("other", [0, False, 2, 2.0])
    """
    study = make_study(source(text), trials=3)

    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_OK
    told = [line.split("parameter ")[1] for line in worker.errors.splitlines() if "equal" in line]
    assert told == [
        "'other': the choices 0 and False are equal, Optuna records the first for both",
        "'other': the choices 2 and 2.0 are equal, Optuna records the first for both",
    ]

"""What the callbacks of a manifest may do, in real workers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.worker.fleet import Study, Worker, source
from trialfleet import names
from trialfleet.model import errors

MakeStudy = Callable[..., Study]
StartWorker = Callable[..., Worker]

SOURCE = """
import json, optuna

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    if trial.number == 1:
        raise optuna.TrialPruned
    if trial.number == 2:
        raise ValueError("no")
    return x

class Note:
    def __init__(self, path, label="none"):
        self.path, self.label = path, label
    def __call__(self, study, trial):
        with open(self.path, "a") as file:
            known = [t.state.name for t in study.get_trials(deepcopy=False)]
            noted = [self.label, study.study_name, trial.number, trial.state.name, trial.values]
            print(json.dumps([*noted, known]), file=file)

def stop_at(study, trial, number):
    if trial.number == number:
        study.stop()

def enqueue(study, trial):
    if trial.number == 0:
        study.enqueue_trial({"x": 0.25})

def leave(study, trial):
    raise SystemExit("not the worker's end")

def fail(study, trial):
    raise RuntimeError("the server is away")

def wait(study, trial):
    print("called back", flush=True)
    while True:
        pass

async def later(study, trial):
    pass

not_callable = 3
"""


def test_are_called_after_each_trial_with_study_and_trial(
    make_study: MakeStudy, start_worker: StartWorker, tmp_path: Path
) -> None:
    noted = tmp_path / "noted"
    study = make_study(
        source(SOURCE),
        trials=4,
        callbacks=[
            {"name": "trialfleet_objective:fail"},
            {"name": "trialfleet_objective:leave"},
            {"name": "trialfleet_objective.Note", "options": {"path": str(noted), "label": "a"}},
            {"name": "trialfleet_objective:Note", "options": {"path": str(noted), "label": "b"}},
        ],
    )
    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_OK
    lines = [json.loads(line) for line in noted.read_text().splitlines()]
    assert [line[0] for line in lines] == ["a", "b"] * 4
    values = [trial.values for trial in study.trials]
    states = ["COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    for number, line in enumerate(lines[::2]):
        assert line[1:5] == [study.name, number, states[number], values[number]]
        assert line[5] == states[: number + 1], "the next trial is opened afterwards"
    # Told once, not four times, and nothing is lost by it.
    said = "callback trialfleet_objective:fail failed after trial 0, which is kept: RuntimeError"
    assert worker.errors.count("the server is away") == 1
    assert said in worker.errors
    assert worker.errors.count("not the worker's end") == 1


def test_stop_the_study_and_enqueue_before_the_next_trial(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    study = make_study(
        source(SOURCE),
        trials=100,
        callbacks=[
            {"name": "trialfleet_objective:enqueue"},
            {"name": "trialfleet_objective:stop_at", "options": {"number": 3}},
        ],
    )
    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_OK
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3]
    assert study.trials[1].params == {"x": 0.25}
    assert study.summary.ended == names.ENDED_STOPPED


def test_optunas_own(make_study: MakeStudy, start_worker: StartWorker) -> None:
    options = {"n_trials": 3, "states": [TrialState.COMPLETE.value]}
    study = make_study(
        source("def objective(trial): return trial.suggest_float('x', 0, 1)"),
        trials=100,
        callbacks=[{"name": "optuna.study.MaxTrialsCallback", "options": options}],
    )

    assert start_worker(study).wait() == errors.EXIT_OK
    assert len(study.trials) == 3


def test_a_worker_leaves_in_the_middle_of_one(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    study = make_study(source(SOURCE), trials=9, callbacks=[{"name": "trialfleet_objective:wait"}])
    worker = start_worker(study, "--grace", "0.2")
    assert worker.line() == "called back"
    worker.terminate()

    assert worker.wait() == errors.EXIT_DRAINED
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]
    assert study.summary.sessions == 0


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        ({"name": "no_such_package.Callback"}, "No module named 'no_such_package'"),
        ({"name": "optuna.study:NoSuch"}, "has no attribute 'NoSuch'"),
        ({"name": "optuna.NoSuch"}, "has no attribute 'NoSuch'"),
        (
            {"name": "trialfleet_objective.Note", "options": {"file": "x"}},
            "unexpected keyword argument 'file'",
        ),
        (
            {"name": "trialfleet_objective:enqueue", "options": {"number": 3}},
            "can't be called with a study and a trial",
        ),
        ({"name": "trialfleet_objective:objective"}, "can't be called with a study and a trial"),
        ({"name": "trialfleet_objective:later"}, "is async"),
        (
            {"name": "trialfleet_objective:not_callable"},
            "found an object of type int, accepted: a callable",
        ),
    ],
)
def test_one_that_cannot_be_loaded_ends_the_worker_before_a_trial(
    make_study: MakeStudy, start_worker: StartWorker, callback: dict[str, object], said: str
) -> None:
    study = make_study(source(SOURCE), callbacks=[callback])
    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_OBJECTIVE
    assert f"spec.callbacks[0]: {callback['name']} can't be loaded: " in worker.errors
    assert said in worker.errors
    assert study.trials == []

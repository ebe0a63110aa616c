"""Worker processes that run trials through a real proxy."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tests.worker.fleet import Study, Worker, source
from trialfleet import names
from trialfleet.client import FleetStorage, StudyDefinition
from trialfleet.model import errors

MakeStudy = Callable[..., Study]
StartWorker = Callable[..., Worker]


def failure(trial: FrozenTrial) -> tuple[str, str]:
    assert trial.state is TrialState.FAIL
    return trial.system_attrs[names.ATTR_REASON], trial.system_attrs.get(names.ATTR_MESSAGE, "")


def test_runs_until_the_budget_ends_the_study(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    study = make_study(
        source(
            """
            def objective(trial):
                trial.set_user_attr("square", True)
                return trial.suggest_float("x", -1, 1) ** 2
            """
        ),
        trials=7,
    )

    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_OK
    trials = study.trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 7
    assert all(trial.value == trial.params["x"] ** 2 for trial in trials)
    assert all(trial.user_attrs == {"square": True} for trial in trials)
    assert study.summary.sessions == 0
    assert worker.errors.endswith("INFO the study has ended (TrialsComplete) after 7 trials\n")
    assert worker.errors.count("\n") == 1


def test_two_workers_share_a_budget(make_study: MakeStudy, start_worker: StartWorker) -> None:
    study = make_study(source("def objective(trial): return trial.number"), trials=20)

    workers = [start_worker(study), start_worker(study)]

    assert [worker.wait() for worker in workers] == [errors.EXIT_OK] * 2
    assert [trial.number for trial in study.trials] == list(range(20))


def test_several_objectives(make_study: MakeStudy, start_worker: StartWorker) -> None:
    study = make_study(source("def objective(trial): return 1, 2.5"), objectives=2)

    assert start_worker(study).wait() == errors.EXIT_OK
    assert study.trials[0].values == [1.0, 2.5]


def test_a_raised_exception_is_kept_with_its_traceback(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    study = make_study(
        source(
            """
            def train(x):
                raise ValueError("the loss is\\nnot finite")

            def objective(trial):
                x = trial.suggest_float("x", 0, 1)
                if trial.number == 0:
                    train(x)
                return x
            """
        ),
        trials=2,
    )

    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_OK
    failed, complete = study.trials
    assert failure(failed) == (
        names.REASON_OBJECTIVE_RAISED,
        "ValueError: the loss is not finite (objective.py:3)",
    )
    traceback = failed.system_attrs[names.ATTR_TRACEBACK]
    assert traceback.splitlines() == [
        "Traceback (most recent call last):",
        '  File "objective.py", line 8, in objective',
        "    train(x)",
        '  File "objective.py", line 3, in train',
        '    raise ValueError("the loss is\\nnot finite")',
        "ValueError: the loss is",
        "not finite",
    ]
    assert "x" in failed.params
    assert complete.state is TrialState.COMPLETE
    assert (
        "WARNING trial 0 failed: ValueError: the loss is not finite (objective.py:3)\n"
        in worker.errors
    )


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3 (objective.py:4)"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt (objective.py:3)"),
        ("raise GeneratorExit('odd')", "GeneratorExit: odd (objective.py:3)"),
    ],
)
def test_an_objective_that_wants_to_end_the_process_has_failed(
    make_study: MakeStudy, start_worker: StartWorker, ending: str, message: str
) -> None:
    ending = ending.replace("; ", "\n    ")
    study = make_study(source(f"def objective(trial):\n    trial.number\n    {ending}"), trials=2)

    assert start_worker(study).wait() == errors.EXIT_OK
    assert [failure(trial)[1] for trial in study.trials] == [message] * 2


def test_what_is_no_value_is_told(make_study: MakeStudy, start_worker: StartWorker) -> None:
    study = make_study(source("def objective(trial): return None"))

    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_OK
    message = "the objective returned None; expected a number"
    assert failure(study.trials[0]) == (names.REASON_OBJECTIVE_RETURNED, message)
    assert f"WARNING trial 0 failed: {message}\n" in worker.errors


def test_infinity_is_a_value(make_study: MakeStudy, start_worker: StartWorker) -> None:
    study = make_study(source("def objective(trial): return float('inf')"))

    assert start_worker(study).wait() == errors.EXIT_OK
    assert study.trials[0].value == math.inf


def test_a_pruned_trial_keeps_its_last_value(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    study = make_study(
        source(
            """
            import optuna

            def objective(trial):
                for step in range(10):
                    trial.report(trial.number * 10.0 + step, step)
                    if trial.should_prune():
                        raise optuna.TrialPruned
                return 100.0
            """
        ),
        trials=3,
        pruner={"name": "MedianPruner", "options": {"n_startup_trials": 1, "n_warmup_steps": 2}},
    )

    assert start_worker(study).wait() == errors.EXIT_OK
    first, *pruned = study.trials
    assert first.state is TrialState.COMPLETE
    assert first.intermediate_values == {step: float(step) for step in range(10)}
    assert [trial.state for trial in pruned] == [TrialState.PRUNED] * 2
    assert [trial.value for trial in pruned] == [12.0, 22.0]


def test_a_search_space_of_the_manifest_is_suggested(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    study = make_study(
        source("def objective(trial): return trial.params['x'] + trial.params['n']"),
        trials=3,
        searchSpace={
            "x": {"float": {"low": 0.0, "high": 1.0}},
            "n": {"int": {"low": 1, "high": 3}},
        },
    )

    assert start_worker(study).wait() == errors.EXIT_OK
    assert all(t.value == t.params["x"] + t.params["n"] for t in study.trials)


def test_points_to_run_first(make_study: MakeStudy, start_worker: StartWorker) -> None:
    study = make_study(
        source("def objective(trial): return trial.suggest_float('x', 0, 1)"),
        trials=2,
        enqueue=[{"x": 0.25}],
    )

    assert start_worker(study).wait() == errors.EXIT_OK
    assert study.trials[0].value == 0.25


@pytest.mark.parametrize("pruner", ["NopPruner", "HyperbandPruner"])
def test_a_grid_that_is_exhausted_ends_the_worker(
    make_study: MakeStudy, start_worker: StartWorker, pruner: str
) -> None:
    study = make_study(
        source("def objective(trial): return trial.suggest_int('n', 1, 4)"),
        trials=100,
        sampler={"name": "GridSampler", "options": {"search_space": {"n": [1, 2, 3, 4]}}},
        pruner={"name": pruner},
    )

    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_OK
    assert sorted(trial.value or 0 for trial in study.trials) == [1, 2, 3, 4]
    assert "INFO the study has ended (Stopped) after 4 trials\n" in worker.errors


def test_one_worker_with_a_seed_is_reproducible(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    objective = source("def objective(trial): return trial.suggest_float('x', 0, 1) ** 2")
    sampler = {"name": "TPESampler", "options": {"seed": 7}}
    studies = [make_study(objective, trials=15, sampler=sampler) for _ in range(2)]
    for study in studies:
        assert start_worker(study).wait() == errors.EXIT_OK

    first, second = ([trial.params for trial in study.trials] for study in studies)
    assert first == second


def test_the_environment_of_a_trial(
    make_study: MakeStudy, start_worker: StartWorker, tmp_path: Path
) -> None:
    study = make_study(
        source(
            f"""
            import os, pathlib

            def objective(trial):
                for name in {[names.ENV_TRIAL_NUMBER, names.ENV_TRIAL_ORIGIN]}:
                    trial.set_user_attr(name, os.environ[name])
                folder = pathlib.Path(os.environ["{names.ENV_CHECKPOINT_DIR}"])
                trial.set_user_attr("folder", str(folder))
                if trial.number == 1:
                    (folder / "model").write_text("weights")
                return len(list(folder.iterdir()))
            """
        ),
        trials=2,
    )

    root = tmp_path / "checkpoints"
    assert start_worker(study, "--checkpoint-root", str(root)).wait() == errors.EXIT_OK

    for trial in study.trials:
        assert trial.user_attrs == {
            names.ENV_TRIAL_NUMBER: str(trial.number),
            names.ENV_TRIAL_ORIGIN: str(trial.number),
            "folder": str(root / study.name / str(trial.number)),
        }
    # The other folder stayed empty, and is gone.
    assert [path.name for path in (root / study.name).iterdir()] == ["1"]


def test_a_retried_trial_goes_on_with_its_parameters_and_checkpoints(
    make_study: MakeStudy, start_worker: StartWorker, storage: FleetStorage, tmp_path: Path
) -> None:
    study = make_study(
        source(
            f"""
            import json, os, pathlib, sys, time

            def objective(trial):
                x = trial.suggest_float("x", 0, 1)
                folder = pathlib.Path(os.environ["{names.ENV_CHECKPOINT_DIR}"])
                checkpoint = folder / "checkpoint"
                if checkpoint.exists():
                    assert os.environ["{names.ENV_TRIAL_ORIGIN}"] == "0"
                    assert os.environ["{names.ENV_TRIAL_NUMBER}"] == str(trial.number)
                    return x - float(checkpoint.read_text())
                checkpoint.write_text(repr(x))
                trial.report(x, 0)
                trial.should_prune()
                print(json.dumps(x), flush=True)
                time.sleep(1000)
            """
        ),
        retries=1,
    )
    arguments = ("--checkpoint-root", str(tmp_path / "checkpoints"))
    first = start_worker(study, *arguments, "--worker", f"first-{study.name}")
    x = json.loads(first.line())
    first.popen.kill()
    first.wait()
    given_up = storage.give_up(worker=f"first-{study.name}", reason="Evicted")
    assert given_up.requeued == (1,)

    assert start_worker(study, *arguments).wait() == errors.EXIT_OK

    lost, retried = study.trials
    assert lost.state is TrialState.FAIL
    assert retried.state is TrialState.COMPLETE
    assert retried.params == {"x": x}
    assert retried.value == 0.0


def test_a_fenced_worker_drops_the_trial_and_goes_on(
    make_study: MakeStudy, start_worker: StartWorker, storage: FleetStorage, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    study = make_study(
        source(
            f"""
            import pathlib, time

            def objective(trial):
                x = trial.suggest_float("x", 0, 1)
                if trial.number == 0:
                    print("running", flush=True)
                    while not pathlib.Path({str(gate)!r}).exists():
                        time.sleep(0.01)
                    for step in range(1000):  # it hears so within a fifth of a second
                        trial.report(x, step)
                        trial.should_prune()
                        time.sleep(0.01)
                return x
            """
        ),
        trials=2,
        retries=1,
    )
    worker = start_worker(study, "--worker", f"fenced-{study.name}")
    assert worker.line() == "running"
    storage.give_up(worker=f"fenced-{study.name}", reason="NodeLost")
    gate.touch()

    assert worker.wait() == errors.EXIT_OK
    lost, *others = study.trials
    assert failure(lost)[0] == "NodeLost"
    assert [trial.state for trial in others] == [TrialState.COMPLETE] * 2
    assert "INFO trial 0 was taken away\n" in worker.errors
    assert "failed" not in worker.errors


@pytest.mark.parametrize("caught", ["pass", "raise RuntimeError from None"])
def test_a_fenced_trial_that_catches_everything_is_dropped(
    make_study: MakeStudy,
    start_worker: StartWorker,
    storage: FleetStorage,
    tmp_path: Path,
    caught: str,
) -> None:
    gate = tmp_path / "gate"
    study = make_study(
        source(
            f"""
            import pathlib, time

            def objective(trial):
                x = trial.suggest_float("x", 0, 1)
                if trial.number == 0:
                    print("running", flush=True)
                    while not pathlib.Path({str(gate)!r}).exists():
                        time.sleep(0.01)
                    try:
                        for step in range(3):
                            trial.report(x, step)
                            trial.should_prune()
                    except Exception:
                        {caught}
                return x
            """
        ),
    )
    worker = start_worker(study, "--worker", f"fenced-{study.name}")
    assert worker.line() == "running"
    storage.give_up(worker=f"fenced-{study.name}", reason="NodeLost")
    gate.touch()

    assert worker.wait() == errors.EXIT_OK
    lost, other = study.trials
    assert failure(lost)[0] == "NodeLost"
    assert other.state is TrialState.COMPLETE
    assert "failed" not in worker.errors


def test_a_worker_that_is_there_before_its_study_waits_for_it(
    make_study: MakeStudy, start_worker: StartWorker, storage: FleetStorage
) -> None:
    """Another study may have the name that it is for."""
    study = make_study(source("def objective(trial): return 1"), trials=2)
    mine = "objectives=1 objective=1 searchSpace=1"
    worker = start_worker(study, TRIALFLEET_DEFINITION=mine)
    worker.until_logged("waiting for the study: ")
    assert study.trials == []
    definition = StudyDefinition(
        name=study.name, directions=[StudyDirection.MINIMIZE], trials=2, definition=mine
    )
    storage.ensure_study(definition)
    assert worker.wait() == errors.EXIT_OK
    assert len(study.trials) == 2


def test_a_worker_does_not_wait_for_its_study_for_ever(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    study = make_study(source("def objective(trial): return 1"))
    worker = start_worker(study, "--patience=0.5", TRIALFLEET_DEFINITION="objective=none")
    assert worker.wait() == errors.EXIT_FAILED
    assert "whose definition is not known" in worker.errors

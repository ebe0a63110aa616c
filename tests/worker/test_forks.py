"""Objectives that start processes beside gRPC: by fork, forkserver and spawn."""

from collections.abc import Callable

import pytest

from tests.worker.fleet import Study, Worker, source
from trialfleet.model import errors

MakeStudy = Callable[..., Study]
StartWorker = Callable[..., Worker]

POOL = """
import multiprocessing, time

def objective(trial):
    x = trial.suggest_int("x", 0, 9)
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        trial.report(x, 0)
        trial.should_prune()
        return sum(pool.map(abs, [x, -x]))
"""

EXECUTOR = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

def objective(trial):
    x = trial.suggest_int("x", 0, 9)
    context = multiprocessing.get_context("{method}")
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        return sum(executor.map(abs, [x, -x]))
"""

# Its default, loky, and the one that forks.
JOBLIB = """
import joblib

def objective(trial):
    x = trial.suggest_int("x", 0, 9)
    with joblib.parallel_config(backend="{backend}"):
        return sum(joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(y) for y in (x, -x)))
"""

FORK = """
import os, sys

def objective(trial):
    x = trial.suggest_int("x", 0, 9)
    child = os.fork()
    if child == 0:
        os._exit(x)
    trial.report(x, 0)
    return 2 * os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""

DAEMON = """
import multiprocessing, time

def objective(trial):
    x = trial.suggest_int("x", 0, 9)
    # Like a data loader's workers: they outlive the trial, and are ended with the worker.
    fork = multiprocessing.get_context("fork")
    fork.Process(target=time.sleep, args=(1000,), daemon=True).start()
    return 2 * x
"""

KILLED = """
import multiprocessing, time

def objective(trial):
    x = trial.suggest_int("x", 0, 9)
    fork = multiprocessing.get_context("fork")
    for _ in range(20):
        child = fork.Process(target=time.sleep, args=(1000,))
        child.start()
        child.terminate()
        child.join()
        assert child.exitcode == -15, child.exitcode
    return 2 * x
"""


@pytest.mark.parametrize(
    "text",
    [
        POOL.format(method="fork"),
        POOL.format(method="forkserver"),
        POOL.format(method="spawn"),
        EXECUTOR.format(method="fork"),
        EXECUTOR.format(method="spawn"),
        JOBLIB.format(backend="loky"),
        JOBLIB.format(backend="multiprocessing"),
        FORK,
        DAEMON,
        KILLED,
    ],
    ids=[
        "fork",
        "forkserver",
        "spawn",
        "executor",
        "executor-spawn",
        "joblib-loky",
        "joblib-multiprocessing",
        "os.fork",
        "daemon",
        "killed",
    ],
)
def test_an_objective_that_starts_processes(
    make_study: MakeStudy, start_worker: StartWorker, text: str
) -> None:
    study = make_study(source(text), trials=3)
    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_OK
    assert [trial.value for trial in study.trials] == [2 * t.params["x"] for t in study.trials]
    assert study.summary.counts.complete == 3
    # Nothing of gRPC's, and no warning: the worker's own lines only.
    (line,) = worker.errors.splitlines()
    assert line.endswith("INFO the study has ended (TrialsComplete) after 3 trials")


def test_a_forked_child_writes_to_the_trial(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    study = make_study(
        source(
            """
            import multiprocessing

            def train(trial):
                trial.report(trial.suggest_float("x", 0, 1), 7)
                trial.should_prune()
                trial.set_user_attr("by", "child")

            def objective(trial):
                child = multiprocessing.get_context("fork").Process(target=train, args=(trial,))
                child.start()
                child.join()
                return child.exitcode
            """
        )
    )
    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_OK, worker.errors
    (trial,) = study.trials
    assert trial.value == 0
    assert trial.user_attrs == {"by": "child"}
    assert trial.intermediate_values == {7: trial.params["x"]}

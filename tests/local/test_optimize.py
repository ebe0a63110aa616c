"""``trialfleet.optimize``: from a script, with nothing to set up."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution

import trialfleet
from tests.local.running import processes_of, until
from trialfleet.local.optimize import WorkerTraceback
from trialfleet.model import errors


class Unlucky(Exception):
    """Raised by objectives here."""


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("not to be sent")
        self.lock = threading.Lock()


def square(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", -10, 10) ** 2


def test_one_job_and_a_seed_give_the_trials_of_optuna() -> None:
    study = trialfleet.optimize(square, 15, sampler=optuna.samplers.TPESampler(seed=5))
    plain = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=5))
    plain.optimize(square, n_trials=15)
    assert [trial.params for trial in study.trials] == [trial.params for trial in plain.trials]
    assert study.best_trial.value == plain.best_value
    assert type(study) is optuna.Study


def test_jobs_are_processes_and_closures_work() -> None:
    shift = 3.0
    caller = os.getpid()

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        trial.set_user_attr("pid", os.getpid())
        threading.Event().wait(0.1)
        x = trial.suggest_float("x", 0, 10)
        return x - shift, x + shift

    study = trialfleet.optimize(
        objective,
        30,
        n_jobs=3,
        directions=["minimize", "maximize"],
        sampler=optuna.samplers.RandomSampler(seed=1),
        study_name="closures",
    )
    assert study.study_name == "closures"
    assert [trial.number for trial in study.trials] == list(range(30))
    pids = {trial.user_attrs["pid"] for trial in study.trials}
    assert len(pids) == 3
    assert caller not in pids
    # Each process has a stream of its own from the sampler.
    assert len({trial.params["x"] for trial in study.trials}) == 30
    assert study.best_trials


def test_callbacks_run_here_one_after_the_other_and_may_stop() -> None:
    seen: list[int] = []
    inside = threading.Lock()

    def callback(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        with inside:
            assert threading.current_thread() is threading.main_thread()
            seen.append(trial.number)
            study.set_user_attr("last", trial.number)
            assert (
                trial.suggest_float("x", -99, 99) == trial.params["x"]
            )  # as a model is built again
            trial.set_user_attr("seen", True)
            assert study.best_value <= (trial.value or 0.0)
            if len(seen) == 5:
                study.stop()

    def objective(trial: optuna.Trial) -> float:
        threading.Event().wait(0.3)
        return square(trial)

    study = trialfleet.optimize(objective, 1000, n_jobs=2, callbacks=[callback])
    assert 5 <= len(study.trials) < 20
    assert sorted(seen) == [trial.number for trial in study.trials]
    assert {trial.state for trial in study.trials} == {optuna.trial.TrialState.COMPLETE}
    assert study.user_attrs == {"last": seen[-1]}
    # What a callback does with its trial stays between the two.
    assert not any(trial.distributions["x"] == FloatDistribution(-99, 99) for trial in study.trials)
    assert not any(trial.user_attrs for trial in study.trials)


def test_what_an_objective_raises_is_raised_here() -> None:
    def objective(trial: optuna.Trial) -> float:
        if trial.number == 2:
            raise Unlucky("number", trial.number)
        return 1.0

    with pytest.raises(Unlucky) as raised:
        trialfleet.optimize(objective, 10)
    assert raised.value.args == ("number", 2)
    assert isinstance(raised.value.__cause__, WorkerTraceback)
    assert 'raise Unlucky("number", trial.number)' in str(raised.value.__cause__)

    study = trialfleet.optimize(objective, 4, catch=Unlucky)
    assert [trial.state.name for trial in study.trials] == [
        *("COMPLETE", "COMPLETE", "FAIL", "COMPLETE")
    ]


def test_an_exception_that_cannot_be_sent_is_described() -> None:
    def objective(trial: optuna.Trial) -> float:
        raise Unpicklable

    with pytest.raises(
        errors.TrialfleetError, match="the objective raised Unpicklable: not to be sent"
    ) as raised:
        trialfleet.optimize(objective, 3)
    assert "raise Unpicklable" in str(raised.value.__cause__)


def test_an_objective_or_a_callback_may_end_it() -> None:
    def stopping(trial: optuna.Trial) -> float:
        if trial.number == 3:
            trial.study.stop()
        return 1.0

    assert len(trialfleet.optimize(stopping).trials) == 4

    def broken(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        raise Unlucky("in a callback")

    with pytest.raises(Unlucky, match="in a callback"):
        trialfleet.optimize(square, callbacks=[broken])


def test_timeout_lets_running_trials_finish() -> None:
    def objective(trial: optuna.Trial) -> float:
        threading.Event().wait(0.4)
        return 1.0

    study = trialfleet.optimize(objective, timeout=2)
    assert study.trials
    assert {trial.state for trial in study.trials} == {optuna.trial.TrialState.COMPLETE}


def test_a_database_keeps_the_trials(database_url: str) -> None:
    first = trialfleet.optimize(square, 3, study_name="kept", storage=database_url)
    assert len(first.trials) == 3
    more = trialfleet.optimize(square, 4, study_name="kept", storage=database_url)
    assert len(more.trials) == 7

    def stop_soon(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        assert trial.number >= before
        study.stop()

    studies = [first, more]
    for _ in range(2):
        before = len(studies[-1].trials)
        studies.append(
            trialfleet.optimize(
                square, callbacks=[stop_soon], study_name="kept", storage=database_url
            )
        )
        assert len(studies[-1].trials) > before
    for study in studies:
        storage: Any = study._storage
        storage._backend.engine.dispose()


def test_what_cannot_be_run() -> None:
    with pytest.raises(ValueError, match="n_jobs: found 0, accepted: 1 or more, or -1"):
        trialfleet.optimize(square, 1, n_jobs=0)
    with pytest.raises(ValueError, match="direction: found 'up', accepted: minimize or maximize"):
        trialfleet.optimize(square, 1, direction="up")
    lock = threading.Lock()
    with pytest.raises(errors.InvalidInput, match="can't be pickled"):
        trialfleet.optimize(lambda trial: float(lock.locked()), 1)


def write(file: Path, source: str) -> Path:
    file.write_text(textwrap.dedent(source))
    return file


def test_a_script_needs_no_guard_and_a_module_no_other_file(folder: Path) -> None:
    write(
        folder / "study_module.py",
        """
        import trialfleet

        def objective(trial):
            return trial.suggest_int("x", 1, 9)

        # While the module is being imported: a worker that imported it would do so again.
        print(len(trialfleet.optimize(objective, 2).trials))
        """,
    )
    script = write(
        folder / "script.py",
        """
        import trialfleet

        class Offset(Exception):
            pass

        offset = 2

        def helper(x):
            if x > 100:
                raise Offset(x)
            return x + offset

        study = trialfleet.optimize(lambda trial: helper(trial.suggest_int("x", 1, 9)), 3)
        print(study.best_value >= 3)
        try:
            trialfleet.optimize(lambda trial: helper(101), 3)
        except Offset as error:
            print("raised", error)

        import study_module
        """,
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, check=True
    )
    told = [line for line in done.stdout.splitlines() if "WARNING" not in line]
    assert told == ["True", "raised 101", "2"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_the_caller_leaves_nothing_behind(folder: Path, signum: int) -> None:
    script = write(
        folder / "script.py",
        """
        import time, trialfleet

        def objective(trial):
            print("began", flush=True)
            time.sleep(300)

        trialfleet.optimize(objective, 10, n_jobs=2)
        """,
    )
    (folder / "tmp").mkdir()
    caller = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
    )
    with caller:
        assert caller.stdout is not None and caller.stderr is not None
        assert caller.stdout.readline() == b"began\n"
        caller.send_signal(signum)
        assert caller.wait(30) == -signum
    until(lambda: None if processes_of(folder) else True)
    assert list((folder / "tmp").iterdir()) == []

"""What ``trialfleet.optimize`` says of input that it can't use, and of code that fails."""

import functools
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

import trialfleet
from trialfleet.model.errors import InvalidInput

LOCK = threading.Lock()


def square(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", -10, 10) ** 2


def journal() -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(JournalFileBackend(os.devnull))


STORAGE = (
    "accepted: a URL like postgresql+psycopg2://USER:PASSWORD@HOST:5432/DATABASE, as text; or "
    "None: the trials are in the returned study only"
)


@pytest.mark.parametrize(
    ("storage", "kind"),
    [
        (optuna.storages.InMemoryStorage, "an InMemoryStorage"),
        (lambda: optuna.storages.RDBStorage("sqlite:///:memory:"), "a RDBStorage"),
        (journal, "a JournalStorage"),
        (lambda: pathlib.Path("trials.db"), "a PosixPath"),
        (lambda: optuna.storages.InMemoryStorage, "the class InMemoryStorage"),
        (lambda: 7, "an int"),
    ],
)
def test_a_storage_object_is_refused_at_once(storage: Callable[[], Any], kind: str) -> None:
    with pytest.raises(TypeError) as caught:
        trialfleet.optimize(square, 3, storage=storage())
    assert str(caught.value) == f"storage: found {kind}, {STORAGE}"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("sqlite:///trials.db", "found a sqlite database"),
        ("trials.db", "found a text that is no URL"),
        ("postgresql://u:p@h:port/d", "found a port that is no number"),
    ],
)
def test_a_url_of_no_postgresql_is_refused_at_once(url: str, found: str) -> None:
    with pytest.raises(InvalidInput, match=f"^storage: {found}, accepted: a URL like postgresql"):
        trialfleet.optimize(square, 3, storage=url)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"n_trials": 5.0}, TypeError, "n_trials: found 5.0, accepted: 1 or more, or None"),
        ({"n_trials": "5"}, TypeError, "n_trials: found '5', accepted: 1 or more, or None"),
        ({"n_trials": True}, TypeError, "n_trials: found True, accepted: 1 or more, or None"),
        ({"n_trials": 0}, ValueError, "n_trials: found 0, accepted: 1 or more, or None"),
        ({"n_jobs": 1.5}, TypeError, "n_jobs: found 1.5, accepted: 1 or more, or -1"),
        ({"n_jobs": -2}, ValueError, "n_jobs: found -2, accepted: 1 or more, or -1"),
        ({"timeout": "1h"}, TypeError, "timeout: found '1h', accepted: seconds, 0 or more, or "),
        ({"timeout": -1}, ValueError, "timeout: found -1, accepted: seconds, 0 or more, or None"),
        (
            {"timeout": float("nan")},
            ValueError,
            "timeout: found nan, accepted: seconds, 0 or more, or None",
        ),
        (
            {"sampler": optuna.samplers.TPESampler},
            TypeError,
            "sampler: found the class TPESampler, accepted: an object of optuna.samplers",
        ),
        ({"pruner": "median"}, TypeError, "pruner: found a str, accepted: an object of optuna.p"),
        ({"callbacks": print}, TypeError, "callbacks: found a builtin_function_or_method, accep"),
        ({"callbacks": [1]}, TypeError, "callbacks: found a list, accepted: a list of functions"),
        ({"catch": "all"}, TypeError, "catch: found 'all', accepted: classes of exceptions"),
        ({"study_name": 7}, TypeError, "study_name: found an int, accepted: a text"),
    ],
)
def test_an_argument_of_another_type_is_refused_at_once(
    arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as caught:
        trialfleet.optimize(square, **{"n_trials": 1, **arguments})
    assert str(caught.value).startswith(message)


def test_an_objective_is_a_function() -> None:
    with pytest.raises(TypeError, match=r"^objective: found a float, accepted: a function of a t"):
        trialfleet.optimize(0.5, 1)  # type: ignore[arg-type]


def test_numpys_numbers_are_numbers() -> None:
    study = trialfleet.optimize(square, cast(int, np.int64(2)), n_jobs=cast(int, np.int32(1)))
    assert len(study.trials) == 2


class Experiment:
    def __init__(self) -> None:
        self.parts = {"data": [1, 2, 3], "inner": [Guarded()]}

    def objective(self, trial: optuna.Trial) -> float:
        return trial.suggest_float("x", 0, 1)

    def __call__(self, trial: optuna.Trial) -> float:
        return self.objective(trial)


class Guarded:
    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.Lock()


def _closure() -> Callable[[optuna.Trial], float]:
    lock = threading.Lock()

    def objective(trial: optuna.Trial) -> float:
        with lock:
            return trial.suggest_float("x", 0, 1)

    return objective


def _global() -> Callable[[optuna.Trial], float]:
    scope: dict[str, Any] = {"LOCK": LOCK, "__name__": "__main__"}
    exec("def objective(trial):\n    return [0 for _ in [LOCK]]", scope)
    found: Callable[[optuna.Trial], float] = scope["objective"]
    return found


def _partial() -> Callable[[optuna.Trial], float]:
    return functools.partial(lambda trial, lock: 0.0, lock=threading.Lock())


WITHIN = (
    "the attribute 'lock' of Guarded, in the item 0, in the item 'inner', in the attribute 'parts' "
    "of Experiment"
)


@pytest.mark.parametrize(
    ("make", "held"),
    [
        (lambda: Experiment().objective, f"{WITHIN}, in the object of the method objective"),
        (Experiment, WITHIN),
        (_closure, "the variable 'lock' of _closure.objective"),
        (_global, "the variable 'LOCK' of objective"),
        (_partial, "an argument of the partial"),
    ],
)
def test_what_can_not_be_pickled_is_named(
    make: Callable[[], Callable[[optuna.Trial], float]], held: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        trialfleet.optimize(make(), 1)
    assert str(caught.value) == (
        f"the objective can't be pickled: cannot pickle '_thread.lock' object: it is {held}"
    )


def test_a_sampler_that_can_not_be_pickled_is_named() -> None:
    sampler = optuna.samplers.RandomSampler()
    sampler.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(InvalidInput, match=r"^the sampler can't be pickled: .* 'lock' of RandomSa"):
        trialfleet.optimize(square, 1, sampler=sampler)


SCRIPT = """
import trialfleet

def helper(v):
    return 1 / (v - v)  # here

def objective(trial):
    return helper(trial.suggest_float("x", 0, 1))

trialfleet.optimize(objective, 3)
"""


def test_tracebacks_name_the_file_and_show_the_line(folder: Path) -> None:
    (folder / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    told = done.stderr.partition("The above exception was the direct cause")[0]
    assert f'File "{folder}/script.py", line 5, in helper\n    return 1 / (v - v)  # here' in told
    assert f'File "{folder}/script.py", line 8, in objective' in told
    assert "dynamic-code" not in done.stderr


def test_tracebacks_show_lines_that_are_in_no_file() -> None:
    import linecache

    name, text = "<cell 7>", "def objective(trial):\n    return 1 / 0  # of a cell\n"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), scope)
    with pytest.raises(ZeroDivisionError) as caught:
        trialfleet.optimize(scope["objective"], 1)
    assert 'File "<cell 7>", line 2, in objective\n    return 1 / 0  # of a cell' in str(
        caught.value.__cause__
    )


def test_the_words_of_submit_beside_those_of_optuna() -> None:
    with pytest.raises(ValueError, match=r"^name: found beside study_name, accepted: one"):
        trialfleet.optimize(square, 1, study_name="a", name="b")
    with pytest.raises(ValueError, match=r"^parallelism: found beside n_jobs, accepted: one"):
        trialfleet.optimize(square, 1, n_jobs=2, parallelism=2)
    with pytest.raises(ValueError, match=r"^parallelism: found 0, accepted: 1 or more, or -1"):
        trialfleet.optimize(square, 1, parallelism=0)


@pytest.mark.parametrize(
    ("packages", "kind", "said"),
    [
        ("numpy", TypeError, "packages: found 'numpy', accepted: a list of requirements"),
        (["numpy", "--pre"], InvalidInput, "packages[1]: found '--pre', accepted: a requirement"),
        (["numpy<1"], InvalidInput, "spec.objective.python.packages[0]: found 'numpy<1', but"),
    ],
)
def test_packages_that_can_not_be_installed(
    packages: Any, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind) as caught:
        trialfleet.optimize(square, 3, packages=packages)
    assert str(caught.value).startswith(said)

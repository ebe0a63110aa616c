"""Functions on their way to a cluster: what of them travels as source, and what as a pickle."""

import functools
import linecache
import math
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import Trial

from trialfleet.cluster.objective_text import LONGEST, objective_text
from trialfleet.model.errors import InvalidInput, ObjectiveImportError
from trialfleet.worker.objectives.python import from_source

PICKLE = "cloudpickle.loads"


def notebook(source: str) -> dict[str, object]:
    """Run source as a notebook does: in ``__main__``, with lines that ``inspect`` finds."""
    name = f"<cell {len(linecache.cache)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    # As ``inspect`` looks them up by the file of the code.
    module = types.ModuleType("__main__")
    exec(compile(source, name, "exec"), module.__dict__)
    return vars(module)


def run(text: str, function: str) -> float:
    """Load the text as a worker does, and run one trial."""
    objective = from_source(text, function, Path())
    study = optuna.create_study()
    trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    return float(objective(trial))  # type: ignore[arg-type]


def test_source_with_what_it_refers_to() -> None:
    cell = notebook(
        "import os.path\n"
        "import numpy as np\n"
        "from math import sqrt as root, inf\n"
        "SCALE = 4.0\n"
        "LIMIT = inf\n"
        "def twice(value):\n"
        "    return 2 * value\n"
        "def loss(trial, scale=SCALE):\n"
        "    x = trial.suggest_float('x', 0, 1)\n"
        "    assert os.path.sep and x < LIMIT\n"
        "    return float(np.abs(twice(root(scale)))) + 0 * x\n"
    )
    text, function = objective_text(cell["loss"])  # type: ignore[arg-type]
    assert function == "loss" and PICKLE not in text
    assert text.startswith("import ") and "def twice(value):" in text
    assert run(text, function) == 4.0


def add(step: float) -> Callable[[Trial], float]:
    return lambda trial: trial.suggest_float("x", 0, 1) * 0 + step


class Model:
    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, trial: Trial) -> float:
        return trial.suggest_float("x", 0, 1) * 0 + self.value


def scaled(trial: Trial, factor: float) -> float:
    return trial.suggest_float("x", 0, 1) * 0 + factor * math.sqrt(np.ones(4).sum())


@pytest.mark.parametrize(
    ("objective", "value"),
    [(add(3), 3), (Model(5), 5), (functools.partial(scaled, factor=2), 4)],
    ids=["closure", "object", "partial"],
)
def test_a_pickle_where_source_is_not_enough(
    objective: Callable[[Trial], float], value: float
) -> None:
    text, function = objective_text(objective)
    assert function == "objective" and PICKLE in text
    assert run(text, function) == value


def test_a_module_that_is_not_installed_goes_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside.py").write_text("def seven():\n    return 7.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    cell = notebook(
        "import beside\ndef objective(trial):\n    return beside.seven()\n",
    )
    text, function = objective_text(cell["objective"])  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "beside")
    monkeypatch.undo()
    assert PICKLE in text
    assert run(text, function) == 7


def test_another_minor_version_of_python() -> None:
    text, function = objective_text(add(1))
    version = sys.version_info[:2]
    other = text.replace(str(version), "(3, 7)").replace(f"{version[0]}.{version[1]}", "3.7")
    with pytest.raises(ObjectiveImportError) as raised:
        from_source(other, function, Path())
    assert "the objective was pickled by Python 3.7, and this is Python 3." in str(raised.value)
    assert "accepted: an image with Python 3.7" in str(raised.value)


def test_too_large() -> None:
    data = np.random.default_rng(0).bytes(LONGEST)

    def objective(trial: Trial) -> float:
        return float(len(data))

    with pytest.raises(InvalidInput, match=r"^objective: found \d{7} characters with all that it"):
        objective_text(objective)


def test_what_cannot_be_pickled() -> None:
    lock = threading.Lock()

    def objective(trial: Trial) -> float:
        return float(lock.locked())

    with pytest.raises(InvalidInput, match=r"the objective can't be pickled: .*'lock'"):
        objective_text(objective)

"""How a Python objective is found, and what is said when it is not."""

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from trialfleet.model.errors import InvalidInput, ObjectiveImportError
from trialfleet.worker.objectives import python


@pytest.fixture(autouse=True)
def imports() -> Iterator[None]:
    """Forget what a test has made importable."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def load(text: str, folder: Path, function: str | None = None) -> object:
    # The functions here ignore their trial.
    return python.from_source(textwrap.dedent(text), function, folder)(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("def objective(trial): return 1", None),
        ("def helper(trial): return 0\ndef objective(t): return 1", None),
        ("def run(trial): return 1", None),
        ("def load(path): return 0\ndef run(trial, folds=5): return 1", None),
        ("import optuna\ndef run(t: optuna.Trial): return 1", None),
        ("def run(t: 'optuna.Trial'): return 1", None),
        ("def first(trial): return 0\ndef second(trial): return 1", "second"),
        ("class Objective:\n  def __call__(self, trial): return 1\nobjective = Objective()", None),
        ("from functools import partial\nobjective = partial(lambda n, trial: n, 1)", None),
    ],
)
def test_inline_source(tmp_path: Path, text: str, function: str | None) -> None:
    assert load(text, tmp_path, function) == 1


@pytest.mark.parametrize(
    ("text", "function", "message"),
    [
        (
            "x = 1",
            None,
            "the objective's source defines no function 'objective'; accepted: def "
            "objective(trial)",
        ),
        (
            "def a(trial): ...\ndef b(trial): ...",
            None,
            "the objective's source defines 2 functions that take a trial (a, b) and none is "
            "called 'objective'; accepted: def objective(trial)",
        ),
        (
            "def objective(trial): ...",
            "train",
            "the objective's source defines no function 'train'; accepted: def train(trial)",
        ),
        (
            "objective = 3",
            None,
            "the objective's source: objective is no function but of type int",
        ),
        (
            "def objective(): return 1",
            None,
            "the objective's source: objective() can't be called with one argument, the trial",
        ),
        (
            "def objective(trial, data): return 1",
            None,
            "the objective's source: objective(trial, data) can't be called with one argument, "
            "the trial",
        ),
        (
            "async def objective(trial): return 1",
            None,
            "the objective's source: objective is async; accepted: a function that returns a "
            "number",
        ),
        (
            "def objective(trial): yield 1",
            None,
            "the objective's source: objective is a generator; accepted: a function that returns "
            "a number",
        ),
        (
            "import no_such_package",
            None,
            "the objective's source can't be loaded: ModuleNotFoundError: No module named "
            "'no_such_package' (objective.py:1)",
        ),
        (
            "\ndef objective(trial) return 1",
            None,
            "the objective's source can't be loaded: SyntaxError: expected ':' (objective.py:2)",
        ),
        (
            "raise SystemExit(3)",
            None,
            "the objective's source can't be loaded: SystemExit: 3 (objective.py:1)",
        ),
    ],
)
def test_source_that_is_no_objective(
    tmp_path: Path, text: str, function: str | None, message: str
) -> None:
    with pytest.raises(ObjectiveImportError) as caught:
        load(text, tmp_path, function)
    assert str(caught.value) == message


def test_the_user_s_traceback_is_a_note(tmp_path: Path) -> None:
    with pytest.raises(ObjectiveImportError) as caught:
        load("def f(): 1 / 0\nf()", tmp_path)
    (note,) = caught.value.__notes__
    assert note.splitlines()[:3] == [
        "Traceback (most recent call last):",
        '  File "objective.py", line 2, in <module>',
        "    f()",
    ]
    assert note.endswith("ZeroDivisionError: division by zero\n")


def test_classes_of_inline_source_pickle(tmp_path: Path) -> None:
    text = """
        import dataclasses, pickle
        @dataclasses.dataclass
        class Model:
            weight: "int"
        def objective(trial):
            return pickle.loads(pickle.dumps(Model(1))).weight
        """
    assert load(text, tmp_path) == 1


def test_a_file_and_the_modules_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("VALUE = 1")
    (tmp_path / "train_it.py").write_text(
        "import beside_it\ndef objective(trial): return beside_it.VALUE"
    )
    assert python.from_text("train_it.py", tmp_path)(None) == 1  # type: ignore[arg-type]


def test_a_function_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "train_it.py").write_text("def a(trial): return 1\ndef b(trial): return 2")
    assert python.from_text("train_it.py:b", tmp_path)(None) == 2  # type: ignore[arg-type]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ObjectiveImportError, match=r"train\.py does not exist$"):
        python.from_text("train.py", tmp_path)


def test_a_module_in_the_folder(tmp_path: Path) -> None:
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "training.py").write_text(
        "class Task:\n  @staticmethod\n  def objective(trial): return 1"
    )
    found = python.from_text("some_package.training:Task.objective", tmp_path)
    assert found(None) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_such_package.train:objective",
            "the module no_such_package.train can't be loaded: ModuleNotFoundError: No module "
            "named 'no_such_package'",
        ),
        ("json:objective", "json has no 'objective': no objective json:objective"),
        ("json:tool.nothing", "json has no 'tool': no objective json:tool.nothing"),
        ("json:__version__", "json:__version__ is no function but of type str"),
    ],
)
def test_a_module_without_the_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    import json

    monkeypatch.delattr(json, "tool", raising=False)
    with pytest.raises(ObjectiveImportError) as caught:
        python.from_text(name, tmp_path)
    assert str(caught.value) == message


def test_text_that_names_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        python.from_text("objective", tmp_path)
    assert str(caught.value) == (
        "--objective: found 'objective', accepted: FILE.py, FILE.py:function or "
        "package.module:function"
    )

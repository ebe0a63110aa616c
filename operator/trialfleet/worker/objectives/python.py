"""Objectives written in Python: inline source, a file, or a function of a module."""

import importlib
import importlib.util
import inspect
import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from optuna.trial import Trial

from trialfleet.api.manifest import Manifest
from trialfleet.api.study import StudySpec
from trialfleet.model.errors import InvalidInput, ObjectiveImportError
from trialfleet.worker import failure

Function = Callable[[Trial], object]

DEFAULT_FUNCTION = "objective"
INLINE_FILENAME = "objective.py"
"""What tracebacks call inline source."""
INLINE_MODULE = "trialfleet_objective"
"""Under this name inline source is a module like any other, so that its classes pickle."""


def load(spec: StudySpec, manifest: Manifest) -> Function:
    """Return the function that a manifest's ``spec.objective.python`` names.

    Raises:
        ObjectiveImportError: It can't be loaded; the notes hold the user's traceback.
        InvalidInput: The source is in a ConfigMap that the manifest does not hold.
    """
    python, folder = spec.objective.python, manifest.path.parent
    assert python is not None
    if python.callable is not None:
        return from_module(python.callable, folder)
    if python.source is not None:
        return from_source(python.source, python.function, folder)
    if python.file is not None:
        return from_file(folder / python.file, python.function, folder)
    assert python.config_map is not None
    name, key = python.config_map.name, python.config_map.key
    source = manifest.config_maps.get(name, {}).get(key)
    if source is None:
        raise InvalidInput(
            f"spec.objective.python.configMap: found no ConfigMap {name!r} with a key {key!r} in "
            f"{manifest.path}; accepted: one in the same file, or --objective FILE.py"
        )
    return from_source(source, python.function, folder)


def from_text(text: str, folder: Path) -> Function:
    """Return the function that ``FILE``, ``FILE:function`` or ``package.module:function`` names.

    Raises:
        ObjectiveImportError: As for ``load``.
    """
    path, colon, function = text.rpartition(":") if text.count(":") else (text, "", "")
    if path.endswith(".py"):
        return from_file(folder / path, function or None, folder)
    if not colon:
        raise InvalidInput(
            f"--objective: found {text!r}, accepted: FILE.py, FILE.py:function or "
            "package.module:function"
        )
    return from_module(text, folder)


def from_source(source: str, function: str | None, folder: Path) -> Function:
    """Return a function of inline source: ``function``, ``objective``, or the only one.

    Raises:
        ObjectiveImportError: The source does not run, or has no such function.
    """
    module = ModuleType(INLINE_MODULE)
    module.__file__ = INLINE_FILENAME
    # Without a time of change the entry stays, whatever file of that name there is.
    lines = source.splitlines(keepends=True)
    linecache.cache[INLINE_FILENAME] = (len(source), None, lines, INLINE_FILENAME)
    sys.modules[INLINE_MODULE] = module
    with _importing("the objective's source", folder):
        exec(compile(source, INLINE_FILENAME, "exec"), module.__dict__)
    return _find(module, function, "the objective's source")


def from_file(path: Path, function: str | None, folder: Path) -> Function:
    """Return a function of a file: ``function``, ``objective``, or the only one.

    Raises:
        ObjectiveImportError: The file can't be read or run, or has no such function.
    """
    if not path.is_file():
        raise ObjectiveImportError(f"the objective's file {path} does not exist")
    spec = importlib.util.spec_from_file_location(path.stem, path.absolute())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    with _importing(str(path), path.parent, folder):
        spec.loader.exec_module(module)
    return _find(module, function, str(path))


def from_module(name: str, folder: Path) -> Function:
    """Return the function ``package.module:function``.

    Raises:
        ObjectiveImportError: The module can't be imported, or has no such function.
    """
    module_name, _, path = name.partition(":")
    with _importing(f"the module {module_name}", folder):
        found: object = importlib.import_module(module_name)
    walked = module_name
    for part in path.split("."):
        if not hasattr(found, part):
            raise ObjectiveImportError(f"{walked} has no {part!r}: no objective {name}")
        found = getattr(found, part)
        walked = f"{walked}.{part}"
    return _checked(found, name)


@contextmanager
def _importing(what: str, *folders: Path) -> Iterator[None]:
    """Make the folders and the working directory importable, and tell what the import raises."""
    for path in (str(Path.cwd()), *(str(folder.absolute()) for folder in folders)):
        if path not in sys.path:
            sys.path.insert(0, path)
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raised = ObjectiveImportError(f"{what} can't be loaded: {failure.describe(error)}")
        raised.add_note(failure.user_traceback(error))
        raise raised from error


def _find(module: ModuleType, function: str | None, where: str) -> Function:
    wanted = function or DEFAULT_FUNCTION
    if wanted in vars(module):
        return _checked(vars(module)[wanted], f"{where}: {wanted}")
    taking_a_trial = [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and _takes_a_trial(value)
    ]
    if function is None and len(taking_a_trial) == 1:
        return _checked(vars(module)[taking_a_trial[0]], f"{where}: {taking_a_trial[0]}")
    accepted = f"accepted: def {wanted}(trial)"
    if function is not None or not taking_a_trial:
        raise ObjectiveImportError(f"{where} defines no function {wanted!r}; {accepted}")
    raise ObjectiveImportError(
        f"{where} defines {len(taking_a_trial)} functions that take a trial "
        f"({', '.join(taking_a_trial)}) and none is called {wanted!r}; {accepted}"
    )


def _takes_a_trial(function: Callable[..., object]) -> bool:
    first = next(iter(inspect.signature(function).parameters.values()), None)
    if first is None or not _takes_one(function):
        return False
    annotation = getattr(first.annotation, "__name__", first.annotation)
    return first.name == "trial" or str(annotation).rpartition(".")[2].strip("'\"") == "Trial"


def _takes_one(function: Callable[..., object]) -> bool:
    try:
        signature = inspect.signature(function)
    except ValueError:  # C code may have none
        return True
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True


def _checked(found: object, name: str) -> Function:
    if not callable(found):
        raise ObjectiveImportError(f"{name} is no function but of type {type(found).__name__}")
    if inspect.iscoroutinefunction(found) or inspect.isgeneratorfunction(found):
        kind = "async" if inspect.iscoroutinefunction(found) else "a generator"
        raise ObjectiveImportError(f"{name} is {kind}; accepted: a function that returns a number")
    if not _takes_one(found):
        raise ObjectiveImportError(
            f"{name}{inspect.signature(found)} can't be called with one argument, the trial"
        )
    return found

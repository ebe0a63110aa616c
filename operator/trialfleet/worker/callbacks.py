"""A manifest's callbacks: loaded once, called after each trial of this worker."""

import functools
import importlib
import inspect
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial

from trialfleet.api.callback import Callback
from trialfleet.model.errors import ObjectiveImportError, SchemaMismatch, StorageUnavailable
from trialfleet.worker import failure, forks

Function = Callable[[Study, FrozenTrial], object]

_END_THE_WORKER: Final = (StorageUnavailable, SchemaMismatch)

_log = logging.getLogger(__name__)


def load(callbacks: Sequence[Callback]) -> list[tuple[str, Function]]:
    """Return each callback's name and what is called with study and trial.

    The folders that the objective's modules are imported from have to be importable already.

    Raises:
        ObjectiveImportError: One can't be imported or made; the notes hold the user's traceback.
    """
    return [
        (one.name, _load(f"spec.callbacks[{place}]", one)) for place, one in enumerate(callbacks)
    ]


def _load(path: str, callback: Callback) -> Function:
    try:
        found = _import(callback.name)
        made: object = found
        if inspect.isclass(found):
            with warnings.catch_warnings():
                # Whoever names an experimental class in a manifest has chosen it.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                made = found(**callback.options)
        elif callable(found) and callback.options:
            made = functools.partial(found, **callback.options)
        _check(made)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raised = ObjectiveImportError(
            f"{path}: {callback.name} can't be loaded: {failure.describe(error)}"
        )
        raised.add_note(failure.user_traceback(error))
        raise raised from error
    assert callable(made)
    return made


def _import(name: str) -> object:
    """Return what a name stands for: without a colon, its longest part that is a module counts."""
    module_name, colon, path = name.partition(":")
    if colon:
        return _walk(importlib.import_module(module_name), path.split("."))
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:length])
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # A class within a class: what stands before it is no module.
            if (
                length == 1
                or error.name is None
                or not f"{module_name}.".startswith(f"{error.name}.")
            ):
                raise
            continue
        return _walk(module, parts[length:])
    raise AssertionError("the first part is imported, or raises")


def _walk(found: object, path: Iterable[str]) -> object:
    for part in path:
        found = getattr(found, part)
    return found


def _check(made: object) -> None:
    if not callable(made):
        raise TypeError(f"found an object of type {type(made).__name__}, accepted: a callable")
    function: Callable[..., object] = made
    options: dict[str, object] = {}
    if isinstance(made, functools.partial):
        function, options = made.func, made.keywords
    if inspect.iscoroutinefunction(function):
        raise TypeError("is async, accepted: a function that is called and returns")
    try:
        signature = inspect.signature(function)
    except ValueError:  # C code may have none
        return
    try:
        signature.bind(None, None, **options)
    except TypeError as error:
        raise TypeError(f"can't be called with a study and a trial: {error}") from None


class Callbacks:
    """Calls all of them, in their order. What one raises is told once, and never the trial's."""

    def __init__(self, callbacks: Sequence[tuple[str, Function]]) -> None:
        self._callbacks = callbacks
        self._told = set[tuple[str, str]]()

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Raises what ends this worker: a storage that is away, and interrupts."""
        for name, callback in self._callbacks:
            try:
                with forks.end_here():
                    callback(study, trial)
            except _END_THE_WORKER:
                raise
            except (Exception, SystemExit) as error:
                self._tell(name, trial.number, error)

    def _tell(self, name: str, number: int, error: BaseException) -> None:
        told = name, failure.one_line(error)
        if told not in self._told:
            self._told.add(told)
            _log.warning(
                "callback %s failed after trial %d, which is kept: %s", name, number, told[1]
            )

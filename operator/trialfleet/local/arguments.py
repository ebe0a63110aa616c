"""What arguments ``trialfleet.optimize`` takes: told at once, not by a process that fails."""

import math
import operator
from collections.abc import Iterable
from typing import Any, Final

from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from trialfleet.model import database_url

_STORAGE: Final = (
    f"{database_url.ACCEPTED}, as text; or None: the trials are in the returned study only"
)


def check_storage(storage: object) -> None:
    """Raise ``TypeError`` or ``InvalidInput`` if a storage is no URL of a PostgreSQL database."""
    if storage is None:
        return
    if not isinstance(storage, str):
        raise TypeError(f"storage: found {_kind(storage)}, accepted: {_STORAGE}")
    database_url.parse(storage)


def count(name: str, value: object, accepted: str) -> int:
    """Return a whole number, which may be NumPy's. Raises ``TypeError``."""
    if not isinstance(value, bool):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(f"{name}: found {value!r:.60}, accepted: {accepted}")


def check_timeout(timeout: object) -> None:
    """Raise ``TypeError`` or ``ValueError`` if it is no number of seconds."""
    accepted = "seconds, 0 or more, or None"
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout: found {timeout!r:.60}, accepted: {accepted}")
    if math.isnan(timeout) or timeout < 0:
        raise ValueError(f"timeout: found {timeout}, accepted: {accepted}")


def check_objects(
    *, objective: object, sampler: object, pruner: object, study_name: object
) -> None:
    """Raise ``TypeError`` if one of them is of another type."""
    if not callable(objective):
        raise TypeError(f"objective: found {_kind(objective)}, accepted: a function of a trial")
    for name, value, kind in (("sampler", sampler, BaseSampler), ("pruner", pruner, BasePruner)):
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name}: found {_kind(value)}, accepted: an object of optuna.{name}s")
    if study_name is not None and not isinstance(study_name, str):
        raise TypeError(f"study_name: found {_kind(study_name)}, accepted: a text")


def callbacks(value: object) -> list[Any]:
    """Return callbacks as a list. Raises ``TypeError``."""
    if value is None:
        return []
    given = list(value) if isinstance(value, Iterable) else [None]
    if not all(map(callable, given)):
        raise TypeError(f"callbacks: found {_kind(value)}, accepted: a list of functions")
    return given


def caught(value: object) -> tuple[type[BaseException], ...]:
    """Return the exceptions to catch. Raises ``TypeError``."""
    given = tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in given):
        raise TypeError(f"catch: found {value!r:.60}, accepted: classes of exceptions")
    return given


def _kind(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"

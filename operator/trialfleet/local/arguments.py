"""What arguments ``trialfleet.optimize`` takes: told at once, not by a process that fails."""

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, Final

from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection

from trialfleet.api.requirements import is_requirement
from trialfleet.local.packages import CACHE, LocalPackages
from trialfleet.model import database_url
from trialfleet.model.errors import InvalidInput
from trialfleet.worker.packages import Wanted

_JOBS: Final = "1 or more, or -1"

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


def jobs(n_jobs: object, parallelism: object) -> int:
    """Return how many worker processes are wanted. Raises ``TypeError`` or ``ValueError``."""
    name, value = "n_jobs", n_jobs
    if parallelism is not None:
        if n_jobs != 1:
            raise ValueError("parallelism: found beside n_jobs, accepted: one of the two")
        name, value = "parallelism", parallelism
    wanted = count(name, value, _JOBS)
    if wanted < 1 and wanted != -1:
        raise ValueError(f"{name}: found {value}, accepted: {_JOBS}")
    return wanted


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


def packages(value: Sequence[str] | None) -> LocalPackages | None:
    """Return what is to be installed. Raises ``TypeError`` or ``InvalidInput``."""
    if not value:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"packages: found {value!r:.60}, accepted: a list of requirements")
    for at, text in enumerate(value):
        if not isinstance(text, str) or not is_requirement(text):
            raise InvalidInput(
                f"packages[{at}]: found {text!r:.60}, accepted: a requirement as pip takes it, "
                "such as scikit-learn==1.7.*"
            )
    wanted = Wanted(tuple(value), None)
    wanted.check()
    return LocalPackages(wanted, CACHE)


def caught(value: object) -> tuple[type[BaseException], ...]:
    """Return the exceptions to catch. Raises ``TypeError``."""
    given = tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in given):
        raise TypeError(f"catch: found {value!r:.60}, accepted: classes of exceptions")
    return given


def directions(
    direction: str | StudyDirection | None, several: Sequence[str | StudyDirection] | None
) -> list[StudyDirection]:
    """Return the directions of a study. Raises ``ValueError``."""
    if direction is not None and several is not None:
        raise ValueError("direction and directions: found both, accepted: one of them")
    given = list(several) if several is not None else [direction or "minimize"]
    if not given:
        raise ValueError("directions: found none, accepted: one or more")
    try:
        return [d if isinstance(d, StudyDirection) else StudyDirection[d.upper()] for d in given]
    except KeyError as error:
        raise ValueError(
            f"direction: found {error.args[0].lower()!r}, accepted: minimize or maximize"
        ) from None


def _kind(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"

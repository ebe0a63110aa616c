"""From Trialfleet's errors to those that Optuna's storages raise."""

import functools
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError

from trialfleet.model.errors import (
    InvalidInput,
    MessageTooLarge,
    NotFound,
    StudyExists,
    TrialFinished,
    TrialfleetError,
)

_P = ParamSpec("_P")
_R = TypeVar("_R")

_OPTUNA_ERRORS: Final[dict[type[TrialfleetError], type[Exception]]] = {
    NotFound: KeyError,
    StudyExists: DuplicatedStudyError,
    TrialFinished: UpdateFinishedTrialError,
    InvalidInput: ValueError,
    # A ValueError too, but Optuna raises none for it: it says more as it is.
    MessageTooLarge: MessageTooLarge,
}


def optuna_errors(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a method raise what :class:`optuna.storages.BaseStorage` says, with the same message."""

    @functools.wraps(method)
    def translated(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(*args, **kwargs)
        except (NotFound, StudyExists, TrialFinished, InvalidInput) as error:
            translation = translate(error)
            if translation is error:
                raise
            raise translation from error

    return translated


def translate(error: TrialfleetError) -> Exception:
    """Return the error that Optuna's interface raises for one of ours: itself if there is none."""
    kind = _OPTUNA_ERRORS.get(type(error), type(error))
    return error if kind is type(error) else kind(str(error))

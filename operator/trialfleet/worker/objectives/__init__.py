"""The kinds of objective, and how each becomes a function of an Optuna trial."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from optuna.trial import Trial

from trialfleet.api.manifest import Manifest
from trialfleet.api.study import StudySpec
from trialfleet.model.errors import InvalidInput
from trialfleet.worker.objectives import command, python

Function = Callable[[Trial], object]


class ObjectiveKind(Protocol):
    """Makes a function of an objective of one kind.

    Raises ``ObjectiveImportError`` if the user's own code can't be loaded, and ``InvalidInput``
    if the manifest asks for what this worker can't do. The function may return anything: the
    loop says what is wrong with it.
    """

    def __call__(self, spec: StudySpec, manifest: Manifest) -> Function:
        """Relative paths begin in the manifest's folder."""


_KINDS: Final[Mapping[str, ObjectiveKind]] = {"python": python.load, "command": command.load}


def load(spec: StudySpec, manifest: Manifest) -> Function:
    """Return the function that runs one trial of a study's objective.

    Raises:
        ObjectiveImportError: The user's code can't be loaded; its notes hold the traceback.
        InvalidInput: The kind of objective is none that a worker runs.
    """
    kind = next(name for name, given in spec.objective if given is not None)
    if kind not in _KINDS:
        raise InvalidInput(
            f"spec.objective.{kind}: found a kind that no worker runs, accepted: "
            f"{' or '.join(_KINDS)}"
        )
    return _KINDS[kind](spec, manifest)

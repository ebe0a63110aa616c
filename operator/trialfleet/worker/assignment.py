"""What a worker is told to do: a study, by its manifest or its name, and an objective."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optuna.trial import Trial

from trialfleet.api import manifest
from trialfleet.api.manifest import Manifest
from trialfleet.api.study import Study, StudySpec
from trialfleet.model.errors import InvalidInput
from trialfleet.worker import objectives
from trialfleet.worker.objectives import python

_SUFFIXES: Final = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class Assignment:
    """A study and what its trials run."""

    study_name: str
    spec: StudySpec | None
    """None for a study that is given by its name only."""
    load: Callable[[], Callable[[Trial], object]]
    """Loads the objective. Raises ``ObjectiveImportError`` and ``InvalidInput``."""


def read(study: str, *, name: str = "", objective: str = "") -> Assignment:
    """Return what a worker has to do.

    Args:
        study: Path of a manifest, or the name of a study.
        name: Which study of the manifest; needed if it holds several.
        objective: Where the objective is, as ``FILE.py``, ``FILE.py:function`` or
            ``package.module:function``, if not where the manifest says.

    Raises:
        InvalidInput: There is no such manifest or study in it, or no objective.
    """
    path = Path(study)
    if not (path.suffix in _SUFFIXES or path.is_file()):
        if not objective:
            raise InvalidInput(
                f"--study: found the name {study!r} without an objective; accepted: a manifest, or "
                "a name with --objective FILE.py or package.module:function"
            )
        return Assignment(study, None, lambda: python.from_text(objective, Path.cwd()))
    chosen, held = find(path, name)
    if objective:
        return Assignment(
            chosen.metadata.name,
            chosen.spec,
            lambda: python.from_text(objective, path.parent),
        )
    return Assignment(
        chosen.metadata.name,
        chosen.spec,
        lambda: objectives.load(chosen.spec, held),
    )


def find(path: Path, name: str) -> tuple[Study, Manifest]:
    """Return a study of a manifest, and all that is in it.

    Raises ``InvalidInput`` as ``read``.
    """
    held = manifest.read(path)
    return _choose(held, name), held


def _choose(held: Manifest, name: str) -> Study:
    studies = {one.metadata.name: one for one in held.resources if isinstance(one, Study)}
    if name in studies:
        return studies[name]
    listed = ", ".join(studies) or "none"
    if name:
        raise InvalidInput(f"{held.path}: found no Study {name!r}, accepted: {listed}")
    if len(studies) != 1:
        raise InvalidInput(
            f"{held.path}: found {len(studies)} Studies ({listed}); a worker runs one: name it "
            "with --name"
        )
    return next(iter(studies.values()))

"""What surrounds a running objective: its environment variables and its checkpoint folder."""

import contextlib
import os
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path

from optuna.trial import FrozenTrial

from trialfleet import names
from trialfleet.errors import InvalidInput


def origin_of(trial: FrozenTrial) -> int:
    """Return the number of the trial that this one retries, or its own."""
    return int(trial.system_attrs.get(names.ATTR_FAILED_TRIAL, trial.number))


def study_folder(checkpoint_root: Path, study: str) -> Path:
    """Make and return the folder that holds the checkpoint folders of a study.

    Raises:
        InvalidInput: The folder can't be made.
    """
    # Optuna takes any text for a study's name.
    name = urllib.parse.quote(study, safe="")
    if not name.strip("."):
        name = name.replace(".", "%2E")
    return _made(checkpoint_root.absolute() / name)


@contextlib.contextmanager
def of_trial(trial: FrozenTrial, folder: Path | None) -> Iterator[None]:
    """Give a trial its environment variables, and a folder of its own in ``folder``.

    The folder is gone afterwards if nothing was put into it.

    Raises:
        InvalidInput: The folder can't be made.
    """
    origin = origin_of(trial)
    variables = {
        names.ENV_TRIAL_NUMBER: str(trial.number),
        names.ENV_TRIAL_ORIGIN: str(origin),
    }
    if folder is None:
        with _environment(variables):
            yield
        return
    checkpoints = _made(folder / str(origin))
    variables[names.ENV_CHECKPOINT_DIR] = str(checkpoints)
    try:
        with _environment(variables):
            yield
    finally:
        with contextlib.suppress(OSError):
            checkpoints.rmdir()


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"the checkpoint folder {folder} can't be made: {error.strerror}"
        ) from error
    return folder


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    former = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

"""What surrounds a running objective: its environment variables and its checkpoint folder."""

import contextlib
import os
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from optuna.trial import FrozenTrial

from trialfleet import names
from trialfleet.model.errors import InvalidInput

_VARIABLES: Final = (names.ENV_TRIAL_NUMBER, names.ENV_TRIAL_ORIGIN, names.ENV_CHECKPOINT_DIR)


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
def of_worker() -> Iterator[None]:
    """Have the environment variables of the trials in between, and afterwards what was before."""
    former = {name: os.environ.get(name) for name in _VARIABLES}
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def of_trial(trial: FrozenTrial, folder: Path | None) -> Iterator[None]:
    """Give a trial its environment variables, and a folder of its own in ``folder``.

    The folder is gone afterwards if nothing was put into it. The variables stay until the next
    trial has its own: use it inside of :func:`of_worker`.

    Raises:
        InvalidInput: The folder can't be made.
    """
    origin = origin_of(trial)
    os.environ[names.ENV_TRIAL_NUMBER] = str(trial.number)
    os.environ[names.ENV_TRIAL_ORIGIN] = str(origin)
    if folder is None:
        yield
        return
    checkpoints = _made(folder / str(origin))
    os.environ[names.ENV_CHECKPOINT_DIR] = str(checkpoints)
    try:
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

"""A worker's own log: plain lines on standard error, and whose lines the others are."""

import contextlib
import enum
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import Final

import optuna

from trialfleet.model import trial_marks

_STANDARD_OUTPUT: Final = 1


class Level(enum.StrEnum):
    """From which level on lines are written."""

    DEBUG = "debug"
    """Every trial, and what Optuna says."""
    INFO = "info"
    """What concerns the worker."""
    WARNING = "warning"
    """Failed trials."""
    ERROR = "error"


def configure(level: Level) -> None:
    """Send this process's log to standard error: of Trialfleet from ``level``, else warnings.

    Optuna's lines go the same way; the ones about each trial only at ``Level.DEBUG``.
    """
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("trialfleet").setLevel(level.upper())
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    verbose = level is Level.DEBUG
    optuna.logging.set_verbosity(optuna.logging.INFO if verbose else optuna.logging.WARNING)


@contextlib.contextmanager
def marked(number: int) -> Iterator[None]:
    """Have standard output say where the output of a trial begins and ends."""
    _mark(trial_marks.begin_mark(number))
    try:
        yield
    finally:
        _mark(trial_marks.end_mark(number))


def _mark(line: str) -> None:
    # Python holds back what a pipe gets, and would write it after the mark. An objective may
    # have replaced or closed its standard output.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(_STANDARD_OUTPUT, f"{line}\n".encode())

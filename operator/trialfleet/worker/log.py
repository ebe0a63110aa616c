"""A worker's own log: plain lines on standard error."""

import enum
import logging
import time

import optuna


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

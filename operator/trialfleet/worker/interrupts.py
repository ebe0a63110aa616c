"""The exceptions by which a worker's main thread is called away from what it does.

They derive from ``BaseException`` so that an objective's ``except Exception`` lets them pass.
"""

from types import FrameType
from typing import ClassVar


class Interrupt(BaseException):
    """Base of all of them."""

    yield_s: ClassVar[float] = 2.0
    """For the main thread to come away before the process is ended; interrupted again halfway."""


class TrialTimedOut(Interrupt):
    """The running trial's time is over."""

    yield_s = 10.0


class HandBack(Interrupt):
    """The worker leaves and the running trial did not finish in time."""


class Leave(Interrupt):
    """The worker leaves and runs no trial."""


_CLIENTS = ("trialfleet.client", "trialfleet.wire", "optuna.storages")
_GROUP = ("trialfleet.worker.group",)
_IMPORTS = ("importlib._bootstrap", "importlib._bootstrap_external")


def in_client(frame: FrameType | None) -> bool:
    """Whether a thread, by its innermost frame, is inside a call to the storage.

    An interrupted call could leave the storage's buffers half written.
    """
    return _inside(frame, _CLIENTS)


def in_group(frame: FrameType | None) -> bool:
    """Whether a thread, by its innermost frame, is starting or ending a program.

    What was just started would be out of sight after an interrupt.
    """
    return _inside(frame, _GROUP)


def in_import(frame: FrameType | None) -> bool:
    """Whether a thread, by its innermost frame, is importing a module.

    Many C extensions can't be loaded again after an interrupted import.
    """
    return _inside(frame, _IMPORTS)


def _inside(frame: FrameType | None, modules: tuple[str, ...]) -> bool:
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith(modules):
            return True
        frame = frame.f_back
    return False

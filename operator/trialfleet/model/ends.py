"""What the end of a worker means: for its trial, lost or failed, and for who would replace it.

Decided here once, for a process on one machine and for a pod on a cluster alike.
"""

import enum
import signal
from dataclasses import dataclass
from typing import Final

from trialfleet import names
from trialfleet.model import errors

_CRASHES: Final = frozenset(
    {
        signal.SIGSEGV,
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGSYS,
        signal.SIGXCPU,
        signal.SIGXFSZ,
    }
)
"""Signals that a program draws on itself; nobody ends another's process with them."""


class EndKind(enum.Enum):
    """What follows from a worker's end."""

    NO_MORE_WORK = enum.auto()
    """It found no more work; or the objective ended its process as if it had not."""
    LEFT = enum.auto()
    """It left by itself and took care of its trial: another one may take its place."""
    LOST = enum.auto()
    """It was taken away: its trial is run again."""
    FAILED = enum.auto()
    """The objective ended it: its trial counts as failed."""
    OBJECTIVE_UNUSABLE = enum.auto()
    """No worker can run this objective."""
    UNUSABLE = enum.auto()
    """No worker can be started with these settings."""
    NOT_STARTED = enum.auto()
    """It never ran."""


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """How a worker ended, and what is said of a trial that it was running."""

    kind: EndKind
    reason: str = ""
    """One word, such as ``OOMKilled``."""
    message: str = ""
    """For people."""

    @property
    def unusable(self) -> bool:
        """Whether no other worker would fare better."""
        return self.kind in (EndKind.OBJECTIVE_UNUSABLE, EndKind.UNUSABLE)


def end_of_exit(code: int) -> WorkerEnd:
    """Return what it means that a worker's process ended by itself, with an exit code."""
    if code in (errors.EXIT_DRAINED, errors.EXIT_OVERRUN):
        return WorkerEnd(EndKind.LEFT, names.REASON_KILLED, "the worker left")
    if code == errors.EXIT_OBJECTIVE:
        return WorkerEnd(EndKind.OBJECTIVE_UNUSABLE)
    if code == errors.EXIT_INVALID:
        return WorkerEnd(EndKind.UNUSABLE)
    if code == errors.EXIT_UNAVAILABLE:
        return WorkerEnd(EndKind.LOST, names.REASON_KILLED, "the worker found no storage")
    kind = EndKind.NO_MORE_WORK if code == errors.EXIT_OK else EndKind.FAILED
    message = f"the objective ended its process with exit code {code}"
    return WorkerEnd(kind, names.REASON_CRASHED, message)


def end_of_signal(number: int) -> WorkerEnd:
    """Return what it means that a worker's process was ended by a signal."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number in _CRASHES:
        message = f"the objective crashed its process with {name}"
        return WorkerEnd(EndKind.FAILED, names.REASON_CRASHED, message)
    return WorkerEnd(EndKind.LOST, names.REASON_KILLED, f"the worker was killed by {name}")

"""What the end of a worker process means."""

import enum
import signal
from dataclasses import dataclass
from pathlib import Path
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


class Fate(enum.Enum):
    """What is to follow from a worker's end."""

    DONE = enum.auto()
    """It found no more work; or the objective ended its process as if it had not."""
    LEFT = enum.auto()
    """It ended by itself, and owes nothing: another one may take its place."""
    LOST = enum.auto()
    """Somebody ended it: its trial is run again."""
    FAILED = enum.auto()
    """The objective ended its own process: its trial counts as failed."""
    OBJECTIVE_UNUSABLE = enum.auto()
    """No worker can run this objective."""
    UNUSABLE = enum.auto()
    """No worker can be started with these settings."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A worker's fate, and for a trial that it was running the reason and a message."""

    fate: Fate
    reason: str = ""
    message: str = ""


def judge(return_code: int, *, out_of_memory: bool) -> Verdict:
    """Judge a worker by its return code, as ``subprocess`` gives it (a signal is negative).

    ``out_of_memory``: the kernel has killed a process for want of memory since the worker began.
    """
    if return_code in (errors.EXIT_DRAINED, errors.EXIT_OVERRUN):
        return Verdict(Fate.LEFT, names.REASON_KILLED, "the worker left")
    if return_code == errors.EXIT_OBJECTIVE:
        return Verdict(Fate.OBJECTIVE_UNUSABLE)
    if return_code == errors.EXIT_INVALID:
        return Verdict(Fate.UNUSABLE)
    if return_code == errors.EXIT_UNAVAILABLE:
        return Verdict(Fate.LOST, names.REASON_KILLED, "the worker found no storage")
    if return_code >= 0:
        return Verdict(
            Fate.DONE if return_code == errors.EXIT_OK else Fate.FAILED,
            names.REASON_CRASHED,
            f"the objective ended its process with exit code {return_code}",
        )
    name = _signal_name(-return_code)
    if -return_code in _CRASHES:
        return Verdict(
            Fate.FAILED, names.REASON_CRASHED, f"the objective crashed its process with {name}"
        )
    if -return_code == signal.SIGKILL and out_of_memory:
        return Verdict(
            Fate.FAILED, names.REASON_OOM_KILLED, "the kernel killed the process: out of memory"
        )
    return Verdict(Fate.LOST, names.REASON_KILLED, f"the worker was killed by {name}")


def oom_kills() -> int:
    """Return how many processes this machine's kernel has killed for want of memory.

    Linux counts them; where it can't be told, always 0, and such a trial is taken for one
    that was killed from outside.
    """
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

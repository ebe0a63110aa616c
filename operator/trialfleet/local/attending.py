"""Attends a running fleet until it ends, and ends it when the user wants that."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Final

from trialfleet.local.dry_plan import WORKER_GRACE_S
from trialfleet.local.progress import ProgressView
from trialfleet.local.supervisor import Fleet

REFRESH_S: Final = 0.25

KILL_AFTER_S: Final = WORKER_GRACE_S + 8.0
"""A worker that is asked to leave ends itself before that, unless it can't run any more."""

_STEPS: Final = 3
"""Ctrl-C once lets trials finish, twice hands them back, three times kills the workers."""


_LEAVING: Final = {
    1: f"stopping: running trials get {WORKER_GRACE_S:.0f} s to finish, then they are handed back; "
    "Ctrl-C again to hand them back now",
    2: "handing the running trials back; Ctrl-C again to kill the workers",
}


class Interrupts:
    """Counts Ctrl-C, SIGTERM and SIGHUP while a fleet is attended; else they raise.

    Counted, they can't come in between where something is being ended in order.
    """

    def __init__(self) -> None:
        self.counting = False
        self.count = 0

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals; main thread only."""
        # What is ignored stays so: nohup and a shell's background jobs ask for that.
        former = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.counting or self.count >= _STEPS:
            raise KeyboardInterrupt
        self.count += 1


def attend(fleet: Fleet, view: ProgressView, interrupts: Interrupts) -> bool:
    """Show a fleet's progress until all its workers have ended; return whether it was stopped.

    Raises what ended the fleet, if it was an error.
    """
    interrupts.counting = True
    done = 0
    kill_at = float("inf")
    while not fleet.crew.join(REFRESH_S):
        view.update(fleet.crew.summary, fleet.crew.running)
        now = time.monotonic()
        if now > kill_at:
            fleet.crew.close()
        while done < interrupts.count:
            done += 1
            kill_at = min(kill_at, now + (KILL_AFTER_S if done < _STEPS else 0.0))
            if done < _STEPS:
                view.line(_LEAVING[done])
                fleet.crew.leave()
    if fleet.crew.error is not None:
        raise fleet.crew.error
    view.update(fleet.crew.look(), 0)
    return interrupts.count > 0

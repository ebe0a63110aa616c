"""Attends a running fleet until it ends, and ends it when the user wants that."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Final

from trialfleet.local.plan import WORKER_GRACE_S
from trialfleet.local.progress import View
from trialfleet.local.supervisor import Fleet

REFRESH_S: Final = 0.25

KILL_AFTER_S: Final = WORKER_GRACE_S + 8.0
"""A worker that is asked to leave ends itself before that, unless it can't run any more."""


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does: raise ``KeyboardInterrupt``. Main thread only."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    former = {number: signal.signal(number, interrupt) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


def attend(fleet: Fleet, view: View) -> bool:
    """Show a fleet's progress until all its workers have ended; return whether it was stopped.

    The first Ctrl-C lets running trials finish, the second has them handed back, the third
    kills the workers. Raises what ended the fleet, if it was an error.
    """
    asked = 0
    kill_at = float("inf")
    while True:
        try:
            while not fleet.crew.join(REFRESH_S):
                view.update(fleet.crew.summary, fleet.crew.running)
                if time.monotonic() > kill_at:
                    fleet.crew.kill()
            break
        except KeyboardInterrupt:
            asked += 1
            if asked == 1:
                kill_at = time.monotonic() + KILL_AFTER_S
                view.line(
                    f"stopping: running trials get {WORKER_GRACE_S:.0f} s to finish, then they "
                    "are handed back; Ctrl-C again to hand them back now"
                )
                fleet.crew.leave()
            elif asked == 2:
                view.line("handing the running trials back; Ctrl-C again to kill the workers")
                fleet.crew.leave()
            else:
                fleet.crew.kill()
    if fleet.crew.error is not None:
        raise fleet.crew.error
    view.update(fleet.crew.look(), 0)
    return asked > 0

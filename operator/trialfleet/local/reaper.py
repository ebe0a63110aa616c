"""Ends the processes of a supervisor that was itself ended, whatever ended it.

A program of its own, started by ``processes.py`` as ``python -I -S reaper.py``: the standard
library is all it needs. On its stdin, a pipe, it is told of process groups: ``+PID RANK`` when
one begins, ``-PID`` when one is gone. The kernel closes the pipe when the supervisor ends;
then the groups are ended, those of the lowest rank first, so that workers can still hand
their trials back through the proxy.
"""

import os
import signal
import sys
import time

POLL_S = 0.02

INSIST_S = 0.25
"""A worker that is asked twice hands its trial back at once, instead of finishing it."""


def main() -> None:
    """Read what there is to end, and end it. The first argument is the grace in seconds."""
    grace_s = float(sys.argv[1])
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    ranks: dict[int, int] = {}
    for line in sys.stdin.buffer:
        words = line.split()
        if words[0].startswith(b"+"):
            ranks[int(words[0])] = int(words[1])
        else:
            ranks.pop(-int(words[0]), None)
    for rank in sorted(set(ranks.values())):
        end([group for group in ranks if ranks[group] == rank], grace_s)


def end(groups: list[int], grace_s: float) -> None:
    """Ask process groups to end, and after the grace kill what is left of them."""
    left = groups
    for wait_s in (min(INSIST_S, grace_s), grace_s):
        left = [group for group in left if send(group, signal.SIGTERM)]
        deadline = time.monotonic() + wait_s
        while left and time.monotonic() < deadline:
            time.sleep(POLL_S)
            left = [group for group in left if send(group, 0)]
    # Also those whose leader ended in time: its children may not have.
    for group in groups:
        send(group, signal.SIGKILL)


def send(group: int, signum: int) -> bool:
    """Send a signal to a process group; return whether there is anybody in it."""
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):
        # macOS answers EPERM for a group of which only zombies are left.
        return False
    return True


if __name__ == "__main__":
    main()

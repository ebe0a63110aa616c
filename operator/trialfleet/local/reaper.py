"""Ends the processes of a supervisor that was itself ended, whatever ended it.

A program of its own, started by ``processes.py`` as ``python -I -S reaper.py``: the standard
library is all it needs. On its stdin, a pipe, it is told of process groups: ``+PID RANK`` when
one begins, ``-PID`` when one is gone. The kernel closes the pipe when the supervisor ends;
then the groups are ended, those of the lowest rank first, so that workers can still hand
their trials back through the proxy. Last are the daemons: what has left its group, told by a
variable that all of them have in their environment, where the kernel shows it (Linux).
"""

import os
import signal
import sys
import time

POLL_S = 0.02

DAEMON_S = 1.0
"""For a daemon to end after SIGTERM."""

INSIST_S = 0.25
"""A worker that is asked twice hands its trial back at once, instead of finishing it."""


def main() -> None:
    """Read what there is to end, and end it.

    The first argument is the grace in seconds, the second ``NAME=VALUE`` of the variable, and the
    third a folder of sockets that is removed in the end.
    """
    grace_s, variable = float(sys.argv[1]), os.fsencode(sys.argv[2])
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
    end_daemons(variable)
    remove(sys.argv[3])


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


def remove(folder: str) -> None:
    """Remove a folder and the files in it."""
    try:
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
        os.rmdir(folder)
    except OSError:
        return  # it was removed already, or is not ours any more


def end_daemons(variable: bytes) -> None:
    """End all processes that have a variable in their environment, except this one."""
    deadline = time.monotonic() + DAEMON_S
    signum = signal.SIGTERM
    told: set[int] = set()
    while left := daemons(variable):
        # At once, or once for each: there may be a new one, started by one that ends.
        for pid in left if signum is signal.SIGKILL else left - told:
            try:
                os.kill(pid, signum)
            except (ProcessLookupError, PermissionError):
                continue
        told |= left
        now = time.monotonic()
        if now > deadline + DAEMON_S:
            return  # what can't be killed hangs in the kernel
        if now > deadline:
            signum = signal.SIGKILL
        time.sleep(POLL_S)


def daemons(variable: bytes) -> set[int]:
    """Return the processes that have a variable in their environment, except this one."""
    found: set[int] = set()
    try:
        names = os.listdir("/proc")
    except OSError:
        return found
    for name in names:
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as environment:
                if variable in environment.read().split(b"\0"):
                    found.add(int(name))
        except OSError:
            continue  # another user's, or gone
    return found


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

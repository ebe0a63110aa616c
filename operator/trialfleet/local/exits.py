"""What the end of a worker process on this machine means."""

import signal
from pathlib import Path

from trialfleet import names
from trialfleet.model.ends import EndKind, WorkerEnd, end_of_exit, end_of_signal


def end_of_process(return_code: int, *, out_of_memory: bool) -> WorkerEnd:
    """Return what a return code means, as ``subprocess`` gives it (a signal is negative).

    ``out_of_memory``: the kernel has killed a process for want of memory since the worker began.
    """
    if return_code >= 0:
        return end_of_exit(return_code)
    if -return_code == signal.SIGKILL and out_of_memory:
        message = "the kernel killed the process: out of memory"
        return WorkerEnd(EndKind.FAILED, names.REASON_OOM_KILLED, message)
    return end_of_signal(-return_code)


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

"""How processes, relays and disks are broken; each returns what mends them again."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.soak.relay import Relay


def nothing() -> None:
    """Mend what mends itself."""


def freeze(pids: list[int]) -> Callable[[], None]:
    def send(signum: signal.Signals) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    send(signal.SIGSTOP)
    return lambda: send(signal.SIGCONT)


def slow(relay: Relay) -> Callable[[], None]:
    relay.delay_s = 0.2

    def mend() -> None:
        relay.delay_s = 0.0

    return mend


def hold(relay: Relay) -> Callable[[], None]:
    relay.hold(True)
    return lambda: relay.hold(False)


def mounted(folder: Path) -> bool:
    """Give a folder a small file system of its own, which takes root; return whether it has."""
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        return False
    command = [mount, "-t", "tmpfs", "-o", "size=1g,mode=755", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0

"""Real proxies, each a process of its own."""

import signal
import subprocess
import sys


class Proxy:
    """``trialfleet proxy`` on a port of the system's choice; it serves when this returns."""

    def __init__(self, url: str, listen: str = "127.0.0.1:0") -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "trialfleet.cli.main", "proxy"),
                *("--storage", url, "--listen", listen, "--grace", "1"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("listening on "), line
        self.address = line.removeprefix("listening on ").strip()

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def kill(self) -> None:
        """End it as a lost node does."""
        self._process.kill()
        self._process.communicate()

    def suspend(self) -> None:
        """Let it neither answer nor refuse."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it in order. Idempotent."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.communicate()

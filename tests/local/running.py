"""Running the command, and looking at the processes that it starts."""

import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

COMMAND = (sys.executable, "-m", "trialfleet.cli.main")

T = TypeVar("T")


class Running:
    """A command that runs, and what it has written so far to stdout and stderr together."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                with self._changed:
                    self.lines.append(line.rstrip("\n"))
                    self._changed.notify_all()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, timeout_s: float = 60) -> re.Match[str]:
        """Wait for a line that matches."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for line in self.lines:
                    match = re.search(pattern, line)
                    if match:
                        return match
                assert self._reader.is_alive(), f"no {pattern!r} in:\n{self.text}"
                self._changed.wait(0.2)
                assert time.monotonic() < deadline, f"no {pattern!r} in:\n{self.text}"

    def wait(self, timeout_s: float = 60) -> int:
        """Wait for its end; return its exit code."""
        code = self.process.wait(timeout_s)
        self._reader.join()
        return code

    def interrupt(self) -> None:
        """Do what Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)

    def workers(self) -> list[psutil.Process]:
        """The worker processes that there are."""
        return [
            child
            for child in psutil.Process(self.process.pid).children()
            if "worker" in child.cmdline()
        ]

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.wait()


def run(arguments: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def until(look: Callable[[], T | None], timeout_s: float = 30) -> T:
    """Look until there is something: only a parent can wait for a process."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        pause.wait(0.02)
    raise AssertionError("it did not happen in time")


def processes_of(folder: Path) -> list[str]:
    """Command lines of all processes that have to do with a folder."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "environ", "cwd"]):
        told = [*(process.info["cmdline"] or ()), process.info["cwd"] or ""]
        told += (process.info["environ"] or {}).values()
        if any(str(folder) in text for text in told):
            found.append(f"{process.pid}: {' '.join(process.info['cmdline'] or ())}")
    return found


def sockets_of(folder: Path) -> list[Path]:
    """Sockets of PostgreSQL that are left in a folder."""
    return list(folder.rglob(".s.PGSQL*"))


def write_study(folder: Path, source: str, *, trials: int = 6, parallelism: int = 1) -> Path:
    """Write a manifest with an objective; return its path."""
    manifest = folder / "study.yaml"
    manifest.write_text(
        "apiVersion: trialfleet.dev/v1alpha1\n"
        "kind: Study\n"
        "metadata: {name: test}\n"
        "spec:\n"
        "  objectives: [{name: loss, direction: minimize}]\n"
        "  sampler: {name: RandomSampler, options: {seed: 1}}\n"
        f"  budget: {{trials: {trials}}}\n"
        f"  parallelism: {parallelism}\n"
        "  objective:\n"
        "    python:\n"
        "      source: |\n" + textwrap.indent(textwrap.dedent(source), " " * 8)
    )
    return manifest

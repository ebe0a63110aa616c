"""Processes that never outlive their supervisor."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from trialfleet import names
from trialfleet.local import reaper

# The shell tells its pid to the reaper and becomes the program: at no moment is there a
# process of which the reaper does not know, or which keeps the reaper's pipe open.
_BEGIN: Final = 'echo "+$$ $1" >&0; shift; exec "$@" </dev/null'

_OUTPUT_TIMEOUT_S: Final = 1.0
"""How long the output of an ended process may still be held open by one it left behind."""

_LINE_BYTES: Final = 1024 * 1024

_REPLACE_PAUSE_S: Final = 0.1
"""Before a reaper is started in the place of one that ended."""

_OURS: Final = frozenset({names.ENV_STORAGE_URL})
"""Variables that a user's programs do not get: there may be a password in them."""


def inherited_environment() -> dict[str, str]:
    """Return the environment of what runs a user's code beside a local run's proxy."""
    return {
        **{key: value for key, value in os.environ.items() if key not in _OURS},
        # A local run's proxy neither encrypts nor asks for tokens.
        names.ENV_TOKEN_FILE: "",
        names.ENV_CA_FILE: "",
        # What it writes is read as UTF-8, and told in what the terminal can show.
        "PYTHONIOENCODING": "utf-8:backslashreplace",
    }


class Reaper:
    """The process that ends this one's children if this one ends first.

    ``with Reaper(grace_s, keep=[...])``: the descriptors of ``keep`` stay open in it until it
    has ended them all. If it is killed, another takes its place; ``on_death`` is told so, in one
    line for people, from another thread.
    """

    def __init__(
        self,
        grace_s: float,
        keep: Sequence[int] = (),
        on_death: Callable[[str], None] = lambda line: None,
    ) -> None:
        # The reading end stays open here: children can announce themselves at any time, and what
        # they say while there is no reaper is read by the next one.
        self._read, self._write = os.pipe()
        self.mark: Final = f"{names.ENV_RUN}={uuid.uuid4().hex}"
        """A variable by which daemons of its processes are known."""
        self.folder: Final = Path(tempfile.mkdtemp(prefix="trialfleet-"))
        """For sockets of its processes: only this user can look into it, and it goes with them."""
        self._grace_s = grace_s
        self._keep = keep
        self._on_death = on_death
        self._lock = threading.Lock()
        self._groups: dict[int, int] = {}
        self._closing = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._replace, name="trialfleet-reaper", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """The pipe on which a process group is announced."""
        return self._write

    @property
    def pid(self) -> int:
        """Process id of the one that is there now."""
        return self._process.pid

    def know(self, group: int, rank: int) -> None:
        """Take note of a process group that has announced itself: the next reaper is told."""
        with self._lock:
            self._groups[group] = rank
            self._say(b"+%d %d\n" % (group, rank))

    def forget(self, group: int) -> None:
        """Say that a process group is gone."""
        with self._lock:
            self._groups.pop(group, None)
            self._say(b"-%d\n" % group)

    def close(self) -> None:
        """End all that is left; return when it has ended."""
        self._closing.set()
        with self._lock:
            os.close(self._write)
            self._write = -1
        self._thread.join()
        os.close(self._read)

    def _start(self) -> subprocess.Popen[bytes]:
        arguments = [str(self._grace_s), self.mark, str(self.folder)]
        return subprocess.Popen(
            # Isolated and without site: no import hook or warning of the environment.
            [sys.executable, "-I", "-S", reaper.__file__, *arguments],
            stdin=self._read,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            pass_fds=self._keep,
        )

    def _replace(self) -> None:
        while True:
            code = self._process.wait()
            if self._closing.wait(_REPLACE_PAUSE_S):
                return
            self._on_death(
                f"the process that ends the others if this one is killed ended with code {code}; "
                "starting it again"
            )
            self._process = self._start()
            with self._lock:
                for group, rank in self._groups.items():
                    self._say(b"+%d %d\n" % (group, rank))

    def _say(self, line: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._write, line)


class Child:
    """One process in a session of its own, with everything that it starts.

    ``rank`` is the order in which an orphaned child is ended. ``on_line`` gets each line of
    its stdout and stderr, without the newline, in a thread of its own; one of more than
    ``_LINE_BYTES`` in parts.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        reaper: Reaper,
        rank: int,
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
        folder: Path | None = None,
    ) -> None:
        self._reaper = reaper
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _BEGIN, "sh", str(rank), *command],
            stdin=reaper.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**environment, **dict([reaper.mark.split("=")])},
            cwd=folder,
            start_new_session=True,
        )
        reaper.know(self.pid, rank)
        self._output = threading.Thread(target=self._read, args=(on_line,), daemon=True)
        self._output.start()

    @property
    def pid(self) -> int:
        """Its process id, which is its process group's too."""
        return self._process.pid

    def wait(self) -> int:
        """Wait for its end and return its code, negative for a signal.

        What it started and left in its process group is killed. To be called by one thread.
        """
        code = self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._reaper.forget(self.pid)
        self._output.join(_OUTPUT_TIMEOUT_S)
        return code

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the process, or for SIGKILL to all that it started; or nothing."""
        if self._process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if signum is signal.SIGKILL:
                os.killpg(self.pid, signum)
            else:
                os.kill(self.pid, signum)

    def _read(self, on_line: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in iter(partial(output.readline, _LINE_BYTES), b""):
                on_line(line.decode(errors="replace").rstrip("\r\n"))

"""Process groups that end with this process, whatever ends it.

No interrupt is raised while a function of this module runs (see ``interrupts.in_group``), so that
what it starts is never out of its sight.
"""

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

# In the program's process group before the program is, and ended by nothing but SIGKILL: so the
# group exists for as long as this process wants it to, and does not survive this process, whose
# end closes the socket that is the guard's standard input.
_GUARD: Final = 'trap "" HUP INT QUIT TERM; echo; read -r _; kill -KILL 0'

_KILLED_S: Final = 1.0
"""For the kernel to end a program after SIGKILL; one that hangs in it is left to itself."""


class NotStarted(Exception):
    """A program that could not be started; the text says why, without the program's name."""


class Program:
    """A program that runs in a group."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None and process.stderr is not None
        self._process = process
        self.output: Final = process.stdout
        """A pipe, its standard output."""
        self.errors: Final = process.stderr
        """A pipe, its standard error."""
        self.end, theirs = socket.socketpair()
        self._waiting = threading.Thread(
            target=_wait, args=(process, theirs), name="trialfleet-program", daemon=True
        )
        self._waiting.start()

    @property
    def code(self) -> int:
        """Its exit code, or the negative number of the signal that killed it.

        To be asked for when ``end`` can be read from.
        """
        self._waiting.join()
        return self._process.returncode

    def close(self) -> None:
        """Close the pipes, after the program was killed."""
        self._waiting.join(_KILLED_S)
        for stream in (self.output, self.errors, self.end):
            stream.close()


class Group:
    """A process group for a program. It is killed when it is left, and when this process ends.

    To be used as a context manager, which raises ``NotStarted`` if there can be no more processes.
    """

    def __init__(self) -> None:
        self._programs: list[Program] = []

    def __enter__(self) -> Self:
        self._alive, theirs = socket.socketpair()
        try:
            with theirs:
                self._guard = _popen(
                    ["/bin/sh", "-c", _GUARD],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.DEVNULL,
                    environment={},
                    folder=Path("/"),
                    group=0,
                )
        except NotStarted:
            self._alive.close()
            raise
        self._alive.recv(1)  # the guard is deaf to signals now
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.send(signal.SIGKILL)
        for program in self._programs:
            program.close()
        self._guard.wait()
        self._alive.close()

    def start(
        self, arguments: Sequence[str], *, environment: Mapping[str, str], folder: Path
    ) -> Program:
        """Start a program in a folder, with nothing to read.

        Raises:
            NotStarted: There is no such program, or it can't be executed.
        """
        program = Program(
            _popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                environment=environment,
                folder=folder,
                group=self._guard.pid,
            )
        )
        self._programs.append(program)
        return program

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to all that is in the group."""
        # macOS answers EPERM for a group of which only zombies are left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._guard.pid, signum)


def _wait(process: subprocess.Popen[bytes], end: socket.socket) -> None:
    with end:
        process.wait()


def _popen(
    arguments: Sequence[str],
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    environment: Mapping[str, str],
    folder: Path,
    group: int,
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            arguments,
            bufsize=0,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            cwd=folder,
            process_group=group,
        )
    except OSError as error:
        raise NotStarted(error.strerror or str(error)) from error
    except ValueError as error:  # a NUL character in an argument
        raise NotStarted(str(error)) from error

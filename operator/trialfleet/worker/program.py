"""Programs: run to their end with all that they start, their output passed on and read."""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TextIO

from trialfleet.worker.interrupts import Interrupt

LINE_BYTES: Final = 1024 * 1024
"""A longer line is passed on but not read."""

ERROR_LINES: Final = 50
"""So many last lines of standard error are kept, each cut to ``ERROR_LINE_CHARACTERS``."""
ERROR_LINE_CHARACTERS: Final = 1000

_LEFTOVERS_S: Final = 1.0
"""For what an ended program has left behind to end too, as ``tee`` in a shell's pipeline does."""

_CHUNK_BYTES: Final = 64 * 1024

# In the program's process group before the program is, and ended by nothing but SIGKILL: so the
# group exists for as long as this process wants it to, and does not survive this process, whose
# end closes the socket that is the guard's standard input.
_GUARD: Final = 'trap "" HUP INT QUIT TERM; echo; read -r _; kill -KILL 0'


class NotStarted(Exception):
    """A program that could not be started; the text says why, without the program's name."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    code: int
    """Its exit code, or the negative number of the signal that killed it."""
    errors: Sequence[str]
    """The last lines of its standard error, at most ``ERROR_LINES``."""


def run(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path,
    on_line: Callable[[str], None],
) -> Ended:
    """Run a program to its end, in a process group of its own and with nothing to read.

    Its standard output and standard error go to this process's own, in whole lines. ``on_line``
    gets each line of its standard output, in this thread; a line ends with a newline or a carriage
    return. Whatever of its process group is left one second after its end is killed.

    Call it in the main thread. If an :class:`Interrupt` is raised meanwhile, the process group
    gets SIGTERM and, before the next interrupt is due, SIGKILL. If this process itself is killed,
    so is the process group.

    Raises:
        NotStarted: There is no such program, or it can't be executed.
    """
    with _Group() as group, contextlib.ExitStack() as stack:
        program = _Program(arguments, environment, folder, group.id, on_line)
        stack.callback(program.close)
        try:
            program.attend(program.has_ended)
            program.attend(program.is_silent, _LEFTOVERS_S)
        except BaseException as called_away:
            group.send(signal.SIGTERM)
            program.attend(program.is_gone, _grace_s(called_away))
            raise
        finally:
            group.send(signal.SIGKILL)
            program.attend(program.is_gone, _LEFTOVERS_S)
        return program.ended


def _grace_s(called_away: BaseException) -> float:
    """Return how long a program may take to end after SIGTERM."""
    # Half of that time is followed by the next interrupt, so it has to be less.
    return 0.4 * called_away.yield_s if isinstance(called_away, Interrupt) else 0.0


class _Group:
    """A process group that is killed when it is left, or when this process ends."""

    def __enter__(self) -> Self:
        self._ours, theirs = socket.socketpair()
        with theirs:
            self._guard = _started(
                ["/bin/sh", "-c", _GUARD],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                environment={},
                folder=Path("/"),
                group=0,
            )
        self._ours.recv(1)  # now it is deaf to signals
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.send(signal.SIGKILL)
        self._ours.close()
        self._guard.wait()

    @property
    def id(self) -> int:
        """Its number."""
        return self._guard.pid

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to all that is in the group."""
        # macOS answers EPERM for a group of which only zombies are left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.id, signum)


class _Program:
    """A running program and its output, which is read while it is attended to."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        group: int,
        on_line: Callable[[str], None],
    ) -> None:
        self._selector = selectors.DefaultSelector()
        self._process = _started(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            environment=environment,
            folder=folder,
            group=group,
        )
        self._errors = _LastLines()
        assert self._process.stdout is not None and self._process.stderr is not None
        output = _Stream(self._process.stdout.fileno(), sys.__stdout__, on_line)
        errors = _Stream(self._process.stderr.fileno(), sys.__stderr__, self._errors.add)
        self._streams = {output, errors}
        for stream in (output, errors):
            self._selector.register(stream, selectors.EVENT_READ)
        self._end, theirs = socket.socketpair()
        self._selector.register(self._end, selectors.EVENT_READ)
        self._waiting = threading.Thread(
            target=_wait, args=(self._process, theirs), name="trialfleet-program", daemon=True
        )
        self._waiting.start()

    @property
    def ended(self) -> Ended:
        """How it ended."""
        assert self._process.returncode is not None
        return Ended(self._process.returncode, list(self._errors.lines))

    def has_ended(self) -> bool:
        """Whether it has ended itself."""
        return self._end not in self._selector.get_map()

    def is_silent(self) -> bool:
        """Whether nobody can write to its output any more."""
        return not self._streams

    def is_gone(self) -> bool:
        """Whether it has ended, and what it started too, as far as can be told."""
        return self.has_ended() and self.is_silent()

    def attend(self, done: Callable[[], bool], limit_s: float | None = None) -> None:
        """Pass its output on until something is so, or ``limit_s`` seconds have passed."""
        deadline = None if limit_s is None else time.monotonic() + limit_s
        while not done():
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                return
            for key, _ in self._selector.select(left_s):
                if not isinstance(key.fileobj, _Stream):
                    self._selector.unregister(self._end)
                elif not key.fileobj.read():
                    self._selector.unregister(key.fileobj)
                    self._streams.discard(key.fileobj)

    def close(self) -> None:
        """Read no more of its output."""
        if self.has_ended():
            self._waiting.join()
        for stream in self._streams:
            stream.finish()
        self._selector.close()
        self._end.close()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


def _wait(process: subprocess.Popen[bytes], end: socket.socket) -> None:
    with end:
        process.wait()


def _started(
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


class _LastLines:
    """The end of a text. What ends with a carriage return is written over, as on a terminal."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=ERROR_LINES)
        self._written_over = False

    def add(self, line: str) -> None:
        if self._written_over:
            self.lines.pop()
        shown = line.rstrip()
        self._written_over = bool(shown) and line.endswith("\r")
        if shown:
            self.lines.append(shown[:ERROR_LINE_CHARACTERS])


class _Stream:
    """Passes on what a program writes, in whole lines, and hands each line to a function.

    Holds ``LINE_BYTES`` and a chunk at most.
    """

    def __init__(self, source: int, target: TextIO | None, on_line: Callable[[str], None]) -> None:
        self._source = source
        self._target = None if target is None else target.fileno()
        self._on_line = on_line
        self._pending = b""
        self._is_cut = False

    def fileno(self) -> int:
        """The pipe to be read."""
        return self._source

    def read(self) -> bool:
        """Read what is there; return False at the end."""
        data = os.read(self._source, _CHUNK_BYTES)
        if not data:
            self.finish()
            return False
        self._pending += data
        # A carriage return at the very end may be the first half of a line's end.
        end = max(self._pending.rfind(b"\n"), self._pending.rfind(b"\r", 0, -1)) + 1
        if end:
            self._take(self._pending[:end])
            self._pending = self._pending[end:]
        elif len(self._pending) > LINE_BYTES:
            self._pass_on(self._pending)
            self._pending = b""
            self._is_cut = True
        return True

    def finish(self) -> None:
        """Take what is there for the last line."""
        if self._pending:
            self._take(self._pending + b"\n")
            self._pending = b""

    def _take(self, data: bytes) -> None:
        self._pass_on(data)
        lines = data.splitlines(keepends=True)
        for line in lines[1:] if self._is_cut else lines:
            self._on_line(line.decode(errors="replace"))
        self._is_cut = False

    def _pass_on(self, data: bytes) -> None:
        left = memoryview(data)
        while left and self._target is not None:
            try:
                left = left[os.write(self._target, left) :]
            except OSError:
                self._target = None  # nobody listens, which is not the program's business

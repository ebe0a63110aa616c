"""Programs: run to their end with all that they start, their output passed on and read."""

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from optuna.exceptions import TrialPruned

from trialfleet.worker.group import Group
from trialfleet.worker.interrupts import Interrupt
from trialfleet.worker.program_reports import Inbox

LINE_BYTES: Final = 16 * 1024 * 1024
"""A longer line is passed on but not read."""

ERROR_LINES: Final = 50
"""So many last lines of standard error are kept, each cut to ``ERROR_LINE_CHARACTERS``."""
ERROR_LINE_CHARACTERS: Final = 1000

PRUNED_GRACE_S: Final = 10.0
"""For a program to end, after the pruner has given its trial up."""

LOOK_S: Final = 0.5
"""Between two looks at the files that a program writes."""

_LEFTOVERS_S: Final = 1.0
"""For what an ended program has left behind to end too, as ``tee`` in a shell's pipeline does."""

_CHUNK_BYTES: Final = 64 * 1024

_INBOX_CHUNKS: Final = 16
"""A pipe holds at most 1 MiB, unless an administrator allows more."""


@dataclass(frozen=True, slots=True)
class ProgramEnd:
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
    on_error: Callable[[str], None],
    on_long_line: Callable[[int], None],
    inbox: Inbox | None = None,
    on_report: Callable[[str], None] = lambda line: None,
    look: Callable[[], None] | None = None,
) -> ProgramEnd:
    """Run a program to its end, in a process group of its own and with nothing to read.

    Its standard output and standard error go to this process's own, in whole lines. ``on_line``
    gets each line of its standard output and ``on_error`` of its standard error, in this thread; a
    line ends with a newline or a carriage return. ``on_long_line`` gets instead how many bytes a
    line has if it has more than ``LINE_BYTES``. ``on_report`` gets each line that is written to
    ``inbox``, and ``look`` is called every ``LOOK_S`` seconds while it runs. Whatever of its
    process group is left one second after its end is killed.

    Call it in the main thread. If an :class:`Interrupt` is raised meanwhile, the process group
    gets SIGTERM and, before the next interrupt is due, SIGKILL; if one of those functions raises
    ``TrialPruned``, ``PRUNED_GRACE_S`` later. If this process itself is killed, so is the process
    group.

    Raises:
        NotStarted: There is no such program, or it can't be executed.
    """
    with Group() as group, selectors.DefaultSelector() as selector:
        errors = _LastLines()
        program = group.start(arguments, environment=environment, folder=folder)

        def hear(line: str) -> None:
            errors.add(line)
            on_error(line)

        streams = (
            _Stream(program.output.fileno(), sys.__stdout__, on_line, on_long_line),
            _Stream(program.errors.fileno(), sys.__stderr__, hear, on_long_line),
        )
        reports = None if inbox is None else _Stream(inbox.fileno(), None, on_report, on_long_line)
        watched = _Watched(selector, program.end, streams, reports)
        try:
            watched.attend(watched.has_ended, look=look)
            watched.attend(watched.is_silent, _LEFTOVERS_S)
            watched.empty_inbox()
        except BaseException as called_away:
            group.send(signal.SIGTERM)
            watched.attend(watched.is_gone, _grace_s(called_away))
            raise
        finally:
            group.send(signal.SIGKILL)
            watched.attend(watched.is_gone, _LEFTOVERS_S)
            watched.finish()
        return ProgramEnd(program.code, list(errors.lines))


def _grace_s(called_away: BaseException) -> float:
    """Return how long a program may take to end after SIGTERM."""
    if isinstance(called_away, TrialPruned):
        return PRUNED_GRACE_S
    # Half of that time is followed by the next interrupt, so it has to be less.
    return 0.4 * called_away.yield_s if isinstance(called_away, Interrupt) else 0.0


class _Watched:
    """A program whose output is read while it is attended to."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        end: socket.socket,
        streams: Iterable["_Stream"],
        reports: "_Stream | None",
    ) -> None:
        self._selector = selector
        self._end = end
        self._streams = set(streams)
        self._reports = reports
        """A pipe that has no end."""
        selector.register(self._end, selectors.EVENT_READ)
        if reports is not None:
            selector.register(reports, selectors.EVENT_READ)
        for stream in self._streams:
            selector.register(stream, selectors.EVENT_READ)

    def has_ended(self) -> bool:
        """Whether it has ended itself."""
        return self._end not in self._selector.get_map()

    def is_silent(self) -> bool:
        """Whether nobody can write to its output any more."""
        return not self._streams

    def is_gone(self) -> bool:
        """Whether it has ended, and what it started too, as far as can be told."""
        return self.has_ended() and self.is_silent()

    def attend(
        self,
        done: Callable[[], bool],
        limit_s: float | None = None,
        look: Callable[[], None] | None = None,
    ) -> None:
        """Pass its output on until something is so, or ``limit_s`` seconds have passed.

        ``look`` is called every ``LOOK_S`` seconds meanwhile.
        """
        next_look = time.monotonic() + LOOK_S
        deadline = None if limit_s is None else time.monotonic() + limit_s
        while not done():
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                return
            if look is not None:
                if time.monotonic() >= next_look:
                    look()
                    next_look = time.monotonic() + LOOK_S
                left_s = max(0.0, next_look - time.monotonic())
            for key, _ in self._selector.select(left_s):
                if not isinstance(key.fileobj, _Stream):
                    self._selector.unregister(self._end)
                elif not key.fileobj.read():
                    self._selector.unregister(key.fileobj)
                    self._streams.discard(key.fileobj)

    def empty_inbox(self) -> None:
        """Read the reports that are there, and not those that come meanwhile without an end."""
        if self._reports is not None:
            with contextlib.suppress(BlockingIOError):
                for _ in range(_INBOX_CHUNKS):
                    self._reports.read()

    def finish(self) -> None:
        """Take what was read so far for all of its output."""
        for stream in self._streams:
            stream.finish()
        if self._reports is not None:
            self._reports.finish()


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

    def __init__(
        self,
        source: int,
        target: TextIO | None,
        on_line: Callable[[str], None],
        on_long_line: Callable[[int], None],
    ) -> None:
        self._source = source
        self._target = None if target is None else target.fileno()
        self._on_line = on_line
        self._on_long_line = on_long_line
        self._pending = bytearray()
        self._passed_on = 0
        """Bytes of a line that is too long and not at its end yet."""

    def fileno(self) -> int:
        """The pipe to be read."""
        return self._source

    def read(self) -> bool:
        """Read what is there; return False at the end."""
        data = os.read(self._source, _CHUNK_BYTES)
        if not data:
            self.finish()
            return False
        # A carriage return at the very end may be the first half of a line's end.
        looked_at = max(0, len(self._pending) - 1)
        self._pending += data
        newline = self._pending.rfind(b"\n", looked_at)
        end = max(newline, self._pending.rfind(b"\r", looked_at, -1)) + 1
        if end:
            self._take(bytes(self._pending[:end]))
            del self._pending[:end]
        elif len(self._pending) > LINE_BYTES:
            self._pass_on(self._pending)
            self._passed_on += len(self._pending)
            self._pending = bytearray()
        return True

    def finish(self) -> None:
        """Take what is there for the last line."""
        if self._pending or self._passed_on:
            self._take(bytes(self._pending) + b"\n")
            self._pending.clear()

    def _take(self, data: bytes) -> None:
        self._pass_on(data)
        lines = data.splitlines(keepends=True)
        if self._passed_on:
            self._on_long_line(self._passed_on + len(lines.pop(0)))
            self._passed_on = 0
        for line in lines:
            self._on_line(line.decode(errors="replace"))

    def _pass_on(self, data: bytes | bytearray) -> None:
        left = memoryview(data)
        while left and self._target is not None:
            try:
                left = left[os.write(self._target, left) :]
            except OSError:
                self._target = None  # nobody listens, which is not the program's business

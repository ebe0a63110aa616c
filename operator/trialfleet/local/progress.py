"""How a local run is shown while it goes on: a live bar, or a few plain lines."""

import collections
import itertools
import re
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final, Protocol, cast

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.segment import Segment
from rich.text import Text

from trialfleet.local.text_output import Lossy

if TYPE_CHECKING:
    from trialfleet.client import Summary

PLAIN_S: Final = 2.0
"""At least so long between two plain lines of progress."""

_TOGETHER: Final = 5000
"""So many lines are written at once, however soon they came."""

# A colour is passed on, and what would move the bar is not.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")

RATE_S: Final = 30.0
"""The rate is that of so many last seconds."""


@dataclass(frozen=True)
class Shown:
    """What is shown of a study."""

    name: str
    metrics: tuple[str, ...]
    """Names of the objectives."""
    trials: int | None
    """The budget, if it has an end of that kind."""


class ProgressView(Protocol):
    """Shows a run; every method may be called by any thread."""

    def update(self, summary: "Summary", workers: int) -> None:
        """Show the study as it is now."""

    def line(self, text: str) -> None:
        """Show what happened once, or what a worker wrote."""

    def close(self) -> None:
        """Show the last state for good."""


class Rate:
    """Trials per second, of the last while."""

    def __init__(self) -> None:
        self._points: collections.deque[tuple[float, int]] = collections.deque()

    def add(self, now: float, counted: int) -> float | None:
        """Take the count of finished trials; return the rate, None while it can't be told."""
        self._points.append((now, counted))
        while len(self._points) > 2 and self._points[1][0] <= now - RATE_S:
            self._points.popleft()
        seconds, trials = now - self._points[0][0], counted - self._points[0][1]
        return trials / seconds if seconds >= 1 and trials else None


def describe(shown: Shown, summary: "Summary", rate: float | None) -> str:
    """Return the state of a study in one line, without its budget."""
    counts = summary.counts
    parts = []
    if len(shown.metrics) > 1:
        parts.append(f"{summary.front} on the Pareto front")
    elif summary.best:
        best = summary.best[0]
        parts.append(f"best {shown.metrics[0]} {best.value:.6g} (trial {best.number})")
    if rate is not None:
        parts.append(f"{rate:.3g} trials/s" if rate >= 1 else f"{60 * rate:.3g} trials/min")
    for count, word in (
        (counts.running, "running"),
        (counts.pruned, "pruned"),
        (counts.failed, "failed"),
        (counts.lost, "lost"),
    ):
        if count:
            parts.append(f"{count} {word}")
    return " | ".join(parts)


class PlainView:
    """Few lines, for a log or a pipe: at most one of progress every ``PLAIN_S`` seconds."""

    def __init__(self, shown: Shown, console: Console) -> None:
        self._shown = shown
        self._console = console
        self._next = 0.0
        self._rate = Rate()
        self._last = ""
        self._pending = ""

    def update(self, summary: "Summary", workers: int) -> None:
        """See :class:`ProgressView`."""
        now = time.monotonic()
        rate = self._rate.add(now, summary.counts.counted)
        total = "" if self._shown.trials is None else f"/{self._shown.trials}"
        count = f"{self._shown.name}: {summary.counts.counted}{total} trials"
        self._pending = " | ".join(filter(None, (count, describe(self._shown, summary, rate))))
        if now >= self._next:
            self._print_pending()
            self._next = now + PLAIN_S

    def line(self, text: str) -> None:
        """See :class:`ProgressView`."""
        self._print(text)

    def close(self) -> None:
        """See :class:`ProgressView`."""
        self._print_pending()

    def _print_pending(self) -> None:
        if self._pending != self._last:
            self._print(self._pending)
            self._last = self._pending

    def _print(self, text: str) -> None:
        if _is_plain(text):
            # As it is: to look at a line takes rich longer than to write it takes a program.
            self._console.file.write(f"{text}\n")
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class _Raw:
    """Lines that a console writes as they are: they have nothing that it would have to look at."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._text = "".join(f"{line}\n" for line in lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment(self._text)


class LiveView:
    """A bar that moves, below the lines that were written.

    Lines are written together, as often as the bar moves: to move it for each one takes longer than
    a chatty program does.
    """

    def __init__(self, shown: Shown, console: Console) -> None:
        self._shown = shown
        self._console = console
        self._lines: list[str] = []
        self._adding = threading.Lock()
        self._writing = threading.Lock()
        self._rate = Rate()
        bar: tuple[BarColumn | MofNCompleteColumn, ...] = (BarColumn(), MofNCompleteColumn())
        self._progress = Progress(
            SpinnerColumn("dots" if console.encoding.startswith("utf") else "line"),
            TextColumn("{task.description}"),
            *bar,
            TimeElapsedColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task(
            escape(shown.name), total=shown.trials, state="starting"
        )
        self._progress.start()

    def update(self, summary: "Summary", workers: int) -> None:
        """See :class:`ProgressView`."""
        counted = summary.counts.counted
        rate = self._rate.add(time.monotonic(), counted)
        starting = f"{workers} workers starting" if workers else ""
        state = describe(self._shown, summary, rate) or starting
        self._progress.update(self._task, completed=counted, state=escape(state))
        self._write()

    def line(self, text: str) -> None:
        """See :class:`ProgressView`."""
        with self._adding:
            self._lines.append(text)
            is_much = len(self._lines) >= _TOGETHER
        if is_much:
            self._write()

    def close(self) -> None:
        """See :class:`ProgressView`."""
        self._write()
        self._progress.stop()

    def _write(self) -> None:
        with self._writing:
            with self._adding:
                lines, self._lines = self._lines, []
            for is_plain, some in itertools.groupby(lines, key=_is_plain):
                group = list(some)
                what = _Raw(group) if is_plain else Text.from_ansi("\n".join(group))
                self._console.print(what, end="" if is_plain else "\n", soft_wrap=True)


def _is_plain(line: str) -> bool:
    return _CONTROL.search(line) is None


def progress_console() -> Console:
    """Return the console that progress is shown on: standard error."""
    return Console(file=cast("IO[str]", Lossy(sys.stderr)), highlight=False)


def make_view(shown: Shown, console: Console) -> ProgressView:
    """Return the view that suits a console: live on a terminal or in a notebook, else plain."""
    live = console.is_terminal or console.is_jupyter
    return LiveView(shown, console) if live else PlainView(shown, console)

"""Metrics: the values of a study's objectives, found in what a program leaves."""

import contextlib
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from trialfleet import names
from trialfleet.api.objective import Metric
from trialfleet.worker import failure, program
from trialfleet.worker.event_files import EventFiles
from trialfleet.worker.failure import Failed, ObjectiveFailure
from trialfleet.worker.metric_lines import (
    STEP,
    JsonLine,
    LineReader,
    Match,
    MissingValue,
    Reported,
    as_number,
    as_step,
    shown,
)
from trialfleet.worker.program_files import MetricFile, Places


class ProgramMetrics:
    """The values of one trial.

    Make it before the trial's program starts: what a file held before does not count.

    Args:
        objectives: Names of the study's objectives, in their order.
        metrics: Where each of them is found. None: all in one line of JSON.
        folder: The program's working directory.
        checkpoints: The trial's checkpoint folder, if it has one.
        is_alone: Whether no other trial's program can have written to the working directory.
        on_step: Is called with each value that says of which step it is, if there is one objective.
    """

    def __init__(
        self,
        objectives: Sequence[str],
        metrics: Mapping[str, Metric] | None,
        *,
        folder: Path,
        checkpoints: Path | None,
        is_alone: Callable[[], bool],
        on_step: Callable[[float, int], None] | None = None,
    ) -> None:
        self._objectives = objectives
        self._reported: dict[str, object] = {}
        self._output = _Output(on_step if len(objectives) == 1 else None)
        self._followed: list[MetricFile | EventFiles] = []
        self._sources: dict[str, tuple[_Source, str]] = {}
        if metrics is None:
            line = _Printed(lambda: JsonLine(objectives), self._output)
            self._sources = {name: (line, name) for name in objectives}
            return
        for name in objectives:
            metric = metrics[name]
            key = metric.key or name
            if metric.tensorboard is not None:
                places = Places(metric.tensorboard, folder, checkpoints, is_alone)
                self._followed.append(EventFiles(places, key, self._output.report))
                self._sources[name] = self._followed[-1], key
            elif metric.file is not None:
                places = Places(metric.file, folder, checkpoints, is_alone)
                reader = _reader(metric, key)
                file = MetricFile(places, reader, metric.regex, self._output.report)
                self._followed.append(file)
                self._sources[name] = file, key
            else:
                find = functools.partial(_reader, metric, key)
                self._sources[name] = _Printed(find, self._output), key

    def see(self, line: str) -> None:
        """Take the next line of the program's standard output."""
        self._output.see(line, is_error=False)

    def see_error(self, line: str) -> None:
        """Take the next line of its standard error, which counts where the output has nothing."""
        self._output.see(line, is_error=True)

    def see_report(self, line: str) -> None:
        """Take a line that the program reports; its values come before all that is found.

        Raises:
            Failed: It is none, or has no step where one is given.
        """
        if not line.strip():
            return
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        told = content if isinstance(content, dict) else {}
        found = {name: told[name] for name in self._objectives if name in told}
        if not found:
            wanted = ", ".join(map(repr, self._objectives))
            message = f"found the report {shown(line.strip())}, expected a JSON object with a "
            message += f"number for {wanted}"
            raise Failed(ObjectiveFailure(names.REASON_OBJECTIVE_RETURNED, message))
        self._reported |= found
        if STEP in told:
            self._output.report(Reported(found[next(iter(found))], told[STEP]))

    @property
    def has_files(self) -> bool:
        """Whether there are files to look at."""
        return bool(self._followed)

    def look(self) -> None:
        """Read what the program has written to files since the last look."""
        for source in self._followed:
            source.look()

    def see_length(self, count: int) -> None:
        """Take note of a line that is too long to be read: it had ``count`` bytes."""
        self._output.longest = max(self._output.longest, count)

    def values(self) -> list[float]:
        """Return the values in the order of the objectives, after the program's end.

        Raises:
            Failed: One is missing, or no number.
        """
        return [self._value(name, source, key) for name, (source, key) in self._sources.items()]

    def _value(self, name: str, source: "_Source", key: str) -> float:
        try:
            found = self._reported[name] if name in self._reported else source.value(key)
        except MissingValue as missing:
            raise _failed(name, str(missing)) from None
        value = as_number(found)
        if value is None or math.isnan(value):
            raise _failed(name, f"found {shown(found)}, expected a number")
        return value


class _Source(Protocol):
    def value(self, key: str) -> object:
        """Return the last value. Raises ``MissingValue``."""


class _Output:
    """What a program prints, line by line."""

    def __init__(self, on_step: Callable[[float, int], None] | None) -> None:
        self._on_step = on_step
        self.readers: list[tuple[LineReader, LineReader]] = []
        """Each a pair: of what standard output is looked through for, and standard error."""
        self.longest = 0
        """Bytes of the longest line that was not read."""
        self._seen = _Seen("standard output"), _Seen("standard error")

    def see(self, line: str, *, is_error: bool) -> None:
        self._seen[is_error].add(line)
        line = line.strip()
        if line:
            for pair in self.readers:
                reported = pair[is_error].see(line)
                if reported is not None:
                    self.report(reported)

    def report(self, reported: Reported) -> None:
        if self._on_step is None:
            return
        value = as_number(reported.value)
        if value is None:
            return  # as a last value it is told
        step = as_step(reported.step)
        if step is None:
            message = f"found the step {shown(reported.step)}, expected a whole number from 0 to "
            message += str(names.LARGEST_STEP)
            raise Failed(ObjectiveFailure(names.REASON_OBJECTIVE_RETURNED, message))
        self._on_step(value, step)

    def describe(self) -> str:
        """Return in words what there was instead of what was looked for."""
        if self.longest:
            return (
                f"a line of {self.longest} bytes was not read, accepted: at most "
                f"{program.LINE_BYTES}"
            )
        return "; ".join(map(str, self._seen))


class _Seen:
    """What there was of one stream."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lines = 0
        self._characters = 0
        self._last = ""

    def add(self, line: str) -> None:
        self._lines += 1
        self._characters += len(line)
        if not line.isspace():
            self._last = line

    def __str__(self) -> str:
        if not self._lines:
            return f"{self._name} is empty"
        lines = "1 line" if self._lines == 1 else f"{self._lines} lines"
        last = f", the last one is {shown(self._last.strip())}" if self._last else ""
        return f"{self._name} has {lines}, {self._characters} characters{last}"


class _Printed:
    """What a line of the output says; or of standard error, which many programs log to."""

    def __init__(self, find: Callable[[], LineReader], output: _Output) -> None:
        self._output = output
        self._pair = find(), find()
        output.readers.append(self._pair)

    def value(self, key: str) -> object:
        for reader in self._pair:
            with contextlib.suppress(MissingValue):
                return reader.value(key)
        try:
            return self._pair[0].value(key)
        except MissingValue as missing:
            raise MissingValue(f"{missing}; {self._output.describe()}") from None


def _reader(metric: Metric, key: str) -> LineReader:
    if metric.regex is not None:
        return Match(metric.regex)
    return JsonLine([key], metric.step or STEP)


def _failed(name: str, message: str) -> Failed:
    told = failure.shortened(f"no value for {name}: {message}")
    return Failed(ObjectiveFailure(names.REASON_OBJECTIVE_RETURNED, told))

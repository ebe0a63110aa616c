"""Metrics in files that a program writes."""

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from trialfleet import names
from trialfleet.worker.metric_lines import LineReader, MissingValue, Reported, cut, shown

FILE_BYTES: Final = 16 * 1024 * 1024
"""A larger file is read line by line only, and a longer line not at all."""

_CHUNK_BYTES: Final = 64 * 1024
_TAIL_BYTES: Final = 64


class Places:
    """Where a program may write what it calls ``name``: its checkpoint folder, or where it runs."""

    def __init__(
        self, name: str, folder: Path, checkpoints: Path | None, is_alone: Callable[[], bool]
    ) -> None:
        self.name: Final = name
        self._shared = folder / name
        self.all: Final = (
            [self._shared] if checkpoints is None else [checkpoints / name, self._shared]
        )
        """Those that go first come first."""
        self._is_alone = is_alone

    def check(self, place: Path) -> None:
        """Raise ``MissingValue`` if what is there may be another trial's."""
        if place == self._shared and not self._is_alone():
            raise MissingValue(
                f"{place} may be another trial's, because several workers run there; accepted: "
                f"{self.name} in the folder ${names.ENV_CHECKPOINT_DIR}, or parallelism 1"
            )

    def __str__(self) -> str:
        return " or ".join(map(str, self.all))


class MetricFile:
    """A file that was written since this was made: a JSON object, or lines.

    Args:
        places: Where it may be.
        reader: What its lines are looked through for.
        regex: What ``reader`` looks for if it is no JSON.
        report: Is called with what the lines say of steps.
    """

    def __init__(
        self,
        places: Places,
        reader: LineReader,
        regex: str | None,
        report: Callable[[Reported], None],
    ) -> None:
        self._places = places
        self._reader = reader
        self._regex = regex
        self._report = report
        self._before = {place: _stamp(place) for place in places.all}
        self._lines = {place: _Lines(place) for place in places.all}

    def look(self) -> None:
        """Report what was written since the last look."""
        place = self._place()
        if place is None:
            return
        try:
            self._places.check(place)
        except MissingValue:
            return
        self._see(place, self._regex is None)

    def value(self, key: str) -> object:
        """Return the last value, after the program's end. Raises ``MissingValue``."""
        place = self._place()
        if place is None:
            raise MissingValue(f"the program has not written {self._places}")
        self._places.check(place)
        self._see(place, True)
        if self._regex is not None:
            try:
                return self._reader.value(key)
            except MissingValue:
                told = f"no line of {self._places.name} matches {self._regex}"
                raise MissingValue(told) from None
        try:
            content = self._content(place)
        except MissingValue as missing:
            try:
                return self._reader.value(key)
            except MissingValue:
                raise missing from None
        if key not in content:
            held = ", ".join(map(repr, content)) or "none"
            raise MissingValue(f"{self._places.name} has no key {key!r}; its keys: {cut(held)}")
        return content[key]

    def _place(self) -> Path | None:
        changed = (at for at, was in self._before.items() if _stamp(at) not in (None, was))
        return next(changed, None)

    def _see(self, place: Path, whole: bool) -> None:
        for line in self._lines[place].read(whole):
            reported = self._reader.see(line)
            if reported is not None:
                self._report(reported)

    def _content(self, place: Path) -> dict[str, Any]:
        name = self._places.name
        try:
            with place.open("rb") as file:
                data = file.read(FILE_BYTES + 1)
            if len(data) > FILE_BYTES:
                raise MissingValue(f"{name} is larger than {FILE_BYTES} bytes")
            content = json.loads(data)
        except OSError as error:
            raise MissingValue(f"{name} can't be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise MissingValue(f"{name} holds no JSON: {error}") from None
        if not isinstance(content, dict):
            raise MissingValue(f"{name} holds {shown(content)}, accepted: a JSON object")
        return content


class _Lines:
    """The lines of a file that grows, or is written anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = _stamp(path)
        self._offset = 0
        self._tail = b""
        """What comes before ``_offset``."""
        self._pending = b""
        if self._stamp is not None:
            self._remember()

    def read(self, whole: bool) -> Iterator[str]:
        """Yield what has come since; ``whole``: also a last line without its end, again each time.

        A file that did not only grow is read from its beginning.
        """
        stamp = _stamp(self._path)
        if stamp is not None and stamp != self._stamp:
            try:
                with self._path.open("rb") as file:
                    file.seek(self._offset - len(self._tail))
                    if file.read(len(self._tail)) != self._tail or stamp[2] <= self._offset:
                        self._offset, self._tail, self._pending = 0, b"", b""
                    file.seek(self._offset)
                    yield from self._more(file.read)
                after = _stamp(self._path)
                self._stamp = after if after is not None and after[2] == self._offset else stamp
            except OSError:
                return
        if whole and self._pending:
            yield self._pending.decode(errors="replace").strip()

    def _more(self, read: Callable[[int], bytes]) -> Iterator[str]:
        while data := read(_CHUNK_BYTES):
            self._offset += len(data)
            self._tail = (self._tail + data)[-_TAIL_BYTES:]
            *lines, self._pending = (self._pending + data).split(b"\n")
            if len(self._pending) > FILE_BYTES:
                self._pending = b""
            for line in lines:
                yield line.decode(errors="replace").strip()

    def _remember(self) -> None:
        try:
            with self._path.open("rb") as file:
                self._offset = file.seek(0, 2)
                file.seek(max(0, self._offset - _TAIL_BYTES))
                self._tail = file.read()
        except OSError:
            self._offset = 0


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file is written; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size

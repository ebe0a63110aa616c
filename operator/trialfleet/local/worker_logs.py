"""What the workers of local runs have written, in a file for each."""

import contextlib
import io
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from trialfleet.model import errors, trial_marks

FOLDER: Final = "logs"
"""In the folder of a run's data."""

_LONGEST: Final = 64 * 1024 * 1024
"""Bytes of a worker's file; the older half of what it wrote is in a second one, then dropped."""


class WorkerLine(NamedTuple):
    """One line of a worker."""

    worker: str
    text: str


class _File:
    """A worker's file. What can't be written is dropped: a full disk ends no run.

    The handlers of ``logging`` ask the file system for each line, which takes longer than a chatty
    program does.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def _open(self) -> None:
        self._file: io.FileIO | None = None
        with contextlib.suppress(OSError):
            self._file = self._path.open("ab", buffering=0)
        self._bytes = 0 if self._file is None else self._file.tell()

    def write(self, line: str) -> None:
        """Write a line so that others can read it at once."""
        data = f"{line}\n".encode(errors="surrogateescape")
        if self._bytes and self._bytes + len(data) > _LONGEST:
            self.close()
            with contextlib.suppress(OSError):
                self._path.replace(f"{self._path}.1")
            self._open()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._bytes += self._file.write(data)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class WorkerLogs:
    """Keeps the output of a run's workers. For one thread at a time."""

    def __init__(self, data: Path, study: str) -> None:
        self._folder = _folder(data, study)
        self._files: dict[str, _File] = {}

    def write(self, worker: str, line: str) -> None:
        """Keep a line of a worker's output."""
        file = self._files.get(worker)
        if file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{worker}.log"
            file = self._files[worker] = _File(path)
        file.write(line)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()


def find_logs(data: Path, study: str | None) -> str:
    """Return the name of the study of which there are logs, or the only one.

    Raises ``InvalidInput`` if there is none, or several and no name.
    """
    folder = data / FOLDER
    found = sorted(
        urllib.parse.unquote(path.name) for path in (folder.iterdir() if folder.is_dir() else ())
    )
    if study is not None and study in found:
        return study
    if study is None and len(found) == 1:
        return found[0]
    told = "missing" if study is None else f"found {study!r}"
    listed = ", ".join(found) or "none, for no 'trialfleet run' has written any"
    raise errors.InvalidInput(f"STUDY: {told}, accepted in {folder}: {listed}")


def read(data: Path, study: str, last: int | None) -> Iterator[WorkerLine]:
    """Yield what the workers of all runs have written, or the last lines of each."""
    for worker, paths in _workers(data, study):
        lines = [line for line in _lines(paths) if not trial_marks.is_mark(line)]
        for line in lines if last is None else lines[max(0, len(lines) - last) :]:
            yield WorkerLine(worker, line)


def read_trial(data: Path, study: str, number: int) -> Iterator[WorkerLine] | None:
    """Return what a worker has written while it ran a trial; None if no worker did.

    Of several with that number, after the study was deleted and made anew, it is the last one.
    """
    for worker, paths in reversed(_workers(data, study)):
        lines = _lines(paths)
        if trial_marks.begin(lines, number):
            return (WorkerLine(worker, line) for line in trial_marks.rest(lines))
    return None


def _folder(data: Path, study: str) -> Path:
    return data / FOLDER / urllib.parse.quote(study, safe="")


def _workers(data: Path, study: str) -> list[tuple[str, list[Path]]]:
    """Return the workers with their files, those last that wrote last."""
    files = sorted(_folder(data, study).glob("*.log"), key=lambda path: path.stat().st_mtime)
    return [
        (path.stem, [older for older in (Path(f"{path}.1"),) if older.exists()] + [path])
        for path in files
    ]


def _lines(paths: list[Path]) -> Iterator[str]:
    for path in paths:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            for line in file:
                yield line.removesuffix("\n")

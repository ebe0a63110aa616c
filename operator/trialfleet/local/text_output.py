"""Text on its way to people: readable on any terminal, and no reason to stop where none reads."""

import contextlib
import sys
from typing import IO, Any


class Lossy:
    """A text stream that drops what can't be written: a full disk, a pipe that nobody reads.

    Progress is told from many threads, none of which may end for that.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what was held back, or drop it."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def print_line(text: str) -> None:
    """Print a line on standard output, escaped where that has no such characters."""
    stream = Lossy(sys.stdout)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()

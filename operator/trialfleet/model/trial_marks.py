"""Lines in a worker's output that say which trial it runs: what is in between is that trial's."""

import re
from collections.abc import Iterable, Iterator
from typing import Final

_MARK: Final = re.compile(r"trialfleet: trial (\d+) (begins|ends)")


def begin_mark(number: int) -> str:
    """Return the line before what a trial writes."""
    return f"trialfleet: trial {number} begins"


def end_mark(number: int) -> str:
    """Return the line after what a trial writes; a worker that died has written none."""
    return f"trialfleet: trial {number} ends"


def is_mark(line: str) -> bool:
    """Whether a line is such a mark."""
    return _MARK.fullmatch(line) is not None


def begin(lines: Iterator[str], number: int) -> bool:
    """Go to where a trial begins in a worker's output; return whether it does."""
    mark = begin_mark(number)
    return any(line == mark for line in lines)


def rest(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines up to the next mark."""
    for line in lines:
        if is_mark(line):
            return
        yield line

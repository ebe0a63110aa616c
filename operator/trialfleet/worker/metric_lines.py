"""Metrics in lines of text: what one line says, and the last that was said."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

from trialfleet import names

STEP: Final = names.REPORT_STEP
"""Of a regular expression the group, of a JSON object the usual key, that holds the step."""

_SHOWN_CHARACTERS: Final = 100


class MissingValue(Exception):
    """There is no value; the text says what was looked for."""


class Reported(NamedTuple):
    """An intermediate value as a line has it."""

    value: object
    step: object


class LineReader(Protocol):
    """Looks through lines for a metric."""

    def see(self, line: str) -> Reported | None:
        """Take the next line; return its value where it says of which step it is."""

    def value(self, key: str) -> object:
        """Return the last value. Raises ``MissingValue``."""


class JsonLine:
    """The last line that is a JSON object with some keys.

    ``step`` is the key of the step; what is returned is the value of the only key.
    """

    def __init__(self, keys: Sequence[str], step: str = STEP) -> None:
        self._keys = keys
        self._step = step
        self._found: dict[str, Any] | None = None

    def see(self, line: str) -> Reported | None:
        """See :class:`LineReader`."""
        if not (line.startswith("{") and line.endswith("}")):
            return None
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            return None
        if not all(key in content for key in self._keys):
            return None
        self._found = content
        if self._step not in content:
            return None
        return Reported(content[self._keys[0]], content[self._step])

    def value(self, key: str) -> object:
        """See :class:`LineReader`."""
        if self._found is None:
            wanted = "the key " if len(self._keys) == 1 else "the keys "
            wanted += ", ".join(map(repr, self._keys))
            raise MissingValue(f"no line that the program printed is a JSON object with {wanted}")
        return self._found[key]


class Match:
    """The last match of a regular expression: of its only group that is not called ``step``."""

    def __init__(self, regex: str) -> None:
        self._regex = re.compile(regex)
        self._step = self._regex.groupindex.get(STEP)
        self._value = 2 if self._step == 1 else 1
        self._found: str | None = None

    def see(self, line: str) -> Reported | None:
        """See :class:`LineReader`. Of several matches in a line the last one counts."""
        reported = None
        for match in self._regex.finditer(line):
            if match[self._value] is None:
                continue
            self._found = match[self._value]
            if self._step is not None and match[self._step] is not None:
                reported = Reported(_parsed(self._found), _parsed(match[self._step]))
        return reported

    def value(self, key: str) -> object:
        """See :class:`LineReader`."""
        if self._found is None:
            raise MissingValue(f"no line that the program printed matches {self._regex.pattern}")
        return _parsed(self._found)


def _parsed(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def as_number(found: object) -> float | None:
    """Return a number of JSON or of a match; None for what is none. NaN is a number."""
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    try:
        return float(found)
    except OverflowError:  # a whole number of more than 308 digits
        return None


def as_step(found: object) -> int | None:
    """Return a step, a whole number from 0 to ``LARGEST_STEP``; None for what is none."""
    number = as_number(found)
    if number is None or not 0 <= number <= names.LARGEST_STEP or number != math.floor(number):
        return None
    return int(number)


def shown(found: object) -> str:
    """Return a value as it is told, cut where it is long."""
    if isinstance(found, float) and math.isnan(found):
        return "NaN"
    return cut(repr(found) if isinstance(found, str) else json.dumps(found))


def cut(text: str) -> str:
    """Return a text, cut where it is long."""
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."

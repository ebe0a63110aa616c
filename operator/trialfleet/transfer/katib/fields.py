"""The fields of an object that is converted: each is taken, or told when the object is closed."""

from collections.abc import Mapping
from typing import Any

from trialfleet.api.base import Finding
from trialfleet.api.suggestions import found
from trialfleet.api.verdict import line
from trialfleet.model.errors import InvalidInput

Path = tuple[str | int, ...]

_LEFT_OUT = "no equivalent, left out"


class Fields:
    """An object of the input. What nobody has taken is told by ``close``, with its path."""

    def __init__(self, content: Mapping[str, Any], path: Path, notes: list[str]) -> None:
        self._rest = dict(content)
        self.path = path
        self.notes = notes

    def refusal(self, key: str | None, message: str) -> InvalidInput:
        """Return the error for a field, or for the object itself."""
        return InvalidInput(line(Finding(self._path(key), message)))

    def tell(self, key: str | None, message: str) -> None:
        """Tell what becomes of a field, or of the object itself."""
        self.notes.append(line(Finding(self._path(key), message)))

    def text(self, key: str, default: str | None = None) -> str:
        """Take a string.

        Raises:
            InvalidInput: It is none, or missing and without a default.
        """
        value = self._rest.pop(key, None)
        if value is None and default is not None:
            return default
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value:
            raise self.refusal(key, f"{_shown(value)}, accepted: a string")
        return value

    def number(self, key: str) -> float | None:
        """Take a number, which may be written as a string; None if it is missing.

        Raises:
            InvalidInput: It is no number.
        """
        if self._rest.get(key) in (None, ""):
            self._rest.pop(key, None)
            return None
        text = self.text(key)
        try:
            return float(text)
        except ValueError:
            raise self.refusal(key, f"found {found(text)}, accepted: a number") from None

    def integer(self, key: str) -> int | None:
        """Take a whole number, which may be written as a string; None if it is missing.

        Raises:
            InvalidInput: It is no whole number.
        """
        number = self.number(key)
        if number is None:
            return None
        if not number.is_integer():
            raise self.refusal(key, f"found {number}, accepted: a whole number")
        return int(number)

    def object(self, key: str) -> "Fields | None":
        """Take an object; None if it is missing.

        Raises:
            InvalidInput: It is none.
        """
        value = self._rest.pop(key, None)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.refusal(key, f"{_shown(value)}, accepted: an object")
        return Fields(value, self._path(key), self.notes)

    def items(self, key: str) -> list[Any]:
        """Take a list; empty if it is missing.

        Raises:
            InvalidInput: It is none.
        """
        value = self._rest.pop(key, None)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.refusal(key, f"{_shown(value)}, accepted: a list")
        return value

    def objects(self, key: str) -> "list[Fields]":
        """Take a list of objects; empty if it is missing.

        Raises:
            InvalidInput: It is no list of objects.
        """
        values = self.items(key)
        for index, value in enumerate(values):
            if not isinstance(value, Mapping):
                raise self.refusal(key, f"found {found(value)} at {index}, accepted: objects")
        path = self._path(key)
        return [Fields(value, (*path, index), self.notes) for index, value in enumerate(values)]

    def any(self, key: str) -> Any:
        """Take a value of any kind; None if it is missing."""
        return self._rest.pop(key, None)

    def rest(self) -> dict[str, Any]:
        """Take all that is left."""
        rest, self._rest = self._rest, {}
        return rest

    def close(self) -> None:
        """Tell every field that was not taken."""
        for key in self.rest():
            self.tell(key, _LEFT_OUT)

    def _path(self, key: str | None) -> Path:
        return self.path if key is None else (*self.path, key)


def _shown(value: object) -> str:
    return "missing" if value is None else f"found {found(value)}"

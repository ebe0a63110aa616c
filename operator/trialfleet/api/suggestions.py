"""How a value that was found is written in an error message, and what was probably meant."""

import difflib
import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Final

_MAX_FOUND: Final = 60
_MAX_LISTED: Final = 20
_MAX_WORD: Final = 64
"""Longer words are no misspelt ones, and comparing them takes long."""

_NEAR: Final = 0.8
"""How alike two words are that are taken for one misspelt: BaseSampler is no CmaEsSampler."""

_BEGUN: Final = 3
"""Letters that are enough to take a word for the beginning of another."""


def found(value: object) -> str:
    """Return a value as an error message shows it, in at most 60 characters.

    However large the value is, little more of it is looked at than is shown.
    """
    if isinstance(value, str):
        text = repr(value[:_MAX_FOUND])
        text = text if len(value) <= _MAX_FOUND else f"{text[:-1]}..."
    elif isinstance(value, Mapping):
        text = _json(value)
        text = text if len(text) <= _MAX_FOUND else f"an object of {len(value)} fields"
    elif isinstance(value, list):
        text = _json(value)
        text = text if len(text) <= _MAX_FOUND else f"a list of {len(value)}"
    else:
        text = json.dumps(value, default=str)
    return text if len(text) <= _MAX_FOUND else f"{text[: _MAX_FOUND - 3]}..."


def printable(text: str) -> str:
    """Return a text as one line: characters that would end it or turn it around are escaped."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def listed(words: Iterable[str], count: int) -> str:
    """Return ``a, b, c``; of more than 20 words the first ones, and how many more there are."""
    first = ", ".join(itertools.islice(words, _MAX_LISTED))
    return first if count <= _MAX_LISTED else f"{first} and {count - _MAX_LISTED} more"


def _json(value: object) -> str:
    """Return a value as JSON, or of a long one a beginning that is too long to be shown."""
    text = ""
    for part in json.JSONEncoder(default=str, ensure_ascii=False).iterencode(value):
        text += part
        if len(text) > _MAX_FOUND:
            break
    return text


def did_you_mean(word: object, accepted: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"``, or nothing if no accepted word is near."""
    if not isinstance(word, str) or len(word) > _MAX_WORD:
        return ""
    by_lower = {name.lower(): name for name in accepted}
    # snake_case is what Python people write for a camelCase field.
    plain = word.replace("_", "").lower()
    for text in (word.lower(), plain):
        near = difflib.get_close_matches(text, by_lower, n=1, cutoff=_NEAR)
        if near:
            return f" (did you mean {by_lower[near[0]]!r}?)"
    begun = [name for lower, name in by_lower.items() if lower.startswith(plain)]
    if len(begun) == 1 and len(plain) >= _BEGUN:
        return f" (did you mean {begun[0]!r}?)"
    return ""

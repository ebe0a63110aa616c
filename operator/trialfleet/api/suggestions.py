"""How a value that was found is written in an error message, and what was probably meant."""

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Final

_MAX_FOUND: Final = 60

_NEAR: Final = 0.8
"""How alike two words are that are taken for one misspelt: BaseSampler is no CmaEsSampler."""

_BEGUN: Final = 3
"""Letters that are enough to take a word for the beginning of another."""


def found(value: object) -> str:
    """Return a value as an error message shows it, in at most 60 characters."""
    if isinstance(value, str):
        text = repr(value)
    elif isinstance(value, Mapping):
        text = json.dumps(value, default=str, ensure_ascii=False)
        text = text if len(text) <= _MAX_FOUND else f"an object of {len(value)} fields"
    elif isinstance(value, list):
        text = json.dumps(value, default=str, ensure_ascii=False)
        text = text if len(text) <= _MAX_FOUND else f"a list of {len(value)}"
    else:
        text = json.dumps(value, default=str)
    return text if len(text) <= _MAX_FOUND else f"{text[: _MAX_FOUND - 3]}..."


def did_you_mean(word: object, accepted: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"``, or nothing if no accepted word is near."""
    if not isinstance(word, str):
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

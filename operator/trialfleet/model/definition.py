"""A study's definition: what makes two studies the same, as a text that a storage keeps.

A part is ``name=digest``, in the order of ``PARTS``; a storage only compares whole texts.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Final

OBJECTIVES: Final = "objectives"
OBJECTIVE: Final = "objective"
SEARCH_SPACE: Final = "searchSpace"

PARTS: Final = (OBJECTIVES, OBJECTIVE, SEARCH_SPACE)

LONGEST: Final = 256
"""Characters of a definition."""


def encode(parts: Mapping[str, object]) -> str:
    """Return the definition of parts that are JSON values."""
    return " ".join(f"{name}={_digest(parts[name])}" for name in PARTS)


def differing(stored: str, given: str) -> str:
    """Return which parts of two definitions differ, in words; ``stored`` may be empty."""
    if not stored:
        return "whose definition is not known"
    before, after = (dict(_parts(text)) for text in (stored, given))
    parts = [name for name in PARTS if before.get(name) != after.get(name)]
    return f"of another {', another '.join(parts or ['definition'])}"


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _parts(text: str) -> list[tuple[str, str]]:
    found = [part.partition("=") for part in text.split()]
    return [(name, digest) for name, _, digest in found]

"""Whether an object is as wanted, although the API server has filled in what was left open."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

_ATOMIC: Final = ("selector", "matchLabels", "nodeSelector")
"""Maps that server-side apply takes as one field: what another added to them is a difference."""


def projected(live: Any, wanted: Any) -> Any:
    """Return the part of a live value that a wanted one speaks of.

    Lists of named objects are matched by name, as server-side apply does.
    """
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        return {
            key: live[key] if key in _ATOMIC else projected(live[key], part)
            for key, part in wanted.items()
            if key in live
        }
    if isinstance(wanted, list) and isinstance(live, list):
        if _named(wanted) and _named(live):
            by_name = {one["name"]: one for one in live}
            return [
                projected(by_name[one["name"]], one) for one in wanted if one["name"] in by_name
            ]
        if len(wanted) == len(live):
            return [projected(*pair) for pair in zip(live, wanted, strict=True)]
    return live


def _named(items: Sequence[Any]) -> bool:
    found = [one.get("name") for one in items if isinstance(one, Mapping)]
    return bool(items) and len(found) == len(items) == len(set(found)) and None not in found

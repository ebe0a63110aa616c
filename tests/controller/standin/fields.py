"""Which manager owns which field: server-side apply, as far as the operator leans on it.

A field is a path of keys; an item of an associative list is one key: ``("name", "worker")``.
Rules: https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

Path = tuple[Any, ...]

_KEYS = ("name", "type", "uid", "containerPort", "port")
"""By which items of a list are told apart, where all have it; else the list is one field."""

_ATOMIC = ("selector", "matchLabels", "nodeSelector")
"""Maps that are one field."""

_IDENTITY = {("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace")}


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the paths of the fields of a configuration."""
    if isinstance(value, Mapping) and value and not (path and path[-1] in _ATOMIC):
        for key, part in value.items():
            yield from leaves(part, (*path, key))
    elif isinstance(value, list) and (key := list_key(value)):
        for item in value:
            yield from leaves(item, (*path, (key, item[key])))
    elif path not in _IDENTITY:
        yield path


def list_key(items: list[Any]) -> str | None:
    """Return by which key the items of a list are told apart."""
    for key in _KEYS:
        if items and all(isinstance(item, Mapping) and key in item for item in items):
            return key
    return None


def lookup(value: Any, path: Path) -> Any:
    """Return the value of a field; raises ``KeyError``."""
    for step in path:
        value = _item(value, step)
    return value


def merge(live: Any, config: Any) -> Any:
    """Return a live value with what a configuration says."""
    if isinstance(live, Mapping) and isinstance(config, Mapping):
        merged = {key: copy.deepcopy(part) for key, part in live.items()}
        for key, part in config.items():
            merged[key] = copy.deepcopy(part) if key in _ATOMIC else merge(live.get(key), part)
        return merged
    if isinstance(live, list) and isinstance(config, list) and config:
        key = list_key(config)
        if key is not None and all(isinstance(one, Mapping) and key in one for one in live):
            items = {one[key]: one for one in live}
            for one in config:
                items[one[key]] = merge(items.get(one[key]), one)
            return list(items.values())
    return copy.deepcopy(config)


def remove(value: Any, path: Path) -> None:
    """Remove a field, and what is left empty around it."""
    trail = []
    for step in path[:-1]:
        trail.append((value, step))
        try:
            value = _item(value, step)
        except KeyError:
            return
    _drop(value, path[-1])
    for parent, step in reversed(trail):
        child = _item(parent, step)
        only_key = isinstance(step, tuple) and set(child) == {step[0]}
        if child and not only_key:
            return
        _drop(parent, step)


def as_fields_v1(paths: set[Path]) -> dict[str, Any]:
    """Return a set of fields as the API writes it."""
    tree: dict[str, Any] = {}
    for path in sorted(paths, key=repr):
        at = tree
        for step in path:
            text = f'k:{{"{step[0]}":"{step[1]}"}}' if isinstance(step, tuple) else f"f:{step}"
            at = at.setdefault(text, {})
    return tree


def _item(value: Any, step: Any) -> Any:
    if isinstance(step, tuple):
        if not isinstance(value, list):
            raise KeyError(step)
        for one in value:
            if isinstance(one, Mapping) and one.get(step[0]) == step[1]:
                return one
        raise KeyError(step)
    if not isinstance(value, Mapping):
        raise KeyError(step)
    return value[step]


def _drop(value: Any, step: Any) -> None:
    if isinstance(step, tuple):
        value[:] = [one for one in value if one.get(step[0]) != step[1]]
    elif isinstance(value, dict):
        value.pop(step, None)

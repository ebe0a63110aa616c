"""Samplers that list all points of a grid: counted before anything is listed."""

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from trialfleet.api.base import Finding
from trialfleet.api.search_space import ParameterSpace
from trialfleet.api.suggestions import found

MAX_GRID: Final = 1_000_000
"""Points of a grid, or values of a parameter that is tried out: each worker lists them all."""

_MAX_SHOWN: Final = 10**24
MISSING_GRID: Final = (
    "missing, GridSampler needs a list of values for each parameter, here or by a "
    "spec.searchSpace in which each float has a step"
)


def grid_problems(
    name: str, options: Mapping[str, Any], search_space: Mapping[str, ParameterSpace] | None
) -> Iterator[Finding]:
    """Yield what is wrong with a GridSampler that takes its grid from the search space."""
    path = ("options", "search_space")
    if name != "GridSampler" or "search_space" in options:
        return
    sizes = [parameter.size for parameter in (search_space or {}).values()]
    if not sizes or math.inf in sizes:
        yield Finding(path, MISSING_GRID)
    else:
        yield from _too_many(math.prod(map(int, sizes)), path)


def too_many_to_try(name: str, parameter: ParameterSpace) -> Finding | None:
    """Return what is wrong with a parameter of BruteForceSampler, which lists all its values."""
    kind = "float" if parameter.float_ is not None else "int"
    if parameter.size == math.inf:
        return Finding((name, kind, "step"), "missing, BruteForceSampler needs it")
    if parameter.size > MAX_GRID:
        message = f"found {parameter.size} values, accepted by BruteForceSampler: {MAX_GRID}"
        return Finding((name, kind), message)
    return None


def grid(search_space: Mapping[str, ParameterSpace]) -> dict[str, list[Any]] | None:
    """Return all values of each parameter, or None if one has no end of them."""
    values: dict[str, list[Any]] = {}
    for name, parameter in search_space.items():
        if parameter.categorical is not None:
            values[name] = list(parameter.categorical)
        elif parameter.int_ is not None:
            whole = parameter.int_
            values[name] = list(range(whole.low, whole.high + 1, whole.step))
        elif parameter.float_ is not None and parameter.float_.step is not None:
            low, step = (Decimal(str(x)) for x in (parameter.float_.low, parameter.float_.step))
            high = Decimal(str(parameter.float_.high))
            values[name] = [float(low + i * step) for i in range(int((high - low) // step) + 1)]
        else:
            return None
    return values


def grid_refusal(space: Mapping[str, Any], path: tuple[str | int, ...]) -> Iterator[Finding]:
    """Yield what is wrong with a grid that is given as lists of values."""
    sizes = []
    for name, values in space.items():
        if not isinstance(values, list) or not values:
            yield Finding((*path, name), f"found {found(values)}, accepted: a list of values")
            continue
        sizes.append(len(values))
        for index, value in enumerate(values):
            if value is not None and not isinstance(value, bool | int | float | str):
                message = f"found {found(value)}, accepted: a string, a number, true, false or null"
                yield Finding((*path, name, index), message)
    yield from _too_many(math.prod(sizes), path)


def _too_many(points: int, path: tuple[str | int, ...]) -> Iterator[Finding]:
    if points > MAX_GRID:
        shown = f"{points:,}" if points < _MAX_SHOWN else f"10^{int(math.log10(points))}"
        yield Finding(path, f"found a grid of {shown} points, accepted: at most {MAX_GRID:,}")

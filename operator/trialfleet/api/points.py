"""Points of a search space that are to be run first, in a manifest or in a file of their own."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from trialfleet.api.base import Finding
from trialfleet.api.search_space import (
    ParameterSpace,
    describe,
    distributions,
    is_possible,
    rounded,
)
from trialfleet.api.suggestions import did_you_mean, found, listed
from trialfleet.model.errors import InvalidInput

_ACCEPTED: Final = "a JSON list of objects, parameter to value"

_MAX_ERRORS: Final = 20
"""So many lines say what is wrong with a file."""


def point_errors(
    points: Sequence[Mapping[str, Any]], search_space: Mapping[str, ParameterSpace] | None
) -> Iterator[Finding]:
    """Yield what is wrong with points, each at its index and parameter."""
    space = None if search_space is None else distributions(search_space)
    for index, point in enumerate(points):
        for name, value in point.items():
            if space is None:
                accepted = rounded(value)
            elif name not in space:
                yield Finding(
                    (index, name),
                    f"unknown parameter, accepted: {listed(space, len(space))}"
                    + did_you_mean(name, space),
                )
                continue
            else:
                accepted = "" if is_possible(space[name], value) else describe(space[name])
            if accepted:
                yield Finding((index, name), f"found {found(value)}, accepted: {accepted}")


def parse_points(
    text: str, where: str, search_space: Mapping[str, ParameterSpace] | None
) -> list[dict[str, Any]]:
    """Return the points that a text holds, such as that of a file ``hparams.json``.

    Raises:
        InvalidInput: It is no JSON list of objects, or a point is outside of the search space.
            Each line begins with ``where``.
    """
    try:
        points = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{where}: found no JSON ({error}), accepted: {_ACCEPTED}") from error
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise InvalidInput(f"{where}: found another JSON value, accepted: {_ACCEPTED}")
    mistakes = [
        f"{where}: [{index}].{name}: found {found(value)}, accepted: a string, a number, true, "
        "false or null"
        for index, point in enumerate(points)
        for name, value in point.items()
        if isinstance(value, list | dict)
    ] or [
        f"{where}: [{finding.path[0]}].{finding.path[1]}: {finding.message}"
        for finding in islice(point_errors(points, search_space), _MAX_ERRORS)
    ]
    if mistakes:
        raise InvalidInput("\n".join(mistakes[:_MAX_ERRORS]))
    return points


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")

"""What is wrong with an object, in lines for people: path, what was found, what is accepted."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from trialfleet.api.base import ACCEPTED, Finding, Model
from trialfleet.api.crd_schema import Schema, structural_schema
from trialfleet.api.suggestions import did_you_mean, found, printable

_KEY_WORDS: Final = "a name of 1 to 128 characters"
_NO_BOUND: Final = 2_147_483_647
"""The largest integer of many Kubernetes fields: nothing that people need to be told."""

MAX_VALUES: Final = 20_000
"""Of a resource, counting lists and objects too. The operator checks each one again and again: one
of so many values takes it about 30 ms and 4 MiB."""
MAX_DEPTH: Final = 64
"""Of objects and lists in one another; Kubernetes' own have about fifteen."""
MAX_FIELDS: Final = 1000
"""Of one object."""
_MAX_FINDINGS: Final = 50
"""So many mistakes are told."""
_MAX_ERRORS: Final = 1000
"""With more mistakes than that none is looked at."""
_MAX_NAME: Final = 128
"""Characters of a field's name in a path."""

_INNER: Final = frozenset({"properties", "additionalProperties", "items"})
"""What says that there are fields inside."""
_SHOWN_LEVELS: Final = 3
"""Of a path with too many."""

_Trail = tuple["_Trail", str | int] | None

M = TypeVar("M", bound=Model)

_TYPES: Final = {
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "array": "a list",
}


class Rejected(Exception):
    """An object that is no valid resource."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("\n".join(line(finding) for finding in findings))
        self.findings = findings


def check(model: type[M], content: Mapping[str, Any]) -> M:
    """Return the resource that an object from a manifest describes.

    Raises:
        Rejected: It describes none. All that is wrong is listed.
    """
    too_large = _excess(content)
    if too_large is not None:
        raise Rejected([too_large])
    schema = structural_schema(model)
    try:
        # By alias only: the cluster does not know Python's spelling of a field.
        return model.model_validate(_without_nulls(content, schema), by_alias=True, by_name=False)
    except ValidationError as error:
        raise Rejected(_findings(error, schema)) from None


def _excess(content: Mapping[str, Any]) -> Finding | None:
    """Return what of an object is too large to be looked at in detail, if anything."""
    count = 0
    # Each part with its depth and its trail: the part that it is in, as here, and where there.
    waiting: list[tuple[Any, int, _Trail]] = [(content, 0, None)]
    while waiting:
        value, depth, trail = waiting.pop()
        count += len(value)
        if count > MAX_VALUES:
            return Finding(
                (),
                f"found more than {MAX_VALUES} values, accepted: at most so many; points to run "
                "first can be in a ConfigMap: spec.trialsFrom",
            )
        if depth == MAX_DEPTH:
            message = f"found more than {MAX_DEPTH} levels, accepted: fewer"
            return Finding(_path(trail)[:_SHOWN_LEVELS], message)
        if isinstance(value, list):
            inner: Iterable[tuple[str | int, Any]] = enumerate(value)
        elif len(value) > MAX_FIELDS:
            message = f"found {len(value)} fields, accepted: at most {MAX_FIELDS}"
            return Finding(_path(trail), message)
        else:
            inner = value.items()
        for at, part in inner:
            if isinstance(part, dict | list):
                waiting.append((part, depth + 1, (trail, at)))
    return None


def _path(trail: "_Trail") -> tuple[str | int, ...]:
    return () if trail is None else (*_path(trail[0]), trail[1])


def _findings(error: ValidationError, schema: Schema) -> list[Finding]:
    count = error.error_count()
    if count > _MAX_ERRORS:
        return [Finding((), f"found {count} mistakes, which are too many to tell: accepted: none")]
    details = error.errors(include_url=False, include_context=False)
    findings = [_finding(one, schema) for one in details[:_MAX_FINDINGS]]
    if count > _MAX_FINDINGS:
        findings.append(Finding((), f"the first {_MAX_FINDINGS} mistakes are told, there are more"))
    return findings


def line(finding: Finding) -> str:
    """Return ``path: message``, in one line whatever the object's own texts are."""
    return printable(f"{path_text(finding.path)}: {finding.message}")


def path_text(path: tuple[str | int, ...]) -> str:
    """Return a path as kubectl writes it: ``spec.objectives[0].name``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            part = part if len(part) <= _MAX_NAME else f"{part[:_MAX_NAME]}..."
            # Other names are written as kubectl does: limits[nvidia.com/gpu].
            plain = re.fullmatch(r"[\w$-]+", part)
            text += f"[{part}]" if not plain else f".{part}" if text else part
    return text or "document"


def _without_nulls(value: Any, schema: Schema) -> Any:
    """Drop nulls of known fields, as the API server does where a field is not nullable."""
    if isinstance(value, list):
        items = schema.get("items", {})
        return [
            _without_nulls(item, items) if isinstance(item, Mapping | list) else item
            for item in value
        ]
    if not isinstance(value, Mapping):
        return value
    properties = schema.get("properties", {})
    additional = schema.get("additionalProperties", {})
    if not properties and not additional.keys() & _INNER:
        return value
    return {
        name: _without_nulls(part, properties.get(name, additional))
        if isinstance(part, Mapping | list)
        else part
        for name, part in value.items()
        if part is not None or name not in properties
    }


def _finding(details: ErrorDetails, schema: Schema) -> Finding:
    path = details["loc"]
    kind = details["type"]
    if kind == "rule":
        return Finding(path, details["msg"])
    if kind == "extra_forbidden":
        accepted = list(_at(schema, path[:-1]).get("properties", {}))
        message = f"unknown field, accepted: {', '.join(accepted)}"
        return Finding(path, message + did_you_mean(path[-1], accepted))
    if path[-1] == "[key]":
        return Finding(path[:-1], f"found the name {found(path[-2])}, accepted: {_KEY_WORDS}")
    part = _at(schema, path)
    if kind == "missing":
        return Finding(path, f"missing, accepted: {_accepted(part)}")
    suggestion = did_you_mean(details["input"], part.get("enum", ()))
    return Finding(
        path, f"found {found(details['input'])}, accepted: {_accepted(part)}{suggestion}"
    )


def _at(schema: Schema, path: tuple[str | int, ...]) -> Schema:
    for part in path:
        if isinstance(part, int):
            schema = schema.get("items", {})
        else:
            schema = schema.get("properties", {}).get(part) or schema.get(
                "additionalProperties", {}
            )
    return schema


def _accepted(schema: Schema) -> str:
    if "enum" in schema:
        return " or ".join(map(repr, schema["enum"]))
    if ACCEPTED in schema:
        return str(schema[ACCEPTED])
    if schema.get("type") == "object":
        fields = schema.get("properties")
        if fields:
            return f"an object with the fields {', '.join(fields)}"
        return "an object with at least one field" if "minProperties" in schema else "an object"
    words = _TYPES.get(schema.get("type", ""), "another value")
    low, high = schema.get("minimum"), schema.get("maximum")
    least, most = (
        schema.get("minItems", schema.get("minLength")),
        schema.get("maxItems", schema.get("maxLength")),
    )
    unit = "items" if schema.get("type") == "array" else "characters"
    if low is not None:
        words += f" {'above' if schema.get('exclusiveMinimum') else 'of at least'} {low}"
    if high is not None and high < _NO_BOUND:
        words += f"{' and' if low is not None else ' of'} at most {high}"
    if least is not None and most is not None:
        words += f" of {least} to {most} {unit}"
    elif most is not None:
        words += f" of at most {most} {unit}"
    return words

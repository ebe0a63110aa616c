"""What is wrong with an object, in lines for people: path, what was found, what is accepted."""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from trialfleet.api.base import ACCEPTED, Finding, Model
from trialfleet.api.schema import Schema, structural_schema
from trialfleet.api.suggestions import did_you_mean, found

_KEY_WORDS: Final = "a name of 1 to 128 characters"
_NO_BOUND: Final = 2_147_483_647
"""The largest integer of many Kubernetes fields: nothing that people need to be told."""

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
    schema = structural_schema(model)
    try:
        # By alias only: the cluster does not know Python's spelling of a field.
        return model.model_validate(_without_nulls(content, schema), by_alias=True, by_name=False)
    except ValidationError as error:
        raise Rejected([_finding(details, schema) for details in _errors(error)]) from None


def line(finding: Finding) -> str:
    """Return ``path: message``."""
    return f"{path_text(finding.path)}: {finding.message}"


def path_text(path: tuple[str | int, ...]) -> str:
    """Return a path as kubectl writes it: ``spec.objectives[0].name``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            # Other names are written as kubectl does: limits[nvidia.com/gpu].
            plain = re.fullmatch(r"[\w$-]+", part)
            text += f"[{part}]" if not plain else f".{part}" if text else part
    return text or "document"


def _errors(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_context=False)


def _without_nulls(value: Any, schema: Schema) -> Any:
    """Drop nulls of known fields, as the API server does where a field is not nullable."""
    if isinstance(value, list):
        return [_without_nulls(item, schema.get("items", {})) for item in value]
    if not isinstance(value, Mapping):
        return value
    properties = schema.get("properties", {})
    additional = schema.get("additionalProperties", {})
    return {
        name: _without_nulls(part, properties.get(name, additional))
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

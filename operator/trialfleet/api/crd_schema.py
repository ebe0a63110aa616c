"""Structural OpenAPI v3 schemas, as a CustomResourceDefinition wants them, made from the models."""

import datetime
from functools import cache
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from trialfleet.api.base import ACCEPTED, OPEN, Model, format_duration

Schema = dict[str, Any]

_KEPT: Final = frozenset(
    {
        "type",
        "description",
        "enum",
        "format",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "pattern",
        "required",
        ACCEPTED,
    }
)


@cache
def structural_schema(model: type[Model]) -> Schema:
    """Return the schema of a model; shared, so not to be changed.

    Besides OpenAPI's fields it has ``x-accepted`` where the model gives words for what is accepted.
    """
    source = model.model_json_schema(by_alias=True)
    return _object(source, source.get("$defs", {}), model)


def for_cluster(schema: Schema) -> Schema:
    """Return a schema as the API server wants it: without what only error messages need."""
    plain = {key: value for key, value in schema.items() if key != ACCEPTED}
    if OPEN.items() <= plain.get("additionalProperties", {}).items():
        # CEL does not see a field whose values have no type; it sees an open object.
        del plain["additionalProperties"]
        plain.update(OPEN)
    for key in ("items", "additionalProperties"):
        if key in plain:
            plain[key] = for_cluster(plain[key])
    if "properties" in plain:
        plain["properties"] = {
            name: for_cluster(part) for name, part in plain["properties"].items()
        }
    return plain


def _convert(source: Schema, definitions: dict[str, Schema]) -> Schema:
    source = _resolved(source, definitions)
    schema: Schema = {key: value for key, value in source.items() if key in _KEPT}
    schema.update({key: value for key, value in source.items() if key.startswith("x-kubernetes-")})
    if "description" in schema:
        schema["description"] = " ".join(schema["description"].split())
    if "const" in source:
        schema["enum"] = [source["const"]]
    for bound in ("Minimum", "Maximum"):
        if f"exclusive{bound}" in source:
            schema[bound.lower()] = source[f"exclusive{bound}"]
            schema[f"exclusive{bound}"] = True
    if source.get("examples"):
        schema["example"] = source["examples"][0]
    if source.get("default") is not None:
        schema["default"] = source["default"]
    if "items" in source:
        schema["items"] = _convert(source["items"], definitions)
    if source.get("type") == "object":
        _convert_object(source, schema, definitions)
    return schema


def _convert_object(source: Schema, schema: Schema, definitions: dict[str, Schema]) -> None:
    # A map whose keys have a pattern: a structural schema knows maps with any keys only.
    patterns = list(source.get("patternProperties", {}).values())
    additional = patterns[0] if patterns else source.get("additionalProperties")
    if "properties" in source:
        schema["properties"] = {
            name: _convert(part, definitions) for name, part in source["properties"].items()
        }
    elif isinstance(additional, dict) and additional:
        schema["additionalProperties"] = _convert(additional, definitions)
    else:
        schema.update(OPEN)


def _resolved(source: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return a schema with references followed and `or null` dropped: absent is null here."""
    outer = {key: value for key, value in source.items() if key not in ("$ref", "anyOf")}
    if "$ref" in source:
        inner = definitions[source["$ref"].rsplit("/", 1)[-1]]
    elif "anyOf" in source:
        (inner,) = (part for part in source["anyOf"] if part.get("type") != "null")
    else:
        return source
    # What is said at the field is nearer to the reader than what is said at its type.
    return {**_resolved(inner, definitions), **outer}


def _object(source: Schema, definitions: dict[str, Schema], model: type[Model]) -> Schema:
    schema = _convert(source, definitions)
    _set_defaults(schema, model)
    return schema


def _set_defaults(schema: Schema, model: type[BaseModel]) -> None:
    """Replace defaults by what the manifest would say, without what is a default itself."""
    for name, field in model.model_fields.items():
        part = schema["properties"][field.alias or name]
        default = field.get_default(call_default_factory=True) if not field.is_required() else None
        if isinstance(default, BaseModel):
            part["default"] = default.model_dump(
                by_alias=True, exclude_defaults=True, exclude_none=True, mode="json"
            )
            _set_defaults(part, type(default))
        elif isinstance(default, datetime.timedelta):
            part["default"] = format_duration(default)
        elif default is not None:
            part["default"] = to_jsonable_python(default)
        nested = _model_of(field.annotation)
        if nested is not None:
            for place in _places(part):
                _set_defaults(place, nested)


def _places(part: Schema) -> list[Schema]:
    """Return the schemas of objects with properties at or below a list or map."""
    if "properties" in part:
        return [part]
    for key in ("items", "additionalProperties"):
        if key in part:
            return _places(part[key])
    return []


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_of(argument)
        if found is not None:
            return found
    return None

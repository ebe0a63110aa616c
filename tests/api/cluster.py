"""What an API server says of an object, by nothing but the CRD: the committed file is read.

Defaults, unknown fields (kubectl's default, strict validation), OpenAPI, list types and CEL, in
the order in which an API server applies them.
"""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celpy
import celpy.adapter
import celpy.celtypes
import jsonschema
import yaml

Json = Any
Schema = dict[str, Any]

CRDS = Path(__file__).parents[2] / "crds"
PLURALS = {"Study": "studies", "StudyStorage": "studystorages"}


@functools.cache
def crd(kind: str) -> dict[str, Any]:
    """Return the committed CustomResourceDefinition of a kind."""
    path = CRDS / f"trialfleet.dev_{PLURALS[kind]}.yaml"
    definition: dict[str, Any] = yaml.safe_load(path.read_text())
    return definition


def schema_of(kind: str) -> Schema:
    """Return the OpenAPI schema of a kind."""
    schema: Schema = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def rejections(content: Json, old: Json = None) -> list[str]:
    """Return why the API server refuses an object, or its change from an old one."""
    try:
        json.dumps(content, allow_nan=False)
    except ValueError as error:
        return [f"no JSON: {error}"]
    name = content.get("metadata", {}).get("name", "")
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name) or len(name) > 253:
        return [f"metadata.name: {name!r} is no DNS name"]
    schema = schema_of(content["kind"])
    content = with_defaults(content, schema)
    unknown = list(_unknown(content, schema, ""))
    errors = [
        f"{error.json_path.removeprefix('$.')}: {error.message}"
        for error in jsonschema.Draft4Validator(_draft4(schema)).iter_errors(content)
    ]
    errors += _list_maps(content, schema, "")
    if unknown or errors:
        return unknown + errors
    previous = with_defaults(old, schema) if old is not None else None
    return list(_broken_rules(content, previous, schema, ""))


def with_defaults(value: Json, schema: Schema) -> Json:
    """Return a value without meaningless nulls and with defaults."""
    if isinstance(value, list):
        return [with_defaults(item, schema.get("items", {})) for item in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    additional = schema.get("additionalProperties", {})
    filled = {
        name: with_defaults(part, properties.get(name, additional))
        for name, part in value.items()
        if part is not None or name not in properties
    }
    for name, part in properties.items():
        if "default" in part and name not in filled:
            filled[name] = with_defaults(part["default"], part)
    return filled


def _unknown(value: Json, schema: Schema, path: str) -> Iterator[str]:
    for name, part, inner, known in _children(value, schema):
        if not known and not schema.get("x-kubernetes-preserve-unknown-fields") and path:
            yield f"{path}.{name}: unknown field"
        elif inner is not None:
            yield from _unknown(part, inner, f"{path}.{name}" if path else str(name))


def _children(value: Json, schema: Schema) -> Iterator[tuple[Any, Json, Schema | None, bool]]:
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield index, item, schema["items"], True
    elif isinstance(value, dict) and ("properties" in schema or "additionalProperties" in schema):
        for name, part in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            yield name, part, inner, inner is not None


def _draft4(schema: Schema) -> Schema:
    plain = dict(schema)
    if plain.pop("x-kubernetes-int-or-string", False):
        plain["type"] = ["integer", "string"]
    for key in ("items", "additionalProperties"):
        if key in plain:
            plain[key] = _draft4(plain[key])
    if "properties" in plain:
        plain["properties"] = {k: _draft4(v) for k, v in plain["properties"].items()}
    return plain


def _list_maps(value: Json, schema: Schema, path: str) -> Iterator[str]:
    keys = schema.get("x-kubernetes-list-map-keys")
    if keys and isinstance(value, list):
        seen = [tuple(item.get(key) for key in keys) for item in value if isinstance(item, dict)]
        if len(set(seen)) < len(seen):
            yield f"{path}: duplicate"
    for name, part, inner, _ in _children(value, schema):
        if inner is not None:
            yield from _list_maps(part, inner, f"{path}.{name}")


@functools.cache
def _program(expression: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(expression))


def _broken_rules(value: Json, old: Json, schema: Schema, path: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" in rule["rule"] and old is None:
            continue
        activation: dict[str, Any] = {"self": _to_cel(value, schema)}
        if old is not None:
            activation["oldSelf"] = _to_cel(old, schema)
        if not _program(rule["rule"]).evaluate(activation):
            yield f"{path}{rule.get('fieldPath', '')}: {rule['message']}"
    for name, part, inner, _ in _children(value, schema):
        if inner is None:
            continue
        # Rules of an item of a list see no old item; those of a field see the old field.
        before = old.get(name) if isinstance(old, dict) else None
        yield from _broken_rules(part, before, inner, f"{path}.{name}")


# A field whose name is a word of the language is written so in Kubernetes' CEL.
_ESCAPED = {"function": "__function__"}


def _to_cel(value: Json, schema: Schema) -> Any:
    """Return a value with the types that the schema gives it: a number is always a double."""
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        additional = schema.get("additionalProperties", {})
        return celpy.celtypes.MapType(
            {
                celpy.celtypes.StringType(_ESCAPED.get(str(name), str(name))): _to_cel(
                    part, properties.get(name, additional)
                )
                for name, part in value.items()
            }
        )
    if isinstance(value, list):
        items = schema.get("items", {})
        return celpy.celtypes.ListType([_to_cel(item, items) for item in value])
    if schema.get("type") == "number":
        return celpy.celtypes.DoubleType(value)
    return celpy.adapter.json_to_cel(value)

"""What a release accepted as a Study or a StudyStorage, every later one accepts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.api.cluster import Schema, rejections, schema_of
from trialfleet.api import manifest

HERE = Path(__file__).parent
MANIFESTS = sorted(HERE.glob("*/manifests/*.yaml"))
CRDS = sorted(HERE.glob("*/crds/*.yaml"))

# Where a later release accepts less on purpose, each with its reason.
_ROUNDED = "larger ones were rounded when they were stored: what ran was not what was recorded"
NARROWER = {
    "spec.searchSpace[].int.low": _ROUNDED,
    "spec.searchSpace[].int.high": _ROUNDED,
}


def name_of(path: Path) -> str:
    return str(path.relative_to(HERE))


def contents(path: Path) -> list[dict[str, Any]]:
    return [content for content in yaml.safe_load_all(path.read_text(encoding="utf-8")) if content]


@pytest.mark.parametrize("path", MANIFESTS, ids=name_of)
def test_manifests_are_accepted(path: Path) -> None:
    resources = manifest.load(path)
    found = contents(path)
    assert [resource.kind for resource in resources] == [content["kind"] for content in found]
    for content in found:
        if "file" in content["spec"].get("objective", {}).get("python", {}):
            continue  # of one machine only: no API server ever accepted it
        assert rejections(content) == []
        # What is stored may be written back, as the status is with every change.
        assert rejections(content, content) == []


def spec_of(crd: Path) -> tuple[str, Schema]:
    """Return the kind and the schema of the spec of a release's CRD."""
    (definition,) = contents(crd)
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return definition["spec"]["names"]["kind"], schema["properties"]["spec"]


def fields(schema: Schema, path: str = "spec") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from fields(part, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from fields(schema[key], f"{path}[]")


def used(value: Any, schema: Schema, path: str = "spec") -> Iterator[str]:
    yield path
    if isinstance(value, dict):
        for name, part in value.items():
            inner = schema.get("properties", {}).get(name)
            if inner is not None:
                yield from used(part, inner, f"{path}.{name}")
            elif isinstance(schema.get("additionalProperties"), dict):
                yield from used(part, schema["additionalProperties"], f"{path}[]")
    elif isinstance(value, list):
        for part in value:
            yield from used(part, schema.get("items", {}), f"{path}[]")


@pytest.mark.parametrize("crd", CRDS, ids=name_of)
def test_manifests_use_every_field(crd: Path) -> None:
    kind, schema = spec_of(crd)
    specs = [
        content["spec"]
        for path in crd.parents[1].glob("manifests/*.yaml")
        for content in contents(path)
        if content["kind"] == kind
    ]
    unused = {path for path, _ in fields(schema)} - {
        path for spec in specs for path in used(spec, schema)
    }
    assert unused == set()


def narrower(old: Schema, new: Schema) -> Iterator[str]:
    """Say what a schema refuses that an older one accepted."""
    for key in ("type", "format", "pattern", "x-kubernetes-int-or-string"):
        if new.get(key) != old.get(key) and new.get(key) is not None:
            yield f"{key} {new[key]}, was {old.get(key)}"
    if old.get("x-kubernetes-preserve-unknown-fields") and not new.get(
        "x-kubernetes-preserve-unknown-fields"
    ):
        yield "unknown fields are refused"
    if "enum" in new and not set(old.get("enum", ())) <= set(new["enum"]):
        yield f"enum {new['enum']}, was {old.get('enum')}"
    if set(new.get("required", ())) > set(old.get("required", ())):
        yield f"required {new['required']}, was {old.get('required')}"
    for key in ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"):
        if new.get(key, float("-inf")) > old.get(key, float("-inf")):
            yield f"{key} {new[key]}, was {old.get(key)}"
    for key in ("maximum", "maxLength", "maxItems", "maxProperties"):
        if new.get(key, float("inf")) < old.get(key, float("inf")):
            yield f"{key} {new[key]}, was {old.get(key)}"


@pytest.mark.parametrize("crd", CRDS, ids=name_of)
def test_no_field_goes_or_accepts_less(crd: Path) -> None:
    kind, old = spec_of(crd)
    new = dict(fields(schema_of(kind)["properties"]["spec"]))
    found = {}
    for path, schema in fields(old):
        if path not in new:
            found[path] = "is gone"
        elif said := "; ".join(narrower(schema, new[path])):
            found[path] = said
    assert {path: said for path, said in found.items() if path not in NARROWER} == {}


def test_every_release_has_both() -> None:
    assert {path.parts[-3] for path in MANIFESTS} == {path.parts[-3] for path in CRDS} != set()

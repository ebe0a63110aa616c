"""The committed CRDs: up to date, structural, and with the verdicts of the models."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.api.cluster import CRDS, Schema, crd, rejections, schema_of
from tests.api.study_text import storage, study, written
from trialfleet.api import manifest
from trialfleet.api.study import Study
from trialfleet.api.yaml_documents import documents

KINDS = ("Study", "StudyStorage")

FIXED = "can't change once the study exists: make a study of another name"

SPACE = "{lr: {float: {low: 1e-5, high: 1e-1, log: true}}, depth: {int: {low: 1, high: 9}}}"
FULL = study(
    objectives="[{name: accuracy, direction: maximize, goal: 0.99}]",
    sampler="{name: TPESampler, options: {multivariate: true, seed: 7}}",
    pruner="{name: MedianPruner, options: {n_startup_trials: 5}}",
    budget="{trials: 200, failedTrials: 10, timeout: 2h, "
    "patience: {trials: 50}, trialTimeout: 20m}",
    parallelism="8",
    retries="3",
    suspend="false",
    trials="[{lr: 0.1, depth: 3}]",
    searchSpace="{lr: {float: {low: 1e-5, high: 1e-1, log: true}}, depth: {int: {low: 1, "
    "high: 9}}, kind: {categorical: [svm, forest, 1, false, null]}}",
    objective="{python: {source: 'def objective(trial): return 1.0', function: objective}}",
    template="{metadata: {labels: {kueue.x-k8s.io/queue-name: gpus}}, spec: {containers: [{name: "
    "worker, image: 'python:3.12', resources: {limits: {cpu: 2, memory: 4Gi}}, volumeMounts: "
    "[{name: data, mountPath: /data}]}], volumes: [{name: data, emptyDir: {}}], newField: {a: 1}}}",
    prepare="{spec: {containers: [{name: download, image: curl}]}}",
    collate="{spec: {containers: [{name: plot, image: 'python:3.12'}]}}",
    storage="{name: shared}",
    ttlSecondsAfterFinished="86400",
)

GOOD = {
    "smallest": study(),
    "everything": FULL,
    "goal is the only end": study(
        budget=None, objectives="[{name: loss, direction: minimize, goal: 0.1}]"
    ),
    "meaningless nulls": study(
        sampler="null", template="null", budget="{trials: 1, timeout: null}"
    ),
    "several objectives": study(
        objectives="[{name: loss, direction: minimize}, {name: size, direction: minimize}]",
        sampler="{name: NSGAIISampler, options: {crossover: {name: UniformCrossover}}}",
    ),
    "grid of the search space": study(
        sampler="{name: GridSampler, options: {seed: 1}}",
        searchSpace="{lr: {float: {low: 0, high: 1, step: 0.25}}, bias: {categorical: [on, off]}}",
    ),
    "command": study(
        objective="{command: {args: [train, '--lr=$(lr)', '$$(HOME)'], env: {D: '$(depth)'}, "
        "metrics: {accuracy: {regex: 'accuracy=(.*)'}}}}",
        searchSpace=SPACE,
    ),
    "job": study(
        objective="{job: {template: {apiVersion: batch/v1, kind: Job, spec: {args: ['$(lr)', "
        "'$(depth)']}}, metrics: {accuracy: {file: metrics.json, key: acc}}}}",
        searchSpace=SPACE,
    ),
    "points from a ConfigMap": study(trialsFrom="{configMap: {name: p, key: hparams.json}}"),
    "storage": storage(),
    "storage in a pod": storage(postgres="{managed: {emptyDir: {sizeLimit: 1Gi}}}"),
    "storage of CloudNativePG": storage(postgres="{cloudNativePG: {instances: 2}}"),
    "storage elsewhere": storage(
        postgres="{external: {secretRef: {name: db}}}",
        retention="Delete",
        proxy="{placement: Shared, workersPerReplica: 50, gracePeriod: 1m}",
        security="{tls: true, plaintextPort: 13002}",
    ),
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_accepts_on_both_sides(text: str, tmp_path: Path) -> None:
    (resource,) = manifest.load(written(tmp_path, text))
    assert rejections(content_of(text)) == []
    assert resource.kind == content_of(text)["kind"]


def test_committed_crds_are_up_to_date(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "trialfleet.api.crd", tmp_path], check=True)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_text() for path in CRDS.iterdir()}


def schemas_within(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from schemas_within(part, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from schemas_within(schema[key], f"{path}.{key}")


ALLOWED = {
    *("type", "description", "enum", "format", "default", "example", "pattern", "required"),
    *("properties", "additionalProperties", "items", "minimum", "maximum", "exclusiveMinimum"),
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
    *("x-kubernetes-validations", "x-kubernetes-preserve-unknown-fields"),
    *("x-kubernetes-int-or-string", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_schema_is_structural(kind: str) -> None:
    for path, schema in schemas_within(schema_of(kind), kind):
        assert set(schema) <= ALLOWED, path
        open_ = schema.get("x-kubernetes-preserve-unknown-fields")
        int_or_string = schema.get("x-kubernetes-int-or-string")
        assert "type" in schema or open_ or int_or_string, path
        assert not (int_or_string and "type" in schema), path
        assert not ("properties" in schema and "additionalProperties" in schema), path
        assert (schema.get("type") == "array") == ("items" in schema), path
        for name in schema.get("required", ()):
            assert name in schema["properties"], path
        if schema.get("x-kubernetes-list-type") == "map":
            for key in schema["x-kubernetes-list-map-keys"]:
                assert key in schema["items"]["required"], path


@pytest.mark.parametrize("kind", KINDS)
def test_schema_is_valid_openapi_with_valid_defaults(kind: str) -> None:
    for path, schema in schemas_within(schema_of(kind), kind):
        jsonschema.Draft4Validator.check_schema(schema)
        for word in ("default", "example"):
            if word in schema:
                errors = list(jsonschema.Draft4Validator(schema).iter_errors(schema[word]))
                assert not errors, (path, word)


@pytest.mark.parametrize("kind", KINDS)
def test_rules_look_at_bounded_values_only(kind: str) -> None:
    """The API server refuses a CRD whose rules may cost too much: lists in reach need a bound."""

    def check(schema: Schema, path: str) -> None:
        for inner_path, inner in schemas_within(schema, path):
            if inner.get("type") == "array":
                assert "maxItems" in inner, inner_path

    check(schema_of(kind)["properties"]["spec"], kind)


def visible_to_cel(schema: Schema) -> bool:
    if schema.get("x-kubernetes-int-or-string"):
        return True
    if schema.get("type") == "array":
        return visible_to_cel(schema["items"])
    if "additionalProperties" in schema:
        return visible_to_cel(schema["additionalProperties"])
    return "type" in schema


@pytest.mark.parametrize("kind", KINDS)
def test_rules_look_at_fields_that_cel_sees(kind: str) -> None:
    """The API server refuses a rule on a field whose values, or their items, have no type."""
    for path, schema in schemas_within(schema_of(kind), kind):
        for rule in schema.get("x-kubernetes-validations", ()):
            for name in re.findall(r"\b(?:self|oldSelf)\.([A-Za-z]+)\b(?!\()", rule["rule"]):
                assert visible_to_cel(schema["properties"][name]), (path, name)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_described(kind: str) -> None:
    spec = schema_of(kind)["properties"]["spec"]
    # Fields of a pod are Kubernetes' own.
    pods = ("template", "prepare", "collate", "resources", "items", "additionalProperties")
    for path, schema in schemas_within(spec, "spec"):
        if not any(part in path.split(".") for part in pods):
            assert schema.get("description"), path


def test_study_prints_what_people_ask_for() -> None:
    version = crd("Study")["spec"]["versions"][0]
    columns = version["additionalPrinterColumns"]
    assert [column["name"] for column in columns if not column.get("priority")] == [
        *("Phase", "Progress", "Running", "Best", "Parallelism", "Age"),
    ]
    for column in columns:
        schema: Any = {**schema_of("Study"), "type": "object"}
        for part in column["jsonPath"].strip(".").split("."):
            schema = schema.get("properties", {}).get(part, {})
        if not column["jsonPath"].startswith(".metadata"):
            assert schema.get("type") == column["type"], column
    assert version["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.parallelism",
            "statusReplicasPath": ".status.workers.ready",
            "labelSelectorPath": ".status.selector",
        },
    }


def content_of(text: str) -> Any:
    (document,) = documents(text)
    return document.content


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (study(), study(parallelism="9", retries="0", suspend="true", budget="{trials: 11}"), []),
        (study(), study(sampler="{name: TPESampler}"), []),
        (study(), study(objectives="[{name: accuracy, direction: maximize, goal: 1}]"), []),
        (
            study(),
            study(sampler="{name: RandomSampler}"),
            [f".spec.sampler: sampler {FIXED}"],
        ),
        (
            study(),
            study(objectives="[{name: accuracy, direction: minimize}]"),
            [f".spec.objectives: names and directions of objectives {FIXED}"],
        ),
        (
            study(),
            study(storage="{name: shared}"),
            [f".spec.storage: storage.name {FIXED}"],
        ),
        (
            study(template="{spec: {unknownField: 1}}"),
            study(template="{spec: {unknownField: 2}}"),
            [],
        ),
        (
            study(prepare="{spec: {containers: [{name: x}], unknownField: 1}}"),
            study(prepare="{spec: {containers: [{name: x}], unknownField: 2}}"),
            [f".spec.prepare: prepare {FIXED}"],
        ),
        (
            storage(retention="Retain"),
            storage(postgres="{external: {secretRef: {name: db}}}"),
            [
                ".spec.postgres: where PostgreSQL is can't change once the storage exists: make a "
                "storage of another name"
            ],
        ),
        (storage(retention="Retain"), storage(retention="Delete"), []),
    ],
)
def test_what_may_change(before: str, after: str, said: list[str]) -> None:
    assert [line.lstrip() for line in rejections(content_of(after), content_of(before))] == said


def test_a_file_is_for_one_machine(tmp_path: Path) -> None:
    text = study(objective="{python: {file: objective.py}}")
    path = written(tmp_path, text)
    assert manifest.read(path).notices == [
        f"{path}:7: spec.objective.python.file: read on one machine only; a cluster accepts "
        "source, configMap or callable"
    ]
    assert rejections(content_of(text)) == [
        ".spec.objective.python: file is read on one machine only, by 'trialfleet run'; on a "
        "cluster give source, configMap or callable"
    ]


def test_a_file_of_points_is_for_one_machine(tmp_path: Path) -> None:
    text = study(trialsFrom="{file: hparams.json}")
    path = written(tmp_path, text)
    (notice,) = manifest.read(path).notices
    assert notice.endswith(
        ": spec.trialsFrom.file: read on one machine only; a cluster accepts configMap"
    )
    assert rejections(content_of(text)) == [
        ".spec.trialsFrom: file is read on one machine only, by 'trialfleet run'; on a cluster "
        "give configMap"
    ]


def test_what_the_cluster_kept_is_read_again(tmp_path: Path) -> None:
    (resource,) = manifest.load(written(tmp_path, FULL))
    assert isinstance(resource, Study)
    kept = resource.model_dump(by_alias=True, exclude_none=True, mode="json")
    assert rejections(kept) == []
    assert manifest.load(written(tmp_path, yaml.safe_dump(kept))) == [resource]

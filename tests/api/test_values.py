import datetime
from pathlib import Path

import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tests.api.study_text import storage, study, written
from trialfleet import names
from trialfleet.api import manifest
from trialfleet.api.base import format_duration, parse_duration
from trialfleet.api.search_space import distributions, is_possible
from trialfleet.api.study import Study
from trialfleet.api.study_storage import StudyStorage
from trialfleet.api.yaml_documents import documents
from trialfleet.model.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("20m", 1200), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), ("250ms", 0.25)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text).total_seconds() == seconds
    assert parse_duration(format_duration(parse_duration(text))).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "5", "2d", "-1h", "1h 30m", "h", "1e3s", "1:30"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not a duration"):
        parse_duration(text)


def test_formats_durations_as_people_write_them() -> None:
    assert format_duration(datetime.timedelta(hours=1, seconds=90.5)) == "1h1m30s500ms"
    assert format_duration(datetime.timedelta()) == "0s"


def load_study(folder: Path, text: str) -> Study:
    (resource,) = manifest.load(written(folder, text))
    assert isinstance(resource, Study)
    return resource


def test_defaults(tmp_path: Path) -> None:
    spec = load_study(tmp_path, study()).spec
    assert (spec.parallelism, spec.retries, spec.suspend) == (1, 3, False)
    assert (spec.sampler.name, spec.pruner.name) == ("TPESampler", "MedianPruner")
    assert spec.template is None
    assert spec.storage is None


def test_storage_defaults(tmp_path: Path) -> None:
    (resource,) = manifest.load(written(tmp_path, storage(retention="Delete")))
    assert isinstance(resource, StudyStorage)
    spec = resource.spec
    assert spec.postgres.managed is not None
    assert spec.proxy.placement == "Node"
    assert spec.proxy.grace_period == datetime.timedelta(seconds=20)
    assert spec.security.tls
    assert spec.security.plaintext_port is None


def test_search_space_is_optunas(tmp_path: Path) -> None:
    text = study(
        searchSpace="{lr: {float: {low: 1e-5, high: 1e-1, log: true}}, w: {float: {low: 0, "
        "high: 1, step: 0.5}}, depth: {int: {low: 1, high: 9, step: 2}}, kind: {categorical: [svm, "
        "1, null]}}"
    )
    space = load_study(tmp_path, text).spec.search_space
    assert space is not None
    assert distributions(space) == {
        "lr": FloatDistribution(1e-5, 0.1, log=True),
        "w": FloatDistribution(0, 1, step=0.5),
        "depth": IntDistribution(1, 9, step=2),
        "kind": CategoricalDistribution(["svm", 1, None]),
    }


@pytest.mark.parametrize(
    ("distribution", "value", "possible"),
    [
        (FloatDistribution(0, 1), 1, True),
        (FloatDistribution(0, 1), 1.5, False),
        (FloatDistribution(0, 1), True, False),
        (FloatDistribution(0, 1), "1", False),
        (IntDistribution(1, 9, step=2), 3, True),
        (IntDistribution(1, 9, step=2), 3.0, True),
        (IntDistribution(1, 9, step=2), 4, False),
        (IntDistribution(1, 9), 4.5, False),
        (CategoricalDistribution([1, "a", None]), None, True),
        (CategoricalDistribution([1, "a", None]), True, False),
        (CategoricalDistribution([1, "a", None]), 1.0, False),
    ],
)
def test_possible_values(distribution: BaseDistribution, value: object, possible: bool) -> None:
    assert isinstance(value, bool | int | float | str | None)
    assert is_possible(distribution, value) is possible


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1e3", 1000.0),
        ("1.", 1.0),
        ("-.5", -0.5),
        ("0x10", 16),
        ("010", 8),
        ("0o10", 8),
        ("1_000", 1000),
        ("0", 0),
        ("yes", True),
        ("off", False),
        ("~", None),
        ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"),
        ("'yes'", "yes"),
        ("1.2.3", "1.2.3"),
        ("2h", "2h"),
    ],
)
def test_scalars_are_what_kubernetes_tools_make_of_them(text: str, value: object) -> None:
    (document,) = documents(f"a: {text}\n")
    assert document.content == {"a": value}
    assert type(document.content["a"]) is type(value)


def test_keys_are_strings_and_merges_work() -> None:
    (document,) = documents("base: &base {1: a, null: b}\nmore:\n  <<: *base\n  2: c\n")
    assert document.content["more"] == {"1": "a", "null": "b", "2": "c"}


def test_reads_several_documents_and_leaves_others_to_the_cluster(tmp_path: Path) -> None:
    config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: points}\ndata: {a.json: '[]'}\n"
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
    path = written(
        tmp_path, "---\n".join([config_map, study(), service, storage(retention="Delete")])
    )
    found = manifest.read(path)
    assert [resource.kind for resource in found.resources] == ["Study", "StudyStorage"]
    assert found.config_maps == {"points": {"a.json": "[]"}}
    assert found.notices == [f"{path}:14: document: Service 'web' is not checked here"]


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        (
            study(template="{spec: {containers: [{name: worker, imgae: python}]}}"),
            "spec.template.spec.containers[0].imgae: unknown here, passed on to Kubernetes "
            "(did you mean 'image'?)",
        ),
        (
            study(
                pruner="{name: NopPruner}",
                objectives="[{name: a, direction: minimize}, {name: b, direction: minimize}]",
            ),
            "spec.pruner: no effect: Optuna prunes no trial of several objectives",
        ),
        (
            study(
                objective="{job: {template: {apiVersion: batch/v1, kind: Job, spec: {}}}}",
                searchSpace="{lr: {float: {low: 0, high: 1}}}",
            ),
            "spec.searchSpace.lr: no effect: no $(lr) in the job's template",
        ),
        (
            study(searchSpace="{lr: {float: {low: 0, high: 1, step: 0.3}}}"),
            "spec.searchSpace.lr.float.high: 1.0 is not reached in steps of 0.3 from 0.0: the "
            "largest value is 0.9",
        ),
        (
            storage(postgres="{managed: {emptyDir: {}}}"),
            "spec.postgres.managed.emptyDir: all trials are gone when the pod is",
        ),
    ],
)
def test_says_what_has_no_effect(text: str, notice: str, tmp_path: Path) -> None:
    (said,) = manifest.read(written(tmp_path, text)).notices
    assert said.split(": ", 1)[1] == notice


def test_one_version_of_the_api() -> None:
    for kind in manifest.KINDS.values():
        assert kind.model_fields["api_version"].default == names.API_VERSION


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"trials": "[{a: 9223372036854775808}, {a: 9223372036854775807}]"}, "trials[0].a"),
        ({"searchSpace": "{a: {categorical: [9223372036854775808, 1]}}"}, "searchSpace.a"),
    ],
)
def test_integers_that_a_cluster_rounds_are_refused(
    fields: dict[str, str], path: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput) as caught:
        manifest.load(written(tmp_path, study(**fields)))
    (message,) = str(caught.value).splitlines()
    assert f"spec.{path}: found 9223372036854775808" in message
    assert message.endswith(
        "accepted: integers of 64 bits, because a cluster rounds others; or a text, in quotes"
    )

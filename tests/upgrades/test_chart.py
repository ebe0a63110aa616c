"""`helm upgrade` from a release's chart to today's: what an installation has keeps working."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from tests.chart.rendering import CHART, Object, only, read_values, render
from trialfleet import names

HERE = Path(__file__).parent
PACKAGES = sorted(HERE.glob("*/trialfleet-*.tgz"))
SCOPES = ("Cluster", "Namespace")


def release_of(path: Path) -> str:
    return path.parent.name


def render_package(path: Path, values: Mapping[str, Any]) -> list[Object]:
    """Return the objects of a release's own chart."""
    with helm_python.Chart.load_archive(path.read_bytes()) as chart:
        texts = chart.render(dict(values), name="trialfleet", namespace="team")
    return [
        obj
        for name, text in texts.items()
        if not name.endswith("NOTES.txt")
        for obj in yaml.safe_load_all(text)
        if obj
    ]


def values_of(path: Path) -> Object:
    """Return all values of a release's chart, as somebody may have set them."""
    with helm_python.Chart.load_archive(path.read_bytes()) as chart:
        found: Object = json.loads(json.dumps(chart.values))
    return found


def test_every_release_has_its_chart() -> None:
    releases = {path.parent.name for path in HERE.glob("*/database.sql")}
    assert {release_of(path) for path in PACKAGES} == releases


@pytest.mark.parametrize("package", PACKAGES, ids=release_of)
def test_values_of_a_release_are_accepted(package: Path) -> None:
    values = values_of(package)
    assert values.keys() <= read_values(CHART / "values.yaml").keys()
    # With --reuse-values what was given stays, and with it the schema's verdict.
    assert only(render(values), "Deployment")["spec"]["replicas"] == 1


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("package", PACKAGES, ids=release_of)
def test_what_an_upgrade_can_not_change_is_the_same(package: Path, scope: str) -> None:
    before, after = render_package(package, {"scope": scope}), render({"scope": scope})
    old, new = only(before, "Deployment"), only(after, "Deployment")
    assert new["metadata"]["name"] == old["metadata"]["name"]
    # The API server refuses another one.
    assert new["spec"]["selector"] == old["spec"]["selector"]
    labels = new["spec"]["template"]["metadata"]["labels"]
    assert new["spec"]["selector"]["matchLabels"].items() <= labels.items()
    # Storages let the operator in by this label, whichever release made their NetworkPolicy.
    assert labels[names.LABEL_APP] == names.OPERATOR
    # A binding's role can't change either.
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        roles = {one["metadata"]["name"]: one["roleRef"] for one in after if one["kind"] == kind}
        for one in before:
            if one["kind"] == kind and one["metadata"]["name"] in roles:
                assert roles[one["metadata"]["name"]] == one["roleRef"]


@pytest.mark.parametrize("package", PACKAGES, ids=release_of)
def test_the_operators_key_is_found_again(package: Path) -> None:
    """Passwords and certificates of all storages come from it."""

    def key_of(objects: list[Object]) -> list[str]:
        (container,) = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
        return [text for text in container["args"] if text.startswith("--key-secret")]

    assert key_of(render({})) == key_of(render_package(package, {})) != []


@pytest.mark.parametrize("package", PACKAGES, ids=release_of)
def test_definitions_are_changed_and_not_removed(package: Path) -> None:
    """With a definition all its studies are deleted."""
    kind = "CustomResourceDefinition"
    before = {one["metadata"]["name"] for one in render_package(package, {}) if one["kind"] == kind}
    after = {one["metadata"]["name"]: one for one in render({}) if one["kind"] == kind}
    assert before <= after.keys()
    for one in after.values():
        assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"

"""The one file for those without Helm."""

import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import yaml

from tests.chart.rendering import ROOT, VALUES, read_values, render


def make(tmp_path: Path, *arguments: str) -> list[dict[str, object]]:
    """Return the objects of the file."""
    output = tmp_path / "trialfleet.yaml"
    subprocess.run(
        [sys.executable, "tools/manifests.py", "--output", output, *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return list(yaml.safe_load_all(output.read_text(encoding="utf-8")))


def test_the_file_has_what_the_chart_has_in_an_order_that_works(tmp_path: Path) -> None:
    objects = make(tmp_path)
    for obj in objects:
        kubernetes_validate.validate(obj, "1.36", strict=True)
    kinds = [str(obj["kind"]) for obj in objects]
    assert kinds[:3] == ["Namespace", "CustomResourceDefinition", "CustomResourceDefinition"]
    assert kinds.index("ServiceAccount") < kinds.index("Deployment")
    assert sorted(kinds[1:]) == sorted(obj["kind"] for obj in render({}))
    assert "Helm" not in str([obj["metadata"] for obj in objects])


def test_values_and_namespace_are_taken(tmp_path: Path) -> None:
    (path,) = (path for path in VALUES if path.stem == "namespace")
    objects = make(tmp_path, "--namespace", "team", "--values", str(path))
    wanted = render(read_values(path), namespace="team")
    assert len(objects) == len(wanted) + 1
    assert str(objects).count("trialfleet-system") == 0

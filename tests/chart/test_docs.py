"""What the pages about installing show is valid, and names what there is."""

import re
from pathlib import Path

import pytest
import yaml

from tests.chart.rendering import ROOT, render
from trialfleet.api import manifest

PAGES = [ROOT / "docs" / name for name in ("install.md", "images.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_manifests_are_valid(page: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for index, block in enumerate(blocks):
        file = tmp_path / f"{index}.yaml"
        file.write_text(block, encoding="utf-8")
        assert manifest.read(file).resources


def test_values_that_the_pages_set_are_the_charts() -> None:
    values = yaml.safe_load((ROOT / "charts/trialfleet/values.yaml").read_text(encoding="utf-8"))
    for page in PAGES:
        for path in re.findall(r"--set '?([\w.]+)=", page.read_text(encoding="utf-8")):
            found = values
            for key in path.split("."):
                assert key in found, f"{page.name}: {path}"
                found = found[key]


def test_the_objects_that_the_pages_name_are_made() -> None:
    names = {obj["metadata"]["name"] for obj in render({})}
    assert {"trialfleet", "studies.trialfleet.dev", "studystorages.trialfleet.dev"} <= names
    assert "trialfleet-key" in names

"""``spec.trialsFrom`` on one machine."""

import json
from pathlib import Path

import pytest

from tests.local.running import run, write_study
from trialfleet.api import manifest
from trialfleet.api.study import Study
from trialfleet.local.points import read_points
from trialfleet.model.errors import InvalidInput

OBJECTIVE = """
def objective(trial):
    return trial.suggest_float("lr", 0, 1) * trial.suggest_categorical("kind", [1, 2])
"""

POINTS = [{"lr": 0.25, "kind": 2}, {"lr": 0.5, "kind": 1}]

CONFIG_MAP = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: points}
data:
  hparams.json: '%s'
"""

SPACE = (
    "  searchSpace: {lr: {float: {low: 0, high: 1}}, kind: {categorical: [1, 2]}}\n  trialsFrom: "
)


def points_of(folder: Path, source: str, *, text: str = "", more: str = "") -> list[object]:
    """Return the points of a study that takes them from a source."""
    path = write_study(folder, OBJECTIVE)
    path.write_text(path.read_text() + SPACE + source + "\n" + more)
    (folder / "hparams.json").write_text(text)
    held = manifest.read(path)
    study = next(one for one in held.resources if isinstance(one, Study))
    return [*read_points(study.spec, held)]


def test_the_points_of_a_file_run_first_and_once(folder: Path) -> None:
    points_of(folder, "{file: hparams.json}", text=json.dumps(POINTS))
    plan = json.loads(run(["run", "study.yaml", "--dry-run", "--output", "json"], folder).stdout)
    assert plan["first"] == POINTS
    for trials in ("3", "4"):
        done = run(["run", "study.yaml", "--trials", trials], folder)
        assert done.returncode == 0, done.stderr
    listed = json.loads(run(["trials", "--output", "json"], folder).stdout)
    assert [trial["params"] for trial in listed[:2]] == POINTS
    assert all(trial["params"] not in POINTS for trial in listed[2:])


def test_the_points_of_a_config_map_in_the_same_file(folder: Path) -> None:
    source = "{configMap: {name: points, key: hparams.json}}"
    assert points_of(folder, source, more=CONFIG_MAP % json.dumps(POINTS)) == POINTS
    with pytest.raises(
        InvalidInput,
        match=r"^spec\.trialsFrom\.configMap: ConfigMap 'points', key 'hparams\.json': not found "
        r"in .*study\.yaml, accepted on one machine: a ConfigMap in the same file, or "
        r"trialsFrom\.file$",
    ):
        points_of(folder, source)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "found no JSON ("),
        ('{"lr": 1}', "found another JSON value, accepted: a JSON list of objects, parameter to"),
        ("[NaN]", "found no JSON (NaN is no number of JSON), accepted: a JSON list of objects"),
        ('[{"lr": 0.5}, {"lr": 3}]', "[1].lr: found 3, accepted: a number from 0.0 to 1.0"),
        ('[{"lrr": 0.5}]', "[0].lrr: unknown parameter, accepted: lr, kind (did you mean 'lr'?)"),
        ('[{"lr": [1]}]', "[0].lr: found [1], accepted: a string, a number, true, false or null"),
    ],
)
def test_points_that_can_not_be_run_are_refused(folder: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        points_of(folder, "{file: hparams.json}", text=text)
    assert f"spec.trialsFrom.file: {folder / 'hparams.json'}: {said}" in str(refused.value)


def test_a_file_that_is_not_there(folder: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^spec\.trialsFrom\.file: .*/x: No such file or dir"):
        points_of(folder, "{file: x}")

"""Each example runs as its manifest says, with the outcome that it promises."""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tf-", dir="/tmp") as name:
        yield Path(name)


def command(folder: Path, *arguments: str) -> str:
    """Run a command in a folder; return its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "trialfleet.cli.main", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def result(folder: Path, example: str, *options: str) -> dict[str, Any]:
    manifest = str(EXAMPLES / example / "study.yaml")
    told: dict[str, Any] = json.loads(
        command(folder, "run", manifest, "--output", "json", *options)
    )
    return told


def test_quickstart(folder: Path) -> None:
    told = result(folder, "quickstart")
    assert told["trials"]["complete"] == 100
    best = told["best"][0]
    assert best["values"]["loss"] < 2
    assert best["params"].keys() == {"x", "y"}


def test_digits(folder: Path) -> None:
    told = result(folder, "digits", "--plot", "history.png")
    counts = told["trials"]
    assert counts["complete"] + counts["pruned"] == 60
    assert counts["pruned"] >= 10
    assert told["best"][0]["values"]["accuracy"] >= 0.97
    assert len(told["best"][0]["intermediate_values"]) == 30
    assert (folder / "history.png").read_bytes().startswith(b"\x89PNG")
    first = json.loads(command(folder, "trials", "--output", "json"))[0]
    assert first["params"]["units"] == 64


def test_define_by_run(folder: Path) -> None:
    told = result(folder, "define-by-run")
    assert told["trials"]["complete"] == 40
    assert told["best"][0]["values"]["accuracy"] >= 0.95
    trials = json.loads(command(folder, "trials", "--output", "json"))
    for trial in trials:
        params = trial["params"]
        if params["classifier"] == "forest":
            assert params.keys() == {"classifier", "trees", "max_depth"}
        else:
            units = {f"units_{layer}" for layer in range(params["layers"])}
            assert params.keys() == {"classifier", "layers", "learning_rate", *units}
    header = command(folder, "best", "--output", "csv").splitlines()[0].split(",")
    assert {"params_classifier", "accuracy", "number"} <= set(header)


def test_command(folder: Path) -> None:
    told = result(folder, "command")
    assert told["trials"]["complete"] == 40
    best = told["best"][0]
    assert best["values"]["rmse"] < 15
    assert best["params"].keys() == {"degree", "rate", "momentum", "epochs"}


def test_report(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The program is run by the Python that has Trialfleet.
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    told = result(folder, "report")
    counts = told["trials"]
    assert counts["complete"] + counts["pruned"] == 20
    assert counts["pruned"] >= 1
    best = told["best"][0]
    assert best["values"]["error"] < 0.2
    assert len(best["intermediate_values"]) == 10


def test_make(folder: Path) -> None:
    # It writes beside its manifest.
    for example in ("make", "command"):
        shutil.copytree(EXAMPLES / example, folder / example)
    manifest = "make/study.yaml"
    plan = json.loads(command(folder, "run", manifest, "--dry-run", "--output", "json"))
    assert plan["processes"]["prepare"] == ["make data.csv"]
    assert plan["first"] == json.loads((EXAMPLES / "make" / "hparams.json").read_text())
    assert not (folder / "make" / "data.csv").exists()

    told = json.loads(command(folder, "run", manifest, "--output", "json"))
    # One point diverges.
    assert (told["trials"]["complete"], told["trials"]["failed"]) == (9, 1)
    trials = json.loads(command(folder, "trials", "--output", "json"))
    assert [trial["params"] for trial in trials] == plan["first"]
    with (folder / "make" / "summary.csv").open(newline="") as file:
        errors = [float(row["rmse"]) for row in csv.DictReader(file)]
    assert len(errors) == 9
    assert errors == sorted(errors)
    assert errors[0] == told["best"][0]["values"]["rmse"]


def test_each_example_is_in_the_readme_and_has_a_test() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    for manifest in EXAMPLES.glob("*/study.yaml"):
        name = manifest.parent.name
        assert f"({name}/study.yaml)" in readme
        assert f"test_{name.replace('-', '_')}" in globals()

"""Packages of a manifest on one machine: installed before the first trial, once."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.local.running import processes_of, run, write_study
from tests.wheels import environment, write_wheel

OBJECTIVE = """
import subprocess, sys
import tfa

def objective(trial):
    # Programs that it starts find them too.
    subprocess.run([sys.executable, "-c", "import tfa"], check=True)
    return trial.suggest_float("x", 0, 1) + float(tfa.VERSION)
"""


@pytest.fixture
def wheels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = folder / "wheels"
    made.mkdir()
    for name, text in environment(made).items():
        monkeypatch.setenv(name, text)
    return made


def write(folder: Path, **python: object) -> None:
    manifest = write_study(folder, OBJECTIVE, trials=2, parallelism=2)
    study = yaml.safe_load(manifest.read_text())
    study["spec"]["objective"]["python"] |= python
    manifest.write_text(yaml.safe_dump(study))


def test_a_study_has_its_packages_and_a_second_run_at_once(folder: Path, wheels: Path) -> None:
    write_wheel(wheels, "tfa", "5.0")
    write(folder, packages=["tfa==5.*"])
    plan = run(["run", "study.yaml", "--dry-run"], folder)
    assert "packages: tfa==5.*, to be installed in " in plan.stdout
    done = run(["run", "study.yaml"], folder)
    assert done.returncode == 0, done.stderr
    assert "installing tfa==5.*\n" in done.stderr
    again = run(["run", "study.yaml", "--trials", "4"], folder)
    assert again.returncode == 0, again.stderr
    assert "installing" not in again.stderr
    assert "4 of 4 trials (4 complete)" in again.stdout
    assert processes_of(folder) == []


def test_a_requirements_file_beside_the_manifest(folder: Path, wheels: Path) -> None:
    write_wheel(wheels, "tfa", "5.0")
    (folder / "requirements.txt").write_text("tfa\n")
    write(folder, requirements={"file": "requirements.txt"})
    assert run(["run", "study.yaml"], folder).returncode == 0
    (folder / "requirements.txt").write_text("-r other.txt\n")
    refused = run(["run", "study.yaml"], folder)
    assert refused.returncode == 2
    assert refused.stderr == (
        "spec.objective.python.requirements: line 1: found '-r other.txt', accepted: requirements "
        "and options, but no other file or folder\n"
    )
    (folder / "requirements.txt").unlink()
    refused = run(["run", "study.yaml"], folder)
    assert refused.returncode == 2
    assert refused.stderr == (
        "spec.objective.python.requirements.file: found 'requirements.txt', which can't be read "
        "(No such file or directory); accepted: a text file beside the manifest\n"
    )


def test_what_can_not_be_installed_is_told_before_a_trial_is_opened(
    folder: Path, wheels: Path
) -> None:
    write(folder, packages=["tfa", "grpcio<1"])
    refused = run(["run", "study.yaml"], folder)
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        "spec.objective.python.packages[1]: found 'grpcio<1', but Trialfleet runs with grpcio "
    )
    assert not (folder / ".trialfleet").exists()
    write(folder, packages=["tfa"])
    failed = run(["run", "study.yaml"], folder)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == (
        "spec.objective.python.packages: can't be installed: Could not find a version that "
        "satisfies the requirement tfa (from versions: none); No matching distribution found "
        "for tfa"
    )
    assert run(["trials", "test"], folder).returncode != 0
    assert processes_of(folder) == []


SCRIPT = """
import trialfleet

def objective(trial):
    import subprocess, sys
    import tfa
    subprocess.run([sys.executable, "-c", "import tfa"], check=True)
    return trial.suggest_float("x", 0, 1) + float(tfa.VERSION)

study = trialfleet.optimize(objective, 2, packages=["tfa==5.*"])
assert study.best_value >= 5
"""


def test_a_function_has_its_packages(folder: Path, wheels: Path) -> None:
    write_wheel(wheels, "tfa", "5.0")
    (folder / "script.py").write_text(SCRIPT)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    (made,) = (folder / ".trialfleet" / "packages").glob("*/tfa.py")
    assert made.is_file()

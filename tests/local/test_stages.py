"""``prepare`` and ``collate`` of a local run: once before the first trial, once after the last."""

import csv
import json
import sys
from pathlib import Path

import pytest
import yaml

from tests.local.conftest import Start
from tests.local.running import processes_of, run, write_study

OBJECTIVE = """
from pathlib import Path

def objective(trial):
    return trial.suggest_float("x", 0, 1) + len(Path("prepared").read_text().splitlines())
"""

COLLATE = """
import os
from pathlib import Path
from trialfleet.client import FleetStorage

client = FleetStorage(os.environ["TRIALFLEET_PROXY"])
study_id = client.get_study_id_from_name(os.environ["TRIALFLEET_STUDY"])
results = Path(os.environ["TRIALFLEET_RESULTS"])
with open("collated", "a") as file:
    print(client.get_n_trials(study_id), *sorted(f.name for f in results.iterdir()), file=file)
client.close()
"""


def write(folder: Path, *, trials: int = 3, **pods: object) -> None:
    """Write a study with pods that run once, each given by its containers."""
    manifest = write_study(folder, OBJECTIVE, trials=trials)
    study = yaml.safe_load(manifest.read_text())
    for name, spec in pods.items():
        study["spec"][name] = {"spec": spec}
    manifest.write_text(yaml.safe_dump(study))


def shell(script: str, name: str = "step") -> dict[str, object]:
    return {"name": name, "command": ["sh", "-c"], "args": [script]}


def test_each_runs_once_and_again_only_for_new_trials(folder: Path) -> None:
    (folder / "collate.py").write_text(COLLATE)
    prepare = {
        "initContainers": [shell("echo first >> prepared", "fetch")],
        "containers": [
            {
                **shell("echo $(SECOND) $TRIALFLEET_STUDY '$$(SECOND)' >> prepared"),
                "env": [{"name": "SECOND", "value": "second"}],
            }
        ],
    }
    collate = {"containers": [{"name": "all", "command": [sys.executable, "collate.py"]}]}
    write(folder, prepare=prepare, collate=collate)

    plan = run(["run", "study.yaml", "--dry-run"], folder)
    assert "prepare: sh -c 'echo first >> prepared', sh -c" in plan.stdout
    assert f"collate: {sys.executable} collate.py" in plan.stdout
    assert not (folder / "prepared").exists()

    done = run(["run", "study.yaml"], folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "prepared").read_text() == "first\nsecond test $(SECOND)\n"
    assert (folder / "collated").read_text() == "3 trials.csv trials.json\n"
    results = folder / ".trialfleet" / "results" / "test"
    trials = json.loads((results / "trials.json").read_text())
    assert [trial["number"] for trial in trials] == [0, 1, 2]
    assert all(trial["values"]["loss"] >= 2 for trial in trials)
    with (results / "trials.csv").open(newline="") as file:
        assert [row["number"] for row in csv.DictReader(file)] == ["0", "1", "2"]

    again = run(["run", "study.yaml"], folder)
    assert (again.returncode, "runs" in again.stderr) == (0, False), again.stderr
    more = run(["run", "study.yaml", "--trials", "4"], folder)
    assert more.returncode == 0, more.stderr
    assert "prepare" not in more.stderr
    assert (folder / "collated").read_text().splitlines()[1:] == ["4 trials.csv trials.json"]


def test_a_failure_is_told_and_what_failed_runs_again(folder: Path) -> None:
    write(
        folder,
        prepare={"containers": [shell("echo no data; ls prepared")]},
        collate={"containers": [shell("echo half; test -e mended || exit 7")]},
    )
    done = run(["run", "study.yaml"], folder)
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert "prepare: no data" in lines
    assert lines[-1].startswith("spec.prepare: container 'step' ended with exit code ")
    assert "prepared" in lines[-1]
    assert json.loads(run(["trials", "--output", "json"], folder).stdout) == []

    (folder / "prepared").touch()
    done = run(["run", "study.yaml"], folder)
    assert done.returncode == 1
    assert "test: 3 of 3 trials (3 complete)" in done.stdout
    assert done.stderr.splitlines()[-1] == (
        "spec.collate: container 'step' ended with exit code 7: half"
    )
    (folder / "mended").touch()
    done = run(["run", "study.yaml"], folder)
    assert done.returncode == 0, done.stderr
    assert "prepare:" not in done.stderr
    assert "collate: half" in done.stderr


@pytest.mark.parametrize("stage", ["prepare", "collate"])
def test_ctrl_c_ends_it_and_the_next_run_does_it(folder: Path, start: Start, stage: str) -> None:
    (folder / "prepared").touch()
    waits = shell("test -e passed && exit; touch passed; echo waits; exec sleep 60")
    write(folder, trials=1, **{stage: {"containers": [waits]}})
    running = start(["run", "study.yaml"])
    running.wait_for(f"{stage}: waits")
    running.interrupt()
    assert running.wait() == 130, running.text
    assert "go on with: trialfleet run study.yaml" in running.text
    assert processes_of(folder) == []
    done = run(["run", "study.yaml"], folder)
    assert done.returncode == 0, done.stderr
    assert f"{stage}: runs" in done.stderr
    assert "test: 1 of 1 trials (1 complete)" in done.stdout


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        (
            {"containers": [shell("a", "a"), shell("b", "b")]},
            "spec.prepare.spec.containers: found 2, accepted on one machine: one, with others "
            "before it in initContainers",
        ),
        (
            {"containers": [{"name": "a", "command": ["no-such-program"]}]},
            "spec.prepare: container 'a': found no program 'no-such-program' in PATH",
        ),
        (
            {
                "initContainers": [{**shell("a", "a"), "restartPolicy": "Always"}],
                "containers": [shell("b", "b")],
            },
            "spec.prepare.spec.initContainers[0].restartPolicy: found 'Always', accepted on one "
            "machine: a container that ends before the next one begins",
        ),
    ],
)
def test_what_can_not_be_run_is_refused(folder: Path, spec: object, line: str) -> None:
    write(folder, prepare=spec)
    refused = run(["run", "study.yaml", "--dry-run"], folder)
    assert (refused.returncode, refused.stderr) == (2, f"{line}\n")


def test_a_program_that_only_an_image_knows_is_told(folder: Path) -> None:
    write(folder, collate={"containers": [{"name": "all", "image": "example/report"}]})
    told = run(["run", "study.yaml", "--dry-run"], folder)
    assert told.returncode == 0
    assert told.stderr == (
        "notice: spec.collate: does not run on one machine: only the image of 'all' knows its "
        "program; it runs with a command in the manifest\n"
    )

"""Commands that submit, watch and change a study on a cluster."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.controller.conftest import Operator, database, namespace
from tests.controller.kube import wait_for
from tests.controller.standin.standin import StandIn
from tests.controller.terminal import Terminal
from tests.local.running import COMMAND
from tests.scenarios.env import SQUARE, Env
from trialfleet import names


@pytest.fixture(scope="module")
def place(standin: StandIn, operator: Operator, postgres_url: str) -> Iterator[Env]:
    """A namespace with a storage that is ready."""
    with database(postgres_url) as url, namespace(standin, operator, url) as made:
        made.ready()
        yield made


@pytest.fixture
def terminal(standin: StandIn, place: Env, tmp_path: Path) -> Terminal:
    return Terminal(standin.kubeconfig, tmp_path, place.kube.namespace)


def write(folder: Path, name: str, source: str, **spec: object) -> str:
    """Write a manifest; return its path."""
    study = {
        "apiVersion": names.API_VERSION,
        "kind": "Study",
        "metadata": {"name": name},
        "spec": {
            "objectives": [{"name": "loss", "direction": "minimize"}],
            "sampler": {"name": "RandomSampler", "options": {"seed": 7}},
            "budget": {"trials": 6},
            "parallelism": 2,
            "storage": {"name": "shared"},
            "objective": {"python": {"source": source}},
            **spec,
        },
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(study))
    return str(file)


def test_submit_and_watch(terminal: Terminal, place: Env) -> None:
    file = write(terminal.folder, "sent", "print('hello')\n" + SQUARE.format(seconds=0))
    code, output, told = terminal.run("submit", file)
    assert code == 0, told
    assert told.splitlines()[:2] == [
        f"looking at namespace {terminal.namespace}, context it",
        "Study sent: created",
    ]
    assert "sent: 6/6 trials | best loss " in told
    lines = output.splitlines()
    assert lines[0].startswith("sent: Complete, TrialsComplete")
    assert lines[1] == "6 trials (6 complete)" or lines[1] == "6/6 trials (6 complete)"
    assert lines[2].startswith("trial ") and ": loss " in lines[2] and " with x=" in lines[2]
    code, output, told = terminal.run("submit", file)
    assert (code, told.splitlines()[1]) == (0, "Study sent: unchanged")
    assert place.kube.get("studies", "sent")["metadata"]["generation"] == 1


def test_a_study_that_fails(terminal: Terminal) -> None:
    file = write(
        terminal.folder,
        "bad",
        "def objective(trial):\n    raise ValueError('no')\n",
        budget={"trials": 9, "failedTrials": 2},
    )
    code, output, told = terminal.run("submit", file)
    assert code == 1, told
    assert output.startswith("bad: Failed, FailedTrialsExceeded")
    assert output.splitlines()[-1] == "what to do: trialfleet why bad"


def test_failed_trials_again(terminal: Terminal, place: Env) -> None:
    source = "import os\ndef objective(trial):\n    x = trial.suggest_float('x', 0, 1)\n"
    source += f"    if os.environ['{names.ENV_TRIAL_ORIGIN}'] == str(trial.number):\n"
    source += "        raise ValueError('no')\n    return x\n"
    place.study("again", source, budget={"trials": 2}, parallelism=1)
    place.wait_condition("again", "Failed")
    assert terminal.good("retry", "again").splitlines() == [
        "again: 2 trials wait, with the parameters of 0, 1",
        "the study has ended (TrialsComplete); they run when spec.budget.trials is 4 or more: "
        "trialfleet submit FILE",
    ]
    place.kube.patch("studies", "again", {"spec": {"budget": {"trials": 4}}})
    place.wait_condition("again", "Complete")
    trials = json.loads(terminal.good("trials", "again", "--output", "json"))
    assert [trial["state"] for trial in trials] == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert [trial["params"] for trial in trials[:2]] == [trial["params"] for trial in trials[2:]]


def test_what_is_wrong_with_a_file(terminal: Terminal, place: Env) -> None:
    file = write(terminal.folder, "wrong", "x = 1\n", parallelism=-1)
    told = terminal.bad("submit", file)
    assert told.startswith(f"{file}:") and "spec.parallelism" in told
    assert place.kube.find("studies", "wrong") is None
    other = Path(write(terminal.folder, "other", "x = 1\n"))
    other.write_text(other.read_text() + "---\napiVersion: v9\nkind: Thing\nmetadata: {name: a}\n")
    told = terminal.bad("submit", str(other), "--no-watch")
    assert "v9 Thing 'a': not applied, accepted: a kind that namespace " in told
    assert "no such file" in terminal.bad("submit", "absent.yaml").lower()


def test_a_field_that_somebody_else_has_set(terminal: Terminal, place: Env) -> None:
    file = write(terminal.folder, "shared", SQUARE.format(seconds=0), parallelism=0)
    terminal.good("submit", file, "--no-watch")
    terminal.good("scale", "shared", "1")
    assert place.kube.get("studies", "shared")["spec"]["parallelism"] == 1
    told = terminal.bad("submit", file, "--no-watch")
    assert "Study 'shared': Apply failed with 1 conflict" in told and "--force" in told
    terminal.good("submit", file, "--no-watch", "--force")
    assert place.kube.get("studies", "shared")["spec"]["parallelism"] == 0


def test_steering(terminal: Terminal, place: Env) -> None:
    place.study("long", seconds=0.2, budget={"trials": 5000}, parallelism=1)
    place.wait_trials("long", 2)
    assert terminal.good("scale", "long", "2") == "long: 2 workers wanted, 1 before\n"
    place.running_workers("long", 2)
    told = terminal.good("enqueue", "long", "x=0.125")
    assert told == 'long: a trial waits with {"x": 0.125}\n'

    def found() -> bool:
        trials = json.loads(terminal.good("trials", "long", "--output", "json"))
        return any(
            trial["params"].get("x") == 0.125 and trial["state"] == "COMPLETE" for trial in trials
        )

    wait_for("the trial is run", found)
    told = terminal.bad("enqueue", "long", "y=1")
    assert told == "y: found no such parameter, accepted: x"
    told = terminal.bad("enqueue", "long", "x=5")
    assert told.startswith("x: found 5, accepted: FloatDistribution(")
    assert terminal.bad("enqueue", "long", "x") == "NAME=VALUE: found 'x', accepted: such as lr=0.1"
    assert terminal.bad("enqueue", "long", "x=1", "x=2") == "x: found twice, accepted: one value"
    terminal.good("suspend", "long")
    place.wait_condition("long", "Suspended")
    assert "suspended" in terminal.good("why", "long").lower()
    terminal.good("resume", "long")
    place.running_workers("long", 2)
    assert "trialfleet best long" in terminal.good("stop", "long")
    place.wait_condition("long", "Complete")
    assert terminal.good("watch", "long").startswith("long: Complete, Stopped")
    told = terminal.bad("enqueue", "long", "x=0")
    assert told.startswith("long: the study has ended (Stopped), accepted: ")


@pytest.mark.parametrize(
    "command", [("scale", "none", "1"), ("suspend", "none"), ("resume", "none"), ("stop", "none")]
)
def test_no_such_study(terminal: Terminal, command: tuple[str, ...]) -> None:
    told = terminal.bad(*command)
    assert told.startswith("STUDY: ")


def begin(terminal: Terminal, *arguments: str) -> "subprocess.Popen[str]":
    """Start a command; its standard output and standard error come together."""
    return subprocess.Popen(
        [*COMMAND, *arguments, "--namespace", terminal.namespace],
        env={**os.environ, "KUBECONFIG": str(terminal.kubeconfig)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_logs(terminal: Terminal, place: Env) -> None:
    source = "import time\ndef objective(trial):\n    print('step', trial.number, flush=True)\n"
    source += "    time.sleep(0.2)\n    return trial.suggest_float('x', 0, 1)\n"
    place.study("talks", source, budget={"trials": 50_000}, parallelism=1)
    place.wait_trials("talks", 4)
    lines = terminal.good("logs", "talks", "--tail", "3").splitlines()
    assert len(lines) == 3
    assert all(line.startswith("talks-workers-1-") and " | step " in line for line in lines)
    (found,) = terminal.good("logs", "talks", "--trial", "2").splitlines()
    assert found.startswith("talks-workers-1-") and found.endswith(" | step 2")
    refused = terminal.bad("logs", "talks", "--trial", "49000")
    assert refused.startswith("--trial: found 49000, accepted: a number that ")
    process = begin(terminal, "logs", "talks", "--follow")
    assert process.stdout is not None
    with process.stdout as told:
        steps = (int(line.rpartition(" ")[2]) for line in told if " | step " in line)
        assert [next(steps) for _ in range(5)] == [0, 1, 2, 3, 4]
        place.kube.delete("studies", "talks")
        told.read()
    assert process.wait(60) == 0
    told_last = terminal.bad("logs", "talks")
    assert told_last.startswith("STUDY: ")


def test_a_watch_that_is_interrupted(terminal: Terminal, place: Env) -> None:
    place.study("watched", seconds=0.2, budget={"trials": 50_000}, parallelism=1)
    place.wait_trials("watched", 1)
    process = begin(terminal, "watch", "watched")
    assert process.stdout is not None
    with process.stdout as told:
        assert any(line.startswith("watched: ") for line in told)
        (worker,) = place.running_workers("watched", 1)
        place.kill(worker)
        assert any(line.startswith("TrialLost: ") for line in told)
        process.send_signal(signal.SIGINT)
        assert "it goes on without you; end it: trialfleet stop watched" in told.read()
    assert process.wait(60) == 130
    place.kube.delete("studies", "watched")

"""What a program reports by itself, with Trialfleet or without."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState

import trialfleet
from tests.worker.fleet import TIMEOUT_S, Study, Worker
from trialfleet import names
from trialfleet.model import errors
from trialfleet.worker.program_reports import Inbox

MakeStudy = Callable[..., Study]
StartWorker = Callable[..., Worker]


@pytest.fixture
def run(
    make_study: MakeStudy, start_worker: StartWorker, tmp_path: Path
) -> Callable[..., list[FrozenTrial]]:
    """Run a study of a program, and return its trials."""

    def run(program: str, *arguments: str, **spec: Any) -> list[FrozenTrial]:
        (tmp_path / "program").write_text(program)
        spec.setdefault("searchSpace", {"x": {"int": {"low": 0, "high": 1}}})
        study = make_study({"command": {"args": [*arguments, "program"]}}, **spec)
        worker = start_worker(study)
        assert worker.wait() == errors.EXIT_OK, worker.errors
        return study.trials

    return run


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """Have this process report as a program of a study with two objectives."""
    with Inbox() as inbox:
        monkeypatch.setenv(names.ENV_REPORT, str(inbox.path))
        monkeypatch.setenv(names.ENV_OBJECTIVES, json.dumps(["loss", "val/f1"]))
        yield inbox


# Over the threshold with its second report, and then endless.
TRAINING = """
import json, os, signal, sys
import trialfleet

x = json.loads(os.environ["TRIALFLEET_PARAMS"])["x"]
for step in range(3):
    trialfleet.report(value0=step * x, accuracy=1, step=step)
    signal.sigtimedwait([], 0.15)
assert not {"optuna", "grpc"} & sys.modules.keys()
if x:
    signal.pause()
trialfleet.report(value0=-1)
"""


def test_a_program_reports_and_is_pruned(run: Callable[..., list[FrozenTrial]]) -> None:
    bad, good = run(
        TRAINING,
        sys.executable,
        trials=2,
        pruner={"name": "ThresholdPruner", "options": {"upper": 1.5}},
        enqueue=[{"x": 1}, {"x": 0}],
    )
    assert bad.state is TrialState.PRUNED
    assert (bad.value, bad.intermediate_values) == (2.0, {0: 0.0, 1: 1.0, 2: 2.0})
    assert good.state is TrialState.COMPLETE
    assert (good.value, good.intermediate_values) == (-1.0, {0: 0.0, 1: 0.0, 2: 0.0})


def test_a_shell_reports(run: Callable[..., list[FrozenTrial]]) -> None:
    # More than a pipe holds, and the last one neither waits for the worker nor ends its line.
    script = """
    echo '{"value0": 5, "value1": 5}'
    i=0
    while [ $i -lt 3000 ]; do
        echo "{\\"value0\\": $i, \\"step\\": $i}"
        i=$((i + 1))
    done > "$TRIALFLEET_REPORT"
    printf '{"value1": 7}' > "$TRIALFLEET_REPORT"
    """
    (trial,) = run(script, "/bin/sh", objectives=2)
    assert (trial.state, trial.values) == (TrialState.COMPLETE, [2999.0, 7.0])


def test_the_command_line_reports(run: Callable[..., list[FrozenTrial]]) -> None:
    command = f"{sys.executable} -m trialfleet.cli.main report"
    script = f"""
    set -e
    {command} value0=0.3 other=2 --step 4
    {command} value0=0.2 --step 5
    ! {command} valeu0=1
    """
    (trial,) = run(script, "/bin/sh")
    assert (trial.value, trial.intermediate_values) == (0.2, {4: 0.3, 5: 0.2})


@pytest.mark.parametrize("line", ["value0=1", '{"loss": 1}', "[1]", "{" + "[" * 2000])
def test_what_is_no_report(run: Callable[..., list[FrozenTrial]], line: str) -> None:
    (trial,) = run(f"echo '{line}' > $TRIALFLEET_REPORT", "/bin/sh")
    assert trial.state is TrialState.FAIL
    assert trial.system_attrs[names.ATTR_REASON] == names.REASON_OBJECTIVE_RETURNED
    assert "found the report" in trial.system_attrs[names.ATTR_MESSAGE]
    assert "expected a JSON object" in trial.system_attrs[names.ATTR_MESSAGE]


def test_what_is_written(inbox: Inbox) -> None:
    trialfleet.report({"val/f1": np.float32(0.5)}, loss=np.int64(3), step=np.int64(2))
    trialfleet.report(loss=float("nan"), other=1)
    lines = os.read(inbox.fileno(), 1000).decode().splitlines()
    assert lines == ['{"loss": 3.0, "val/f1": 0.5, "step": 2}', '{"loss": NaN}']


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"los": 1}, "found 'los', accepted: 'loss', 'val/f1'"),
        ({}, "found no value, accepted: 'loss', 'val/f1'"),
        ({"loss": "1"}, "loss: found '1', accepted: a number"),
        ({"loss": True}, "loss: found True, accepted: a number"),
        ({"loss": np.zeros(2)}, r"loss: found array\(\[0., 0.\]\), accepted: a number"),
        (
            {"loss": 1, "step": 1.5},
            "step: found 1.5, accepted: a whole number from 0 to 2147483647",
        ),
        ({"loss": 1, "step": -1}, "step: found -1, accepted: a whole number from 0"),
        ({"loss": 1, "step": 2**31}, "step: found 2147483648, accepted: a whole number from 0"),
    ],
)
def test_what_can_not_be_reported(inbox: Inbox, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"^{told}"):
        trialfleet.report(**given)
    with pytest.raises(BlockingIOError):
        os.read(inbox.fileno(), 1)


def test_a_worker_that_has_gone(inbox: Inbox) -> None:
    os.close(os.open(inbox.path, os.O_RDWR))
    moved = inbox.path.with_name("moved")
    inbox.path.rename(moved)
    os.mkfifo(inbox.path)
    with pytest.raises(OSError):
        trialfleet.report(loss=1)
    inbox.path.unlink()
    with pytest.raises(FileNotFoundError):
        trialfleet.report(loss=1)


def test_without_a_trial() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trialfleet.report(loss=1)
    assert [warning.filename for warning in caught] == [__file__]
    assert f"{names.ENV_REPORT} is not set" in str(caught[0].message)


@pytest.mark.parametrize(
    ("argument", "told"),
    [("loss=1", f"{names.ENV_REPORT} is not set"), ("loss", "accepted: NAME=NUMBER")],
)
def test_errors_of_the_command_line(argument: str, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trialfleet.cli.main", "report", argument],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == errors.EXIT_INVALID
    assert told in done.stderr
    assert done.stderr.count("\n") == 1

"""Intermediate values of programs, and the pruner's verdict."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from tests.worker.fleet import Study, Worker
from trialfleet import names
from trialfleet.api.objective import Metric
from trialfleet.model import errors
from trialfleet.worker.failure import Failed
from trialfleet.worker.program_metrics import ProgramMetrics

MakeStudy = Callable[..., Study]
StartWorker = Callable[..., Worker]


def steps(metric: dict[str, Any] | None, *lines: str, on: str = "see") -> list[tuple[float, int]]:
    found: list[tuple[float, int]] = []
    metrics = ProgramMetrics(
        ["loss"],
        None if metric is None else {"loss": Metric(**metric)},
        folder=Path("/nowhere"),
        checkpoints=None,
        is_alone=lambda: True,
        on_step=lambda value, step: found.append((value, step)),
    )
    for line in lines:
        getattr(metrics, on)(f"{line}\n")
    return found


@pytest.mark.parametrize("on", ["see", "see_error"])
@pytest.mark.parametrize("metric", [None, {}, {"step": "step"}])
def test_a_line_of_json_with_a_step(metric: dict[str, Any] | None, on: str) -> None:
    lines = ['{"loss": 3, "step": 0}', '{"loss": 2}', '{"step": 1}', '{"loss": NaN, "step": 2.0}']
    assert repr(steps(metric, *lines, on=on)) == "[(3.0, 0), (nan, 2)]"


def test_the_key_of_the_step() -> None:
    lines = ['{"val": 3, "epoch": 7, "step": 1}', '{"val": 3, "step": 1}']
    assert steps({"key": "val", "step": "epoch"}, *lines) == [(3.0, 7)]


@pytest.mark.parametrize(
    "regex", [r"epoch (?P<step>\S+) loss=(\S+)", r"epoch (?P<step>\S+) loss=(?P<loss>\S+)"]
)
def test_the_group_of_the_step(regex: str) -> None:
    lines = ["epoch 1 loss=3", "epoch 2 loss=2 epoch 3 loss=1", "loss=0", "epoch 4 loss=none"]
    assert steps({"regex": regex}, *lines) == [(3.0, 1), (1.0, 3)]
    assert steps({"regex": r"loss=(\S+) at (?P<step>\d+)?"}, "loss=3 at 5 loss=4 at ") == [(3.0, 5)]


@pytest.mark.parametrize(
    "step", ["1.5", "-1", "2147483648", "NaN", '"1"', "null", "Infinity", "true"]
)
def test_what_is_no_step(step: str) -> None:
    with pytest.raises(Failed) as caught:
        steps({}, f'{{"loss": 1, "step": {step}}}')
    assert caught.value.failure.reason == names.REASON_OBJECTIVE_RETURNED
    assert "expected a whole number from 0 to 2147483647" in caught.value.failure.message


# Over the threshold from step 2 on, and then endless.
TRAINING = """
import json, os, signal, sys
stream = getattr(sys, sys.argv[1])
x = json.loads(os.environ["TRIALFLEET_PARAMS"])["x"]

def leave(*_):
    with open("left", "a") as file:
        file.write("SIGTERM ")
    print('{"value0": 9, "step": 9}', flush=True)
    sys.exit(3)

signal.signal(signal.SIGTERM, leave)
for step in range(3):
    print(json.dumps({"value0": step * x, "step": step}), file=stream, flush=True)
    signal.sigtimedwait([], 0.15)
if x:
    signal.pause()
"""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_the_pruner_ends_a_program(
    make_study: MakeStudy, start_worker: StartWorker, tmp_path: Path, stream: str
) -> None:
    (tmp_path / "train.py").write_text(TRAINING)
    study = make_study(
        {"command": {"args": [sys.executable, "train.py", stream]}},
        trials=2,
        searchSpace={"x": {"int": {"low": 0, "high": 1}}},
        pruner={"name": "ThresholdPruner", "options": {"upper": 1.5}},
        enqueue=[{"x": 1}, {"x": 0}],
    )
    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_OK, worker.errors
    bad, good = study.trials
    assert bad.state is TrialState.PRUNED
    assert bad.intermediate_values == {0: 0.0, 1: 1.0, 2: 2.0}
    assert bad.value == 2.0
    assert (tmp_path / "left").read_text() == "SIGTERM "
    assert good.state is TrialState.COMPLETE
    assert good.intermediate_values == {0: 0.0, 1: 0.0, 2: 0.0}
    assert good.value == 0.0


def test_no_trial_of_several_objectives_has_steps(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    study = make_study(
        {"command": {"args": ["echo", '{"value0": 1, "value1": 2, "step": 0}']}},
        objectives=2,
        searchSpace={"x": {"int": {"low": 0, "high": 1}}},
    )

    assert start_worker(study).wait() == errors.EXIT_OK
    (trial,) = study.trials
    assert (trial.values, trial.intermediate_values) == ([1.0, 2.0], {})

"""Metrics in files while a program runs: lines, and TensorBoard's event files."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tests.worker.fleet import Study, Worker
from trialfleet.api.objective import Metric
from trialfleet.model import errors
from trialfleet.model.errors import ObjectiveImportError
from trialfleet.worker import event_files
from trialfleet.worker.failure import Failed
from trialfleet.worker.program_metrics import ProgramMetrics


class Trial:
    """The metrics of a trial, and what they say of steps."""

    def __init__(self, folder: Path, *, alone: bool = True, **metric: Any) -> None:
        self.steps: list[tuple[float, int]] = []
        self._metrics = ProgramMetrics(
            ["loss"],
            {"loss": Metric(**metric)},
            folder=folder,
            checkpoints=folder / "own",
            is_alone=lambda: alone,
            on_step=lambda value, step: self.steps.append((value, step)),
        )

    def look(self) -> list[tuple[float, int]]:
        self.steps.clear()
        self._metrics.look()
        return list(self.steps)

    @property
    def value(self) -> float:
        (value,) = self._metrics.values()
        return value

    @property
    def message(self) -> str:
        with pytest.raises(Failed) as caught:
            self._metrics.values()
        return caught.value.failure.message


def append(file: Path, text: str) -> None:
    with file.open("a") as opened:
        opened.write(text)


def replace(file: Path, content: object) -> None:
    """Write a file anew, at another time than before, however coarse the clock of files is."""
    before = file.stat().st_mtime_ns if file.exists() else 0
    file.write_text(json.dumps(content))
    os.utime(file, ns=(before + 10**9, before + 10**9))


def test_lines_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    append(file, '{"loss": 9, "step": 9}\n')  # of the trial before
    trial = Trial(tmp_path, file="m.jsonl")
    assert trial.look() == []
    append(file, '{"loss": 3, "step": 0}\n{"loss": 2, ')
    assert trial.look() == [(3.0, 0)]
    append(file, '"step": 1}\nlogged\n')
    assert trial.look() == [(2.0, 1)]
    assert trial.look() == []
    append(file, '{"loss": 1}')
    assert trial.value == 1.0


def test_a_file_that_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    file = tmp_path / "own" / "m.json"
    trial = Trial(tmp_path, file="m.json", step="epoch")
    for epoch in range(3):
        replace(file, {"loss": 3 - epoch, "epoch": epoch})
        assert trial.look()[-1] == (3.0 - epoch, epoch)
    assert trial.value == 1.0


def test_matches_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "train.log"
    trial = Trial(tmp_path, file="train.log", regex=r"epoch (?P<step>\d+) loss=(\S+)")
    append(file, "epoch 0 loss=3\nepoch 1 loss=2")
    assert trial.look() == [(3.0, 0)]
    append(file, "5\n")
    assert trial.look() == [(25.0, 1)]
    append(file, "epoch 2 loss=1")
    assert trial.value == 1.0
    assert trial.steps[-1] == (1.0, 2)

    other = Trial(tmp_path, file="train.log", regex="acc=(.*)")
    append(file, "\n")
    assert other.message == "no value for loss: no line of train.log matches acc=(.*)"


def test_a_long_line_of_a_file(tmp_path: Path) -> None:
    trial = Trial(tmp_path, file="m.jsonl")
    append(tmp_path / "m.jsonl", "x" * (16 * 1024 * 1024 + 1) + '\n{"loss": 1, "step": 0}\n')
    assert trial.look() == [(1.0, 0)]
    assert trial.value == 1.0


class Events:
    """An event file."""

    def __init__(self, folder: Path) -> None:
        self._writer = EventFileWriter(str(folder))

    def write(self, tag: str, value: float, step: int) -> None:
        scalar = Summary.Value(tag=tag, simple_value=value)
        self._writer.add_event(
            Event(step=step, wall_time=float(step), summary=Summary(value=[scalar]))
        )
        self._writer.flush()

    def write_text(self, tag: str, text: bytes) -> None:
        tensor = TensorProto(dtype=DT_STRING, string_val=[text])
        value = Summary.Value(tag=tag, tensor=tensor)
        self._writer.add_event(Event(summary=Summary(value=[value])))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def test_event_files(tmp_path: Path) -> None:
    before = Events(tmp_path / "own" / "runs")
    before.write("val/loss", 9.0, 9)
    before.close()
    trial = Trial(tmp_path, tensorboard="runs", key="val/loss")
    assert trial.look() == []
    events = Events(tmp_path / "own" / "runs" / "a")
    events.write("val/loss", 3.0, 0)
    events.write("loss", 7.0, 0)
    assert trial.look() == [(3.0, 0)]
    events.write("val/loss", 2.5, 1)
    assert trial.look() == [(2.5, 1)]
    assert trial.look() == []
    events.write("val/loss", 2.0, 2)
    events.close()
    assert trial.value == 2.0
    assert trial.steps == [(2.0, 2)]


def test_event_files_without_the_metric(tmp_path: Path) -> None:
    trial = Trial(tmp_path, tensorboard="runs")
    assert trial.message == (
        "no value for loss: the program has not written event files into "
        f"{tmp_path}/own/runs or {tmp_path}/runs"
    )
    events = Events(tmp_path / "own" / "runs")
    assert trial.message == (
        "no value for loss: the event files have no tag 'loss'; their tags: none"
    )
    events.write("los", 1.0, 0)
    assert trial.message.endswith("; their tags: 'los'")
    events.write_text("loss", b"low")
    events.close()
    assert trial.message == ("no value for loss: found 'object of shape ()', expected a number")


def test_event_files_of_several_workers(tmp_path: Path) -> None:
    trial = Trial(tmp_path, alone=False, tensorboard="runs")
    events = Events(tmp_path / "runs")
    events.write("loss", 1.0, 0)
    events.close()
    assert trial.look() == []
    assert f"{tmp_path}/runs may be another trial's" in trial.message


def test_without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("tensorboard")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ObjectiveImportError) as caught:
        event_files.check_reader("spec.here")
    told = str(caught.value)
    assert told.startswith("spec.here: event files can't be read: ")
    assert "pip install 'trialfleet[tensorboard]'" in told
    assert "\n" not in told


# Writes what it is told to where it is told to, and waits for the pruner.
TRAINING = """
import json, os, pathlib, signal, sys
from tests.worker.test_metric_files import Events, append

folder = pathlib.Path(os.environ["TRIALFLEET_CHECKPOINT_DIR"])
if sys.argv[1] == "events":
    Events(folder / "runs").write("value0", 2.0, 3)
else:
    append(folder / "m.jsonl", '{"value0": 2, "step": 3}\\n')
signal.pause()
"""


@pytest.mark.parametrize(
    ("kind", "metric"), [("events", {"tensorboard": "runs"}), ("lines", {"file": "m.jsonl"})]
)
def test_the_pruner_ends_a_program_by_its_files(
    make_study: Callable[..., Study],
    start_worker: Callable[..., Worker],
    tmp_path: Path,
    kind: str,
    metric: dict[str, Any],
) -> None:
    (tmp_path / "train.py").write_text(TRAINING)
    study = make_study(
        {
            "command": {
                "args": [sys.executable, "train.py", kind],
                "env": {"PYTHONPATH": str(Path(__file__).parents[2])},
                "metrics": {"value0": metric},
            }
        },
        searchSpace={"x": {"int": {"low": 0, "high": 1}}},
        pruner={"name": "ThresholdPruner", "options": {"upper": 1.5}},
    )
    worker = start_worker(study, "--checkpoint-root", str(tmp_path / "checkpoints"))
    assert worker.wait() == errors.EXIT_OK, worker.errors
    (trial,) = study.trials
    assert trial.state is TrialState.PRUNED
    assert trial.intermediate_values == {3: 2.0}

"""What workers of a local run have printed, afterwards."""

import os
import sys
from pathlib import Path

import pytest

from tests.local.running import run, write_study
from trialfleet.local import worker_logs
from trialfleet.local.processes import Child, Reaper

SPEAKS = """
    import os
    import subprocess
    import sys

    def objective(trial):
        print("from", trial.number)
        subprocess.run(["echo", f"child of {trial.number}"])
        if trial.number == 2:
            sys.stdout.flush()
            os._exit(7)
        if trial.number == 3:
            raise ValueError("no")
        return trial.suggest_float("x", 0, 1)
"""


def test_the_output_of_one_trial(folder: Path) -> None:
    write_study(folder, SPEAKS, trials=5, parallelism=2)
    done = run(["run", "study.yaml"], folder)
    assert done.returncode == 0, done.stderr
    assert "trial 1 begins" not in done.stdout + done.stderr
    for number in (0, 2):
        told = run(["logs", "--trial", str(number)], folder)
        lines = [line.partition(" | ")[2] for line in told.stdout.splitlines()]
        # What a program holds back of its output comes after that of its children.
        assert sorted(lines) == [f"child of {number}", f"from {number}"], told.stderr
    told = run(["logs", "test", "--trial", "3"], folder)
    assert "trial 3 failed: ValueError: no" in told.stdout
    assert "from 4" not in told.stdout
    told = run(["logs", "test", "--trial", "9"], folder)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.splitlines()[-1].startswith("test: no worker has written that it ran trial")
    lines = run(["logs", "test"], folder).stdout.splitlines()
    assert len([line for line in lines if " | from " in line]) == 5
    assert not any("begins" in line for line in lines)


def test_input_that_cannot_be_used(folder: Path) -> None:
    write_study(folder, "def objective(trial):\n    return 0.0\n", trials=1)
    assert run(["run", "study.yaml"], folder).returncode == 0
    for arguments, message in (
        (["none"], "STUDY: found 'none', accepted in .trialfleet/logs: test"),
        (["--follow"], "--follow: found beside a folder, accepted beside a cluster"),
        (["--tail", "1", "--trial", "0"], "--tail: found beside --trial, accepted: one of the two"),
    ):
        done = run(["logs", *arguments], folder)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(message)


def test_the_last_lines(tmp_path: Path) -> None:
    logs = worker_logs.WorkerLogs(tmp_path, "a/b")
    for line in ("trialfleet: trial 0 begins", "one", "two", "trialfleet: trial 0 ends"):
        logs.write("w", line)
    logs.close()
    assert worker_logs.find_logs(tmp_path, None) == "a/b"
    for last, lines in ((None, ["one", "two"]), (1, ["two"]), (0, [])):
        assert [line.text for line in worker_logs.read(tmp_path, "a/b", last)] == lines


def test_a_worker_fills_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_logs, "_LONGEST", 100)
    logs = worker_logs.WorkerLogs(tmp_path, "chatty")
    for number in range(50):
        logs.write("w", f"line {number}")
    logs.close()
    kept = [line.text for line in worker_logs.read(tmp_path, "chatty", None)]
    assert kept == [f"line {number}" for number in range(50 - len(kept), 50)]
    sizes = [path.stat().st_size for path in (tmp_path / "logs" / "chatty").iterdir()]
    assert len(sizes) == 2
    assert all(0 < size <= 100 for size in sizes)


def test_a_line_without_an_end_is_read_in_parts(tmp_path: Path) -> None:
    lines: list[str] = []
    program = "import sys; sys.stdout.write('x' * 3_000_000 + '\\nlast')"
    with Reaper(grace_s=0) as reaper:
        child = Child(
            [sys.executable, "-c", program],
            reaper=reaper,
            rank=0,
            environment=dict(os.environ),
            on_line=lines.append,
        )
        assert child.wait() == 0
    assert list(map(len, lines)) == [2**20, 2**20, 3_000_000 - 2**21, 4]

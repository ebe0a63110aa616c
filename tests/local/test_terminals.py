"""What results and progress look like where a terminal or a file is not as one wishes."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import optuna
import pytest

from tests.local.running import COMMAND, run, write_study

FILE: Final = os.fsdecode(b"caf\xe9.csv")
"""The name of a file that is not in UTF-8: with a lone surrogate."""

# All commands in one process: to start one takes a second.
SHOWS: Final = """
import sys
from trialfleet.cli import main

url = sys.argv[1]
for command in ("trials", "best", "studies"):
    for output in ("table", "csv", "json"):
        sys.argv = ["trialfleet", command, "--storage", url, "--output", output]
        try:
            main.main()
        except SystemExit as ended:
            assert not ended.code, ended.code
        print("----", flush=True)
"""


@pytest.fixture
def odd_url(database_url: str) -> str:
    """URL of a database with a study of odd characters."""
    storage = optuna.storages.RDBStorage(database_url)
    study = optuna.create_study(study_name="größe [b]", storage=storage)
    trial = study.ask()
    trial.suggest_categorical("datei/ñ", [FILE, "b.csv"])
    trial.set_user_attr("files", [FILE, "é"])
    trial.set_user_attr("moves", "\x1b[2J\x07\r\n")
    study.tell(trial, 0.5)
    storage.engine.dispose()
    return database_url


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii", "latin-1", "cp1252:strict"])
def test_results_are_readable_on_any_terminal(odd_url: str, encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHOWS, odd_url],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    plain = encoding.partition(":")[0]
    shown = [part.strip("\n") for part in done.stdout.decode(plain).split("----\n")]
    for command in (0, 3):
        table, rows, (trial,) = shown[command], shown[command + 1], json.loads(shown[command + 2])
        value = trial["params"]["datei/ñ"]
        assert value in (FILE, "b.csv")
        escaped = value.replace("\udce9", r"\udce9")
        assert escaped in table
        assert ("datei/ñ" if plain != "ascii" else r"datei/\xf1") in table
        (row,) = csv.DictReader(io.StringIO(rows))
        assert escaped in row.values()
        assert trial["user_attrs"] == {"files": [FILE, "é"], "moves": "\x1b[2J\x07\r\n"}
    name = "größe [b]" if plain != "ascii" else r"gr\xf6\xdfe [b]"
    assert name in shown[6]
    assert name in shown[7]
    assert json.loads(shown[8])[0]["name"] == "größe [b]"


def test_a_text_does_not_move_the_cursor(odd_url: str, folder: Path) -> None:
    storage = optuna.storages.RDBStorage(odd_url)
    study = optuna.load_study(study_name="größe [b]", storage=storage)
    study.enqueue_trial({"x\x1b[2J": "a\x07\x1b[1A\r\n[bold]\x9b"})
    trial = study.ask()
    trial.suggest_categorical("x\x1b[2J", ["a\x07\x1b[1A\r\n[bold]\x9b"])
    study.tell(trial, 1.0)
    storage.engine.dispose()
    table = run(["trials", "--storage", odd_url], folder).stdout
    assert r"x\x1b[2J" in table
    assert r"a\x07\x1b[1A\r\n[bold]\x9b" in table


PRINTS: Final = """
import os

def objective(trial):
    print("Größe", os.fsdecode(b"caf\\xe9.csv"))
    return len(trial.suggest_categorical("file", [os.fsdecode(b"caf\\xe9.csv")]))
"""


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_a_run_is_readable_on_any_terminal(
    folder: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    write_study(folder, PRINTS, trials=1)
    done = run(["run", "study.yaml"], folder)
    assert done.returncode == 0, done.stderr
    assert r"caf\udce9.csv" in done.stdout
    assert ("Größe " if encoding.startswith("utf") else r"Gr\xf6\xdfe ") in done.stderr
    done = run(["run", "study.yaml", "--output", "json"], folder)
    assert json.loads(done.stdout)["best"][0]["params"] == {"file": FILE}


def test_a_full_disk_is_told_in_a_line(odd_url: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "trials", "--storage", odd_url], stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 1
    assert done.stderr == b"standard output: No space left on device\n"


def test_a_reader_that_left_is_no_error(odd_url: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        done = subprocess.run(
            [*COMMAND, "trials", "--storage", odd_url], stdout=gone, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr) == (1, b"")


CHATTY: Final = """
def objective(trial):
    for line in range(20_000):
        print(line)
    return trial.suggest_float("x", 0, 1)
"""


@pytest.mark.parametrize("kind", ["full", "gone"])
def test_a_run_goes_on_where_its_progress_can_not_be_written(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It would leave nothing to be written at the end.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    write_study(folder, CHATTY, trials=2)
    if kind == "full":
        stderr = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, stderr = os.pipe()
        os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, "run", "study.yaml"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=stderr,
            timeout=60,
        )
    finally:
        os.close(stderr)
    assert done.returncode == 0
    assert b"2 of 2 trials (2 complete)" in done.stdout


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--storage", "postgresql://u:secret@h:abc/x", "found a port that is no number, accepted:"),
        ("--storage", os.fsdecode(b"postgresql://u:secret@h/\xff"), "found bytes that are no UTF-"),
        ("--storage", "secret", "found a text that is no URL, accepted: a URL like postgresql+ps"),
        ("--proxy", os.fsdecode(b"caf\xe9:1"), r"found 'caf\udce9:1', accepted: HOST:PORT"),
        ("--data", os.fsdecode(b"caf\xe9"), r"caf\udce9: no data of 'trialfleet run', accepted"),
    ],
)
def test_what_is_no_address_is_told(option: str, value: str, says: str, folder: Path) -> None:
    done = run(["trials", os.fsdecode(b"caf\xe9"), option, value], folder)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{option}: {says}" if option != "--data" else f"{option} {says}")
    assert "secret" not in line

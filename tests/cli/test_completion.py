"""What a shell completes, by Typer's own completion."""

import os
import subprocess
import sys
from pathlib import Path

import optuna

COMMAND = Path(sys.executable).with_name("trialfleet")


def complete(folder: Path, line: str) -> list[str]:
    """Return how bash would complete the last word of a line."""
    environment = {
        **os.environ,
        "_TRIALFLEET_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    done = subprocess.run(
        [COMMAND], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_commands(tmp_path: Path) -> None:
    assert complete(tmp_path, "trialfleet re") == ["retry", "resume", "report"]
    assert complete(tmp_path, "trialfleet trials --sta") == ["--state"]


def test_studies_of_a_database(tmp_path: Path, database_url: str) -> None:
    storage = optuna.storages.RDBStorage(database_url)
    for name in ("digits", "diabetes", "iris"):
        optuna.create_study(study_name=name, storage=storage)
    storage.engine.dispose()
    line = f"trialfleet best --storage {database_url} di"
    assert complete(tmp_path, line) == ["diabetes", "digits"]


def test_nothing_to_complete_from(tmp_path: Path) -> None:
    assert complete(tmp_path, f"trialfleet best --data {tmp_path} ") == []

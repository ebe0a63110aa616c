"""What an objective inherits from its run, and what it leaves behind."""

import json
import os
import subprocess
from pathlib import Path

from tests.local.conftest import Start
from tests.local.running import COMMAND, processes_of, run, until, write_study
from trialfleet import names

DAEMON = """
import subprocess

def objective(trial):
    subprocess.Popen(["sleep", "607"], start_new_session=True)
    subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 607; done"],
                     start_new_session=True)
    {then}
    return trial.suggest_float("x", 0, 1)
"""


def test_daemons_end_with_the_run(folder: Path) -> None:
    write_study(folder, DAEMON.format(then=""), trials=2)
    assert run(["run", "study.yaml"], folder).returncode == 0
    assert processes_of(folder) == []


def test_daemons_end_with_a_run_that_is_killed(folder: Path, start: Start) -> None:
    then = "print('began', flush=True); subprocess.run(['sleep', '607'])"
    write_study(folder, DAEMON.format(then=then), trials=2)
    running = start(["run", "study.yaml"])
    running.wait_for("began")
    running.process.kill()
    until(lambda: processes_of(folder) == [] or None)


def test_an_objective_gets_no_password_of_the_database(folder: Path, database_url: str) -> None:
    objective = """
import os

def objective(trial):
    return sum("PSYCOPG2" in text.upper() for text in os.environ.values())
"""
    write_study(folder, objective, trials=1)
    done = subprocess.run(
        [*COMMAND, "run", "study.yaml", "--output", "json"],
        cwd=folder,
        env={**os.environ, names.ENV_STORAGE_URL: database_url},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["best"][0]["values"] == {"loss": 0.0}
    assert database_url not in done.stderr

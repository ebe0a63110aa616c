"""What an objective inherits from its run, and what it leaves behind."""

import json
import os
import stat
import subprocess
from pathlib import Path

import psutil

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
import stat

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


WAITS = """
import time

def objective(trial):
    print("began", flush=True)
    time.sleep(600)
"""


def test_nothing_of_a_run_listens_where_other_users_reach_it(folder: Path, start: Start) -> None:
    write_study(folder, WAITS, parallelism=2)
    running = start(["run", "study.yaml"])
    running.wait_for("began")
    supervisor = psutil.Process(running.process.pid)
    (address,) = (
        child.cmdline()[-1] for child in supervisor.children() if "proxy" in child.cmdline()
    )
    socket = Path(address.removeprefix("unix:"))
    assert socket.is_socket()
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    listening = [
        connection
        for process in (supervisor, *supervisor.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == []
    running.process.kill()
    until(lambda: not socket.parent.exists() or None)


def test_a_proxy_that_is_killed_listens_again_on_its_socket(folder: Path, start: Start) -> None:
    objective = WAITS.replace("time.sleep(600)", "time.sleep(0.2)\n    return 0.0")
    write_study(folder, objective, trials=20)
    running = start(["run", "study.yaml"])
    running.wait_for("began")
    (proxy,) = (
        child
        for child in psutil.Process(running.process.pid).children()
        if "proxy" in child.cmdline()
    )
    proxy.kill()
    running.wait_for("the proxy ended with code -9; starting it again")
    assert running.wait() == 0, running.text
    assert "20 of 20 trials" in running.text


def test_a_reaper_that_is_killed_is_started_again(folder: Path, start: Start) -> None:
    write_study(folder, WAITS)
    running = start(["run", "study.yaml"])
    running.wait_for("began")

    def child(word: str) -> psutil.Process | None:
        children = psutil.Process(running.process.pid).children()
        return next((one for one in children if any(word in part for part in one.cmdline())), None)

    killed, proxy = until(lambda: child("reaper.py")), until(lambda: child("proxy"))
    killed.kill()
    running.wait_for("ended with code -9; starting it again")
    # What begins now announces itself to the one that took its place,
    proxy.kill()
    running.wait_for("the proxy ended with code -9; starting it again")
    until(lambda: ((found := child("proxy")) is not None and found.pid != proxy.pid) or None)
    assert until(lambda: child("reaper.py")).pid != killed.pid
    # which was told of the worker that had begun before.
    running.process.kill()
    until(lambda: processes_of(folder) == [] or None)

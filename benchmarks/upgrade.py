"""An upgrade of a large database, with the release before still at work.

    python -m benchmarks.upgrade --old FOLDER [--old-python PYTHON] [--trials N] [--more N]

``FOLDER`` is a checkout of the release before, whose proxies and workers go on while a proxy of
this one starts on their database, brings it up to date and serves workers of its own. Exits with 1
unless the study has exactly the trials of its budget, each run once, and nobody saw an error.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from benchmarks import counting
from benchmarks.growth import _fill
from trialfleet import names
from trialfleet.local.postgres import Postgres

STUDY = "large"

_MANIFEST = """\
apiVersion: trialfleet.dev/v1alpha1
kind: Study
metadata: {name: large}
spec:
  objectives: [{name: loss, direction: minimize}]
  sampler: {name: RandomSampler}
  budget: {trials: 1}
  objective:
    python:
      source: |
        import os, time
        def objective(trial):
            with open(os.environ["TRIALS_LOG"], "a") as log:
                print(time.time(), trial.number, file=log)
            return trial.suggest_float("x0", 0, 1)
"""
"""For workers: the budget is what the storage was told."""

_ENSURE = """\
import sys
from optuna.study import StudyDirection
from trialfleet.client import FleetStorage, StudyDefinition
storage = FleetStorage(sys.argv[1])
made = storage.ensure_study(
    StudyDefinition(sys.argv[2], [StudyDirection.MINIMIZE], trials=int(sys.argv[3]))
)
print(made[0])
storage.close()
"""


@dataclass(frozen=True)
class Release:
    """A checkout, and the Python that has what it needs."""

    folder: Path
    python: str

    def start(
        self, arguments: list[str], log: IO[bytes], **environment: str
    ) -> "subprocess.Popen[str]":
        """Start its Python."""
        return subprocess.Popen(
            [self.python, *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder / "operator"), **environment},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


@dataclass
class Upgrade:
    """What runs, and where its words go."""

    url: str
    folder: Path
    stack: contextlib.ExitStack

    def proxy(self, release: Release, name: str) -> str:
        """Start a proxy; return its address once it listens."""
        log = self.stack.enter_context((self.folder / f"{name}.log").open("wb"))
        command = ["-m", "trialfleet.cli.main", "proxy", "--listen", "127.0.0.1:0"]
        process = release.start(command, log, **{names.ENV_STORAGE_URL: self.url})
        self.stack.callback(process.wait)
        self.stack.callback(process.send_signal, signal.SIGTERM)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("listening on "):
                return str(line.split()[-1])
        raise SystemExit((self.folder / f"{name}.log").read_text())

    def worker(self, release: Release, name: str, address: str) -> "subprocess.Popen[str]":
        """Start a worker of the study."""
        manifest = self.folder / "study.yaml"
        manifest.write_text(_MANIFEST)
        log = self.stack.enter_context((self.folder / f"{name}.log").open("wb"))
        command = ["-m", "trialfleet.cli.main", "worker", "--study", str(manifest)]
        command += ["--proxy", address, "--worker", name]
        process = release.start(command, log, TRIALS_LOG=str(self.folder / f"{name}.trials"))
        self.stack.callback(process.kill)
        return process

    def trials(self) -> dict[str, list[tuple[float, int]]]:
        """Return when which worker began which trials."""
        found = {}
        for path in self.folder.glob("*.trials"):
            lines = [line.split() for line in path.read_text().splitlines()]
            found[path.stem] = [(float(when), int(number)) for when, number in lines]
        return found

    def said(self) -> list[str]:
        """Return what proxies and workers logged that is worse than news."""
        bad = ("Traceback", "level=error", "level=warning", "ERROR", "WARNING")
        return [
            f"{path.stem}: {line}"
            for path in sorted(self.folder.glob("*.log"))
            for line in path.read_text(errors="replace").splitlines()
            if any(word in line for word in bad)
        ]


@contextlib.contextmanager
def database() -> Iterator[str]:
    """Give the URL of a database of a server with its usual durability."""
    with (
        tempfile.TemporaryDirectory(prefix="tf-", dir="/tmp") as folder,
        Postgres(Path(folder)) as postgres,
    ):
        yield counting.create_database(postgres.url, "upgrade")


def query(url: str, statement: str) -> list[Any]:
    """Return the rows of a statement."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement))]


def longest_wait(begun: dict[str, list[tuple[float, int]]], since: float, until: float) -> float:
    """Return the longest time between two trials of a worker, of those that touch a period."""
    waits = [0.0]
    for trials in begun.values():
        times = sorted(when for when, _ in trials)
        waits += [
            after - before
            for before, after in itertools.pairwise(times)
            if after >= since and before <= until
        ]
    return max(waits)


def wait_for_trials(upgrade: Upgrade, workers: int, count: int) -> None:
    """Wait until so many workers have begun so many trials each."""
    while True:
        begun = upgrade.trials()
        if len(begun) >= workers and all(len(trials) >= count for trials in begun.values()):
            return
        time.sleep(0.1)


def measure(old: Release, new: Release, trials: int, more: int, workers: int) -> dict[str, Any]:
    """Return the figures of one upgrade, and what was wrong with it."""
    with (
        tempfile.TemporaryDirectory(prefix="tf-upgrade-") as folder,
        database() as url,
        contextlib.ExitStack() as stack,
    ):
        upgrade = Upgrade(url, Path(folder), stack)
        addresses = [upgrade.proxy(old, f"old-proxy-{index}") for index in (1, 2)]
        budget = trials + more
        log = stack.enter_context((Path(folder) / "ensure.log").open("wb"))
        ensured = old.start(["-c", _ENSURE, addresses[0], STUDY, str(budget)], log)
        study_id = int(ensured.communicate()[0])
        _fill(url, study_id, trials, 3)
        ((before,),) = query(url, "SELECT version FROM trialfleet_schema")
        running = [
            upgrade.worker(old, f"old-{index}", addresses[index % 2]) for index in range(workers)
        ]
        wait_for_trials(upgrade, workers, 50)
        began = time.time()
        address = upgrade.proxy(new, "new-proxy")
        # It listens at once, and serves when the database is up to date.
        while "event=serving" not in (Path(folder) / "new-proxy.log").read_text():
            time.sleep(0.01)
        served = time.time()
        running += [upgrade.worker(new, f"new-{index}", address) for index in range(workers)]
        codes = [process.wait() for process in running]
        begun = upgrade.trials()
        ran = [number for each in begun.values() for _, number in each]
        counted = query(
            url,
            "SELECT state::text, count(*) FROM trials "
            f"WHERE study_id = {study_id} GROUP BY 1 ORDER BY 1",
        )
        check = [sys.executable, "-m", "trialfleet.cli.main", "storage", "check", "--storage", url]
        checked = subprocess.run(check, capture_output=True, text=True)
        steps = query(url, "SELECT version FROM trialfleet_migrations ORDER BY 1")
        wrong = {
            "exit codes of workers": [code for code in codes if code],
            "trials run twice": len(ran) - len(set(ran)),
            "states": [] if counted == [("COMPLETE", budget)] else [list(row) for row in counted],
            "trials that nobody ran": len(set(range(trials, budget)) - set(ran)),
            "storage check": checked.stdout + checked.stderr if checked.returncode else "",
            "logged": upgrade.said(),
        }
        figures = {
            "trials": trials,
            "from version": before,
            "to version": steps[-1][0],
            "trials while it went on": {
                name: len(each) for name, each in sorted(begun.items()) if each
            },
            "new proxy served after_s": round(served - began, 2),
            "longest wait of an old worker before_s": round(longest_wait(_old(begun), 0, began), 3),
            "longest wait of an old worker during it_s": round(
                longest_wait(_old(begun), began, served), 3
            ),
        }
        return {**figures, "wrong": {what: found for what, found in wrong.items() if found}}


def _old(begun: dict[str, list[tuple[float, int]]]) -> dict[str, list[tuple[float, int]]]:
    return {name: trials for name, trials in begun.items() if name.startswith("old-")}


def main() -> None:
    """Upgrade once, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--old", type=Path, required=True, help="a checkout of the release before")
    parser.add_argument("--old-python", default=sys.executable)
    parser.add_argument("--trials", type=int, default=200_000, help="that are there already")
    parser.add_argument("--more", type=int, default=20_000, help="that are run meanwhile")
    parser.add_argument("--workers", type=int, default=4, help="of each release")
    options = parser.parse_args()
    here = Release(Path(__file__).resolve().parents[1], sys.executable)
    old = Release(options.old.resolve(), options.old_python)
    found = measure(old, here, options.trials, options.more, options.workers)
    print(json.dumps(found, indent=2))
    sys.exit(1 if found["wrong"] else 0)


if __name__ == "__main__":
    main()

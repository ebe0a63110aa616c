"""The worker image has the packages of requirements/worker.txt, and no others."""

import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

ONLY = """
import importlib.abc, runpy, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

refused = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Refuse())
runpy.run_module("trialfleet.cli.main", run_name="__main__", alter_sys=True)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as if only what the worker image has were installed."""
    locked = (ROOT / "requirements" / "worker.txt").read_text(encoding="utf-8")
    installed = {normal(name) for name in re.findall(r"^([\w.-]+)==", locked, re.MULTILINE)}
    refused = [
        module
        for module, distributions in packages_distributions().items()
        if not {normal(one) for one in distributions} & {*installed, "trialfleet"}
        and module not in sys.stdlib_module_names
    ]
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", ONLY, ",".join(refused), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_worker_runs_with_the_packages_of_its_image() -> None:
    objective = ("--study=s", "--objective=math:sqrt")
    done = run("worker", *objective, "--proxy=localhost:1", "--patience=0")
    assert done.returncode == 3, done.stderr


def test_trials_are_written_with_the_packages_of_the_worker_image() -> None:
    done = run("trials", "s", "--proxy", "localhost:1")
    assert done.returncode == 3, done.stderr


def test_help_names_what_is_there() -> None:
    done = run("--help")
    assert done.returncode == 0, done.stderr
    assert "worker" in done.stdout and "proxy " not in done.stdout


def test_a_command_that_needs_more_says_what() -> None:
    done = run("proxy")
    assert (done.returncode, done.stderr) == (
        2,
        "proxy: needs the package 'psycopg2', which is not installed here\n",
    )

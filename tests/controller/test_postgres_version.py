"""A data folder of another major version of PostgreSQL is left alone, and that is told."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.controller.observations import KEYS, NOW, OPTIONS, storage_observed
from trialfleet.controller.storage_plan import plan_storage
from trialfleet.kube.pod_status import find_trouble
from trialfleet.local.postgres import find_binaries


@pytest.fixture
def command() -> list[str]:
    """What runs before the server does."""
    planned = plan_storage(storage_observed(), OPTIONS, KEYS, NOW)
    (stateful_set,) = (one for one in planned.objects if one["kind"] == "StatefulSet")
    (container,) = stateful_set["spec"]["template"]["spec"]["initContainers"]
    found: list[str] = container["command"]
    return found


def run(command: list[str], data: Path) -> "subprocess.CompletedProcess[str]":
    path = f"{find_binaries()}:{os.environ['PATH']}"
    environment = {"PATH": path, "PGDATA": str(data)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_folder_of_another_version(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("17\n")
    done = run(command, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "the data folder was made by PostgreSQL 17, the image has 18: name an image of 17 again, "
    )
    assert [path.name for path in tmp_path.iterdir()] == ["PG_VERSION"]
    # As the kubelet has it, with the last words of the container.
    ended = {"exitCode": 1, "message": done.stderr}
    crashed = {
        "name": "password",
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": ended},
    }
    trouble = find_trouble({"initContainerStatuses": [crashed], "startTime": "x"}, "node")
    assert trouble is not None
    assert (trouble.reason, done.stderr.strip() in trouble.message) == ("CrashLoop", True)


def test_no_folder_yet(command: list[str], tmp_path: Path) -> None:
    assert run(command, tmp_path / "none").returncode == 0

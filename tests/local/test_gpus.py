"""GPUs of local workers."""

import json
from pathlib import Path

import pytest
import yaml

from tests.local.running import run, write_study
from trialfleet.local import gpus
from trialfleet.model.errors import InvalidInput

OBJECTIVE = """
import os, time
from pathlib import Path

def objective(trial):
    own = os.environ["CUDA_VISIBLE_DEVICES"]
    Path(own).touch()
    while len(list(Path().glob("GPU-*"))) < 2:  # until each worker has told its own
        time.sleep(0.01)
    return trial.suggest_float("x", 0, 1)
"""

LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-a)
  MIG 3g.20gb     Device  0: (UUID: MIG-1)
  MIG 3g.20gb     Device  1: (UUID: MIG-2)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-b)
"""


def write(folder: Path, *, count: object = 1) -> None:
    manifest = write_study(folder, OBJECTIVE, trials=2, parallelism=2)
    study = yaml.safe_load(manifest.read_text())
    worker = {"name": "worker", "resources": {"limits": {"nvidia.com/gpu": count}}}
    study["spec"]["template"] = {"spec": {"containers": [worker]}}
    manifest.write_text(yaml.safe_dump(study))


def test_each_worker_has_devices_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-x,GPU-y,GPU-z")
    done = run(["run", "study.yaml"], folder)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.glob("GPU-*")} == {"GPU-x", "GPU-y"}


def test_more_workers_than_devices(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    refused = run(["run", "study.yaml"], folder)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1] == (
        "spec.template.spec.containers[worker].resources: 2 workers need 2 GPUs (nvidia.com/gpu: "
        "1), found 3; accepted: --parallelism 1, or --share-gpus"
    )
    plan = run(["run", "study.yaml", "--share-gpus", "--dry-run", "--output", "json"], folder)
    assert json.loads(plan.stdout)["processes"]["gpus"] == ["3", "3"]


def test_the_devices_are_those_that_nvidia_smi_lists(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ntest \"$1\" = -L && cat <<'END'\n{LISTING}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    assert gpus.devices({}) == ["MIG-1", "MIG-2", "GPU-b"]
    program.write_text("#!/bin/sh\necho no driver; exit 9\n")
    assert gpus.devices({}) == []
    assert gpus.devices({"CUDA_VISIBLE_DEVICES": "2, 0,-1,1"}) == ["2", "0"]
    assert gpus.devices({"CUDA_VISIBLE_DEVICES": ""}) == []


def test_who_gets_which() -> None:
    assert gpus.assign(2, 2, ["a", "b", "c", "d"], share=False) == [["a", "b"], ["c", "d"]]
    assert gpus.assign(2, 2, ["a", "b", "c"], share=True) == [["a", "b"], ["c", "a"]]
    assert gpus.assign(2, 2, ["a"], share=True) == [["a"], ["a"]]
    assert gpus.assign(1, 2, [], share=True) == [[], []]
    with pytest.raises(InvalidInput, match="found none; accepted: --share-gpus to run without an"):
        gpus.assign(1, 1, [], share=False)


def test_a_part_of_a_device_is_none(folder: Path) -> None:
    write(folder, count="500m")
    refused = run(["run", "study.yaml", "--dry-run"], folder)
    assert (refused.returncode, refused.stderr) == (
        2,
        "spec.template.spec.containers[worker].resources: found nvidia.com/gpu: 500m, accepted: "
        "a whole number\n",
    )

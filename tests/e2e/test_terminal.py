"""The command line and a script against a real cluster: port-forward, Secrets, logs of pods."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.controller.terminal import Terminal
from tests.e2e.conftest import Cluster
from tests.scenarios.env import Env
from trialfleet import names

SOURCE = """
def objective(trial):
    print("from trial", trial.number)
    return trial.suggest_float("x", 0, 1)
"""

# It does not end by itself: the pods of a study that has ended are gone.
SCRIPT = """
import sys
import time

import trialfleet

namespace, image = sys.argv[1:]


def objective(trial):
    print("from trial", trial.number)
    time.sleep(0.2)
    return 1 + trial.suggest_float("x", 0, 1)


with trialfleet.submit(
    objective, 50_000, name="script", namespace=namespace, image=image or None, storage="shared"
) as study:
    deadline = time.monotonic() + 120
    finished = []
    while len(finished) < 3 and time.monotonic() < deadline:
        try:
            trials = study.study.get_trials(deepcopy=False)
        except trialfleet.model.errors.StorageUnavailable:
            trials = []
        finished = [trial for trial in trials if trial.state.is_finished()]
        time.sleep(0.5)
    print(study.logs(finished[1].number), end="")
    study.scale(2)
    study.stop()
    study.wait(timeout=180)
    assert 1 <= study.best_value <= 2
with trialfleet.connect("script", namespace=namespace) as again:
    print(again)
"""


def test_commands(cluster: Cluster, env: Env, tmp_path: Path) -> None:
    terminal = Terminal(cluster.kubeconfig, tmp_path, env.kube.namespace)
    study = {
        "apiVersion": names.API_VERSION,
        "kind": "Study",
        "metadata": {"name": "typed"},
        "spec": {
            "objectives": [{"name": "loss", "direction": "minimize"}],
            "budget": {"trials": 6},
            "parallelism": 2,
            "storage": {"name": "shared"},
            "objective": {"python": {"source": SOURCE}},
        },
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    code, output, told = terminal.run("submit", "study.yaml")
    assert code == 0 and output.startswith("typed: Complete, TrialsComplete"), told
    trials = json.loads(terminal.good("trials", "typed", "--output", "json"))
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 6
    (best,) = json.loads(terminal.good("best", "typed", "--limit", "1", "--output", "json"))
    assert best["values"]["loss"] == min(trial["values"]["loss"] for trial in trials)
    assert terminal.good("plot", "typed", "--kind", "timeline") == "typed-timeline.png\n"
    assert (tmp_path / "typed-timeline.png").read_bytes().startswith(b"\x89PNG")
    assert terminal.good("retry", "typed").startswith("typed: no failed trial")


def test_a_script(cluster: Cluster, env: Env, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py", env.kube.namespace, env.image or ""],
        cwd=tmp_path,
        env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
        capture_output=True,
        text=True,
        timeout=420,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert first.startswith("from trial ")
    assert last.startswith(f"<Study script in namespace {env.kube.namespace}, ")
    assert ": Complete, " in last

"""A study on a cluster from a notebook: submitted, waited for, looked at, steered."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.controller.conftest import Operator, database, namespace
from tests.controller.standin.standin import StandIn
from tests.notebooks import execute, has_widget, printed
from tests.scenarios.env import Env
from trialfleet.api import manifest


@pytest.fixture(scope="module")
def place(standin: StandIn, operator: Operator, postgres_url: str) -> Iterator[Env]:
    """A namespace with a storage that is ready."""
    with database(postgres_url) as url, namespace(standin, operator, url) as made:
        made.ready()
        yield made


CELLS = [
    """
import json
import time

import trialfleet

SCALE = 2.0


def loss(trial):
    return SCALE + trial.suggest_float("x", 0, 1)
""",
    """
options = {"namespace": NAMESPACE, "storage": "shared", "sampler": "RandomSampler"}
study = trialfleet.submit(loss, 6, name="cell", parallelism=2, env={"GREETING": "hi"}, **options)
study.wait()
""",
    """
told = {
    "best": study.best_value - study.best_params["x"],
    "rows": len(study.trials_dataframe()),
    "kind": type(study.study).__name__,
    "manifest": study.to_manifest(),
}
print(json.dumps(told))
""",
    """
def make(step):
    def objective(trial):
        print("step", step, "of trial", trial.number)
        time.sleep(0.05)
        return trial.suggest_float("x", 0, 1)
    return objective

padding = "".join(map(chr, range(0x4E00, 0x9000))) * 5
closed = trialfleet.submit(
    lambda trial, run=make(7), _=padding: run(trial), 50_000, name="closed", **options
)
""",
    """
def wait_for_trials(count):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            done = [t for t in closed.study.get_trials() if t.state.is_finished()]
        except trialfleet.model.errors.StorageUnavailable:
            done = []
        if len(done) >= count:
            return
        time.sleep(0.2)
    raise AssertionError(closed)

wait_for_trials(3)
print(closed.logs(1), end="")
closed.scale(2)
try:
    closed.wait(timeout=1, show_progress_bar=False)
except TimeoutError as error:
    print(error)
closed.stop()
closed.wait()
""",
    """
with trialfleet.connect("closed", namespace=NAMESPACE) as again:
    print(again)
    print(again.to_manifest())
study.close()
closed.close()
""",
]


def test_a_notebook(standin: StandIn, place: Env, tmp_path: Path) -> None:
    name = place.kube.namespace
    begin = f"NAMESPACE = {name!r}\n" + CELLS[0]
    environment = {**os.environ, "KUBECONFIG": str(standin.kubeconfig)}
    outputs = execute(tmp_path, [begin, *CELLS[1:]], environment)
    assert has_widget(outputs[1])
    told = json.loads(printed(outputs[2]))
    assert (told["best"], told["rows"], told["kind"]) == (pytest.approx(2), 6, "Study")
    file = tmp_path / "study.yaml"
    file.write_text(told["manifest"])
    (study,) = manifest.load(file)
    assert study.metadata.name == "cell"
    source = yaml.safe_load(told["manifest"])["spec"]["objective"]["python"]["source"]
    assert source == (
        "SCALE = 2.0\n\ndef loss(trial):\n    return SCALE + trial.suggest_float('x', 0, 1)\n"
    ).replace("'", '"')
    (variable,) = place.kube.get("studies", "cell")["spec"]["template"]["spec"]["containers"][0][
        "env"
    ]
    assert variable == {"name": "GREETING", "value": "hi"}

    lines = printed(outputs[4]).splitlines()
    assert lines == ["step 7 of trial 1", "study 'closed' has not ended in 1 s"]
    spec = place.kube.get("studies", "closed")["spec"]
    assert spec["parallelism"] == 2
    assert spec["objective"]["python"]["configMap"]["name"] == "closed-objective"
    (owner,) = place.kube.get("configmaps", "closed-objective")["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("Study", "closed")
    told_again = printed(outputs[5])
    assert told_again.startswith(f"<Study closed in namespace {name}, context it: Complete, ")
    assert "configMap:" in told_again

"""What an operator does and says when it starts."""

import uuid
from pathlib import Path

from tests.controller.conftest import Operator
from tests.controller.kube import Kube, condition, wait_for
from tests.controller.standin.standin import StandIn
from trialfleet import names


def test_a_fresh_operator_has_nothing_to_warn_of(standin: StandIn, tmp_path: Path) -> None:
    kube = Kube(standin.kubeconfig, f"t-{uuid.uuid4().hex[:8]}")
    log = tmp_path / "log"
    operator = Operator(standin.kubeconfig, log, "--lease", "of-its-own")
    operator.start()
    try:
        study = {
            "apiVersion": names.API_VERSION,
            "kind": "Study",
            "metadata": {"name": "seen"},
            "spec": {
                "objectives": [{"name": "loss", "direction": "minimize"}],
                "budget": {"trials": 1},
                "storage": {"name": "none"},
                "objective": {"python": {"source": "def objective(trial): return 1"}},
            },
        }
        kube.create("studies", study)
        wait_for("a look", lambda: condition(kube.get("studies", "seen"), "Stalled"), 30)
        kube.delete("studies", "seen")
    finally:
        operator.stop()
        kube.close()
    lines = log.read_text().splitlines()
    assert [line for line in lines if " WARNING " in line or " ERROR " in line] == []

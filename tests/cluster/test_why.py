"""What is said of a study that no operator has looked at."""

import datetime
from typing import Any

from trialfleet.cluster import diagnosis
from trialfleet.cluster.namespace import Namespace, Resource

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


class Empty(Namespace):
    """A namespace that has nothing."""

    def __init__(self) -> None:
        pass

    def find(self, resource: Resource, name: str) -> None:
        return None

    def list(
        self, resource: Resource, *, labels: str = "", fields: str = ""
    ) -> list[dict[str, Any]]:
        return []


def test_no_operator_has_looked_at_it() -> None:
    study = {"metadata": {"name": "new", "generation": 1}, "spec": {}}
    headline, way = diagnosis.examine(Empty(), study, NOW)
    assert headline.lines == ["new: not looked at yet"]
    assert "no operator has looked at this study" in way.lines[0]
    assert "kubectl get pods -A -l app.kubernetes.io/name=trialfleet-operator" in way.lines[1]


def test_a_suspended_study() -> None:
    condition = {"type": "Suspended", "status": "True", "reason": "BySpec"}
    condition["lastTransitionTime"] = "2029-12-31T23:58:00Z"
    study = {
        "metadata": {"name": "paused", "generation": 2},
        "spec": {"storage": {"name": "shared"}},
        "status": {"observedGeneration": 2, "phase": "Suspended", "conditions": [condition]},
    }
    _, way, conditions = diagnosis.examine(Empty(), study, NOW)
    assert way.lines == [
        "there is no storage 'shared'",
        "BySpec",
        "  do: let it go on: trialfleet resume paused",
    ]
    assert conditions.lines == ["Suspended      True   BySpec                    2m"]

"""What makes two studies the same."""

from typing import Any

import pytest

from trialfleet.api.study import StudySpec
from trialfleet.api.study_definition import define
from trialfleet.model.definition import LONGEST, differing

SOURCE = "def objective(trial): return 1"
SPACE = {"x": {"float": {"low": 0, "high": 1}}, "y": {"int": {"low": 1, "high": 9}}}


def spec(**changes: Any) -> StudySpec:
    return StudySpec.model_validate(
        {
            "objectives": [{"name": "loss", "direction": "minimize"}],
            "budget": {"trials": 3},
            "objective": {"python": {"source": SOURCE}},
            "searchSpace": SPACE,
            **changes,
        }
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"budget": {"timeout": "1h"}},
        {"sampler": {"name": "RandomSampler"}},
        {"pruner": {"name": "NopPruner"}},
        {"parallelism": 9, "retries": 0, "suspend": True, "adopt": True},
        {"objectives": [{"name": "loss", "direction": "minimize", "goal": 0.5}]},
        {"objective": {"python": {"source": SOURCE, "function": "objective"}}},
        {"searchSpace": dict(reversed(SPACE.items()))},
        {"searchSpace": {**SPACE, "x": {"float": {"low": 0.0, "high": 1.0, "log": False}}}},
        {"template": {"spec": {"containers": [{"name": "worker", "image": "other"}]}}},
    ],
)
def test_the_same(changes: dict[str, Any]) -> None:
    assert define(spec(**changes)) == define(spec())


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"objectives": [{"name": "error", "direction": "minimize"}]}, "objectives"),
        ({"objectives": [{"name": "loss", "direction": "maximize"}]}, "objectives"),
        ({"objective": {"python": {"source": SOURCE + "000"}}}, "objective"),
        ({"objective": {"python": {"callable": "a:b"}}}, "objective"),
        ({"objective": {"command": {"args": ["true"]}}}, "objective"),
        ({"searchSpace": {**SPACE, "x": {"float": {"low": 0, "high": 2}}}}, "searchSpace"),
        ({"searchSpace": None}, "searchSpace"),
    ],
)
def test_another(changes: dict[str, Any], part: str) -> None:
    other = define(spec(**changes))
    assert len(other) <= LONGEST
    assert differing(define(spec()), other) == f"of another {part}"


def test_the_text_counts_and_not_where_it_is() -> None:
    held = spec(objective={"python": {"configMap": {"name": "c", "key": "k"}}})
    file = spec(objective={"python": {"file": "objective.py"}})
    assert define(held, SOURCE) == define(file, SOURCE) == define(spec())
    assert define(held, "another") != define(spec())


def test_several_parts_are_named() -> None:
    other = spec(searchSpace=None, objectives=[{"name": "error", "direction": "minimize"}])
    told = differing(define(spec()), define(other))
    assert told == "of another objectives, another searchSpace"
    assert differing("", define(other)) == "whose definition is not known"

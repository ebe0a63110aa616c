"""What ``trialfleet.submit`` says of arguments that it can't use, before it asks any cluster."""

from typing import Any

import pytest
from optuna.trial import Trial

import trialfleet
from trialfleet.model.errors import InvalidInput


def square(trial: Trial) -> float:
    return trial.suggest_float("x", -10, 10) ** 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"name": "Big Name"}, "metadata.name: found 'Big Name', accepted: "),
        ({"parallelism": -1}, "spec.parallelism: found -1, accepted: "),
        ({"n_trials": None}, "spec.budget: "),
        ({"sampler": "TPE"}, "spec.sampler"),
        ({"spec": {"retrys": 1}}, "spec.retrys: "),
        ({"directions": ["up"]}, "spec.objectives"),
        ({"packages": ["a=1"]}, "spec.objective.python.packages[0]: found 'a=1', accepted: a req"),
        ({"direction": "minimize", "directions": ["maximize"]}, "directions: found beside dir"),
    ],
)
def test_arguments(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        trialfleet.submit(square, **{"n_trials": 3, **options})
    assert str(raised.value).startswith(told)


def test_no_function() -> None:
    with pytest.raises(TypeError, match=r"^objective: found 7, accepted: a function of a trial"):
        trialfleet.submit(7, 3)  # type: ignore[arg-type]

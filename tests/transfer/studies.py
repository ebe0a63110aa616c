"""Studies with something of everything, and what is compared of them."""

import contextlib
import datetime
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

BEGAN = datetime.datetime(2026, 3, 29, 1, 59, 59, 999_999)
SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "momentum": FloatDistribution(0.0, 1.0, step=0.25),
    "depth": IntDistribution(1, 9),
    "kind": CategoricalDistribution([None, True, 2.5, "ü"]),
}
PARAMS: dict[str, Any] = {"lr": 0.012345678901234567, "momentum": 0.75, "depth": 3, "kind": True}


def trial(state: TrialState, values: list[float] | None = None, **more: Any) -> FrozenTrial:
    waiting = state == TrialState.WAITING
    given: dict[str, Any] = {
        "number": -1,
        "trial_id": -1,
        "value": None,
        "state": state,
        "values": values,
        "datetime_start": None if waiting else BEGAN,
        "datetime_complete": BEGAN + datetime.timedelta(days=1) if state.is_finished() else None,
        "params": {},
        "distributions": {},
        "user_attrs": {},
        "system_attrs": {},
        "intermediate_values": {},
    }
    return FrozenTrial(**given | more)


def fill(storage: BaseStorage) -> None:
    """Make two studies: one with trials of every kind, one with two objectives."""
    study_id = storage.create_new_study([StudyDirection.MAXIMIZE], "every kind")
    storage.set_study_user_attr(study_id, "note", {"list": [1, 2.5, None], "text": "é'\"\\"})
    storage.set_study_system_attr(study_id, "study:metric_names", ["accuracy"])
    for made in (
        trial(TrialState.COMPLETE, [0.1 + 0.2], params=PARAMS, distributions=SPACE),
        trial(
            TrialState.PRUNED,
            [0.5],
            intermediate_values={0: math.nan, 7: math.inf, 3: -math.inf, 2**31 - 1: 0.25},
            user_attrs={"a": [1, {"b": None}], "text": "日本"},
            system_attrs={"constraints": [0.5, -1.0]},
        ),
        trial(TrialState.FAIL, system_attrs={"trialfleet:reason": "ObjectiveRaised"}),
        trial(TrialState.COMPLETE, [math.inf]),
        trial(TrialState.COMPLETE, [-math.inf], params={"depth": 9}, distributions=narrowed()),
        trial(TrialState.WAITING, system_attrs={"fixed_params": {"lr": 0.01, "kind": None}}),
        trial(TrialState.COMPLETE, [-0.0]),
    ):
        storage.create_new_trial(study_id, made)
    both = storage.create_new_study([StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE], "both")
    for number in range(300):
        values = [float(number % 10), float(number % 7)]
        storage.create_new_trial(both, trial(TrialState.COMPLETE, values))


def narrowed() -> dict[str, BaseDistribution]:
    """A distribution of one trial that others of the study don't have."""
    return {"depth": IntDistribution(2, 10)}


def everything(storage: BaseStorage) -> dict[str, Any]:
    """Return all that Optuna says of the studies, but for ids."""
    return {
        study.study_name: {
            "directions": study.directions,
            "user_attrs": study.user_attrs,
            "system_attrs": study.system_attrs,
            "trials": [all_of(t) for t in storage.get_all_trials(study._study_id, deepcopy=False)],
        }
        for study in storage.get_all_studies()
    }


def all_of(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state,
        "values": trial.values,
        "started": trial.datetime_start,
        "completed": trial.datetime_complete,
        "params": {name: (value, type(value)) for name, value in trial.params.items()},
        "distributions": {
            name: optuna.distributions.distribution_to_json(distribution)
            for name, distribution in trial.distributions.items()
        },
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
        # As text: what is no number is not equal to itself.
        "intermediate_values": {step: repr(v) for step, v in trial.intermediate_values.items()},
    }


@contextlib.contextmanager
def opened(place: str | Path) -> Iterator[BaseStorage]:
    """Optuna's own storage on a file or a database."""
    text = str(place)
    if "://" not in text and not text.endswith(".sqlite3"):
        yield JournalStorage(JournalFileBackend(text))
        return
    storage = RDBStorage(text if "://" in text else f"sqlite:///{text}")
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def contents(place: str | Path) -> dict[str, Any]:
    with opened(place) as storage:
        return everything(storage)

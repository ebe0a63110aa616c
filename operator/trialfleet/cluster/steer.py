"""Changes to a study that runs, each as little as it takes."""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution

from trialfleet.cluster.namespace import STUDIES, Namespace
from trialfleet.model import errors


def scale(namespace: Namespace, study: str, parallelism: int) -> None:
    """Give a study so many workers."""
    namespace.patch(STUDIES, study, {"spec": {"replicas": parallelism}}, "scale")


def suspend(namespace: Namespace, study: str, *, suspended: bool) -> None:
    """Let a study's workers leave, or start again."""
    namespace.patch(STUDIES, study, {"spec": {"suspend": suspended}})


def check_point(study: optuna.Study, point: Mapping[str, Any]) -> None:
    """Refuse a point that the objective would never be given.

    Args:
        study: Its trials tell what the objective asks for.
        point: Parameter to value.

    Raises:
        InvalidInput: A parameter that no trial has, where there are trials, or a value that is out
            of the range of the last trial that has it.
    """
    known: dict[str, BaseDistribution] = {}
    for trial in study.get_trials(deepcopy=False):
        known.update(trial.distributions)
    for name, value in point.items():
        if known and name not in known:
            raise errors.InvalidInput(f"{name}: found no such parameter, accepted: {_list(known)}")
        distribution = known.get(name)
        if distribution is not None and not _contains(distribution, value):
            raise errors.InvalidInput(f"{name}: found {value!r}, accepted: {distribution}")


def _contains(distribution: BaseDistribution, value: object) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:
        return False


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names))

"""Changes to a study that runs, each as little as it takes."""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution

from trialfleet.cluster.namespace import STORAGES, STUDIES, Namespace
from trialfleet.model import errors


def scale(namespace: Namespace, study: str, parallelism: int) -> None:
    """Give a study so many workers."""
    namespace.patch(STUDIES, study, {"spec": {"replicas": parallelism}}, "scale")


def suspend(namespace: Namespace, study: str, *, suspended: bool) -> None:
    """Let a study's workers leave, or start again."""
    namespace.patch(STUDIES, study, {"spec": {"suspend": suspended}})


def rotate(namespace: Namespace, storage: str) -> list[int]:
    """Take the next of three steps from a storage's key of tokens to a new one.

    One key: a second one is taken too. Two, the old one first: new tokens are made with the new
    one. Two, the new one first: the old one is taken no more. Returns the numbers of the keys,
    that of new tokens first.

    Raises:
        InvalidInput: There is no such storage, it has no tokens, or what was changed before is not
            everywhere yet.
    """
    found = namespace.find(STORAGES, storage)
    if found is None:
        raise errors.InvalidInput(f"NAME: found no StudyStorage {storage!r} in {namespace}")
    security, status = found["spec"].get("security", {}), found.get("status", {})
    if not security.get("tls", True):
        raise errors.InvalidInput(f"{storage}: found security.tls false, accepted: true")
    known = status.get("observedGeneration") == found["metadata"]["generation"]
    if not (known and status.get("phase") == "Ready"):
        raise errors.InvalidInput(
            f"{storage}: found it {status.get('phase', 'Pending')}, accepted: Ready, with all that "
            f"was changed in place"
        )
    keys = list(security.get("tokenKeys") or [1])
    first = keys[0]
    if len(keys) == 1:
        following = [first, first + 1]
    elif first < keys[1]:
        following = [keys[1], first]
    else:
        following = [first]
    patch = {"metadata": {"resourceVersion": found["metadata"]["resourceVersion"]}}
    namespace.patch(STORAGES, storage, {**patch, "spec": {"security": {"tokenKeys": following}}})
    return following


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

"""What a storage is told of a study. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from trialfleet.api import study_definition
from trialfleet.api.study import Study
from trialfleet.client.answers import StudyDefinition
from trialfleet.model.budget import Goal
from trialfleet.model.errors import InvalidInput


def define(
    study: Study,
    points: Sequence[Mapping[str, Any]] = (),
    *,
    source: str | None = None,
    adopt: bool = False,
    owner: str = "",
) -> StudyDefinition:
    """Return what a storage is told of a study.

    ``points`` are those of ``trialsFrom``, ``source`` is the objective's text in a ConfigMap.
    """
    spec = study.spec
    budget = spec.budget
    goals = [
        Goal(index, objective.goal)
        for index, objective in enumerate(spec.objectives)
        if objective.goal is not None
    ]
    return StudyDefinition(
        name=study.metadata.name,
        directions=[objective.study_direction for objective in spec.objectives],
        trials=budget.trials,
        failed_trials=budget.failed_trials,
        timeout_s=None if budget.timeout is None else budget.timeout.total_seconds(),
        goals=goals,
        retries=spec.retries,
        enqueue=[*(spec.trials or ()), *points],
        metric_names=[objective.name for objective in spec.objectives],
        definition=study_definition.define(spec, source),
        adopt=adopt,
        owner=owner,
    )


def definition_of(study: Study) -> str:
    """Return a study's definition; empty where that depends on what a ConfigMap holds."""
    python = study.spec.objective.python
    if python is not None and python.config_map is not None:
        return ""
    return study_definition.define(study.spec)


def parse_points(text: str, where: str) -> list[dict[str, Any]]:
    """Return the points that a ConfigMap's key holds. Raises ``InvalidInput``."""
    accepted = "a JSON list of objects, parameter to value"
    try:
        points = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"{where}: found no JSON ({error}), accepted: {accepted}") from error
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise InvalidInput(f"{where}: found another JSON value, accepted: {accepted}")
    return points

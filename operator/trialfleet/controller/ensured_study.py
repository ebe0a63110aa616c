"""What a storage is told of a study. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from trialfleet.api import study_definition
from trialfleet.api.search_space import distributions
from trialfleet.api.study import Study
from trialfleet.client.answers import StudyDefinition
from trialfleet.model.budget import Goal


def define(
    study: Study,
    points: Sequence[Mapping[str, Any]] = (),
    *,
    source: str | None = None,
    adopt: bool = False,
    owner: str = "",
    bare_tokens: bool = False,
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
        patience=None if budget.patience is None else budget.patience.trials,
        warm_start=[one.study for one in spec.warm_start or ()],
        search_space=distributions(spec.search_space or {}) if spec.warm_start else {},
        retries=spec.retries,
        enqueue=[*(spec.trials or ()), *points],
        metric_names=[objective.name for objective in spec.objectives],
        definition=study_definition.define(spec, source),
        adopt=adopt,
        owner=owner,
        bare_tokens=bare_tokens,
    )


def definition_of(study: Study) -> str:
    """Return a study's definition; empty where that depends on what a ConfigMap holds."""
    python = study.spec.objective.python
    if python is not None and python.config_map is not None:
        return ""
    return study_definition.define(study.spec)

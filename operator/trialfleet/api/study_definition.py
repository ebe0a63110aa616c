"""What makes two studies the same: their objectives, objective and search space.

The budget, the goals, the sampler, the pruner, parallelism and the pods are not part of it.
"""

from typing import Any

from trialfleet.api.objective import Objective
from trialfleet.api.study import StudySpec
from trialfleet.model import definition


def define(spec: StudySpec, source: str | None = None) -> str:
    """Return a study's definition.

    ``source`` is the Python source that a ConfigMap or a file holds: it is the text that counts,
    not where it is.
    """
    space = {} if spec.search_space is None else spec.search_space
    return definition.encode(
        {
            definition.OBJECTIVES: [[one.name, one.direction] for one in spec.objectives],
            definition.OBJECTIVE: _objective(spec.objective, source),
            definition.SEARCH_SPACE: {name: _dump(one) for name, one in space.items()},
        }
    )


def _objective(objective: Objective, source: str | None) -> Any:
    python = objective.python
    if python is None:
        return _dump(objective)
    if python.callable is not None:
        return {"callable": python.callable}
    text = python.source if python.source is not None else source
    return {"source": text, "function": python.function or "objective"}


def _dump(model: Any) -> Any:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)

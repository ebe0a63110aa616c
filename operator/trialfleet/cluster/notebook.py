"""``trialfleet.submit`` and ``trialfleet.connect``: a study on a cluster, from a notebook."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from optuna.trial import Trial

from trialfleet import names
from trialfleet.api.study import Study
from trialfleet.api.verdict import Rejected, check
from trialfleet.cluster import connect as connecting
from trialfleet.cluster import submission
from trialfleet.cluster.namespace import CONFIG_MAPS, STUDIES, Namespace, Object
from trialfleet.cluster.objective_text import objective_text
from trialfleet.cluster.study_handle import StudyHandle
from trialfleet.model import errors

Direction = Literal["minimize", "maximize"]

_INLINE: Final = 200_000
"""Characters of source that a Study holds itself; more is in a ConfigMap."""

_KEY: Final = "objective.py"

_GPU: Final = "nvidia.com/gpu"


def submit(
    objective: Callable[[Trial], float | Sequence[float]],
    n_trials: int | None = None,
    *,
    parallelism: int = 1,
    name: str | None = None,
    namespace: str | None = None,
    context: str | None = None,
    image: str | None = None,
    packages: Sequence[str] | None = None,
    resources: Mapping[str, Any] | None = None,
    gpus: int = 0,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    direction: Direction | None = None,
    directions: Sequence[Direction] | None = None,
    sampler: str | Mapping[str, Any] | None = None,
    pruner: str | Mapping[str, Any] | None = None,
    storage: str | None = None,
    spec: Mapping[str, Any] | None = None,
) -> StudyHandle:
    """Make a study on a cluster of a function, and return a handle of it.

    The function travels as its source, with the imports, constants and functions that it refers to,
    where that is enough; else as a pickle (cloudpickle), which the worker's image has to have the
    same minor version of Python for. What it imports has to be in that image, or in ``packages``.
    Submitted again under its name, a study goes on; what may change of it is changed.

    Args:
        objective: As of ``optuna.Study.optimize``.
        n_trials: So many trials in all; None: until ``timeout``.
        parallelism: So many workers at once.
        name: Of the study; one is made up if absent.
        namespace: Of the cluster; None: the context's own.
        context: Of the kubeconfig; None: its current one.
        image: Of the workers; None: the operator's own worker image.
        packages: What is installed before a worker starts, as in ``pip install``.
        resources: Of a worker, such as ``{"cpu": 2, "memory": "4Gi"}``: what it is given, and may
            use at most. Or ``{"requests": {...}, "limits": {...}}``.
        gpus: Of a worker, as ``nvidia.com/gpu``.
        env: Environment variables of the workers.
        timeout: Seconds after which no new trial is begun.
        direction: As in ``optuna.create_study``.
        directions: As in ``optuna.create_study``.
        sampler: Name of a class of ``optuna.samplers``, or ``{"name": ..., "options": {...}}``.
        pruner: The same of ``optuna.pruners``.
        storage: Name of a StudyStorage; None: one of the study's own.
        spec: Any other fields of a Study's ``spec``, as in its manifest.

    Raises:
        InvalidInput: An argument is none that a study takes; the message has the field's path.
            Or the objective can't be pickled, or is too large for a ConfigMap.
        TypeError: ``objective`` is not callable.
        ClusterUnavailable: The API server does not answer.
        PermissionDenied: The user may not do this.
    """
    if not callable(objective):
        raise TypeError(f"objective: found {objective!r:.60}, accepted: a function of a trial")
    if direction is not None and directions is not None:
        raise errors.InvalidInput("directions: found beside direction, accepted: one of the two")
    text, function = objective_text(objective)
    found = directions if directions is not None else [direction or "minimize"]
    metrics = ["value"] if len(found) == 1 else [f"value_{index}" for index in range(len(found))]
    study: Object = {
        "apiVersion": names.API_VERSION,
        "kind": "Study",
        "metadata": {"name": name if name is not None else f"study-{uuid.uuid4().hex[:8]}"},
        "spec": {
            "objectives": [
                {"name": metric, "direction": one}
                for metric, one in zip(metrics, found, strict=True)
            ],
            "budget": _given(
                trials=n_trials, timeout=None if timeout is None else f"{timeout:.3f}s"
            ),
            "parallelism": parallelism,
            "objective": {
                "python": {
                    "source": text,
                    "function": function,
                    **_given(packages=None if packages is None else list(packages) or None),
                }
            },
            **_given(
                sampler={"name": sampler} if isinstance(sampler, str) else sampler,
                pruner={"name": pruner} if isinstance(pruner, str) else pruner,
                storage=None if storage is None else {"name": storage},
                template=_template(image, resources, gpus, env),
            ),
            **(spec or {}),
        },
    }
    objects = [study] if len(text) <= _INLINE else _with_config_map(study)
    try:
        check(Study, study)
    except Rejected as rejected:
        raise errors.InvalidInput(str(rejected)) from None
    opened = Namespace.open(namespace, context)
    try:
        for _ in submission.apply(opened, Path("trialfleet.submit"), objects, force=False):
            pass
        if len(objects) > 1:
            _own(opened, objects)
    except BaseException:
        opened.__exit__()
        raise
    return StudyHandle(opened, study["metadata"]["name"], objects)


def connect(
    name: str | None = None, *, namespace: str | None = None, context: str | None = None
) -> StudyHandle:
    """Return a handle of a study that a cluster has.

    Args:
        name: Of the study; None: the only one of the namespace.
        namespace: Of the cluster; None: the context's own.
        context: Of the kubeconfig; None: its current one.

    Raises:
        InvalidInput: There is no such study, or several and no name.
        ClusterUnavailable: The API server does not answer.
        PermissionDenied: The user may not read studies there.
    """
    opened = Namespace.open(namespace, context)
    try:
        found = connecting.find_study(opened, name)
    except BaseException:
        opened.__exit__()
        raise
    return StudyHandle(opened, found["metadata"]["name"])


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _template(
    image: str | None,
    resources: Mapping[str, Any] | None,
    gpus: int,
    env: Mapping[str, str] | None,
) -> Object | None:
    given = dict(resources or {})
    if given and not given.keys() & {"requests", "limits", "claims"}:
        given = {"requests": dict(given), "limits": dict(given)}
    if gpus:
        given["limits"] = {**given.get("limits", {}), _GPU: gpus}
    container = _given(
        image=image,
        resources=given or None,
        env=[{"name": key, "value": text} for key, text in (env or {}).items()] or None,
    )
    if not container:
        return None
    return {"spec": {"containers": [{"name": names.WORKER_CONTAINER, **container}]}}


def _with_config_map(study: Object) -> list[Object]:
    """Move the source of a study's objective to a ConfigMap; return both."""
    python = study["spec"]["objective"]["python"]
    name = f"{study['metadata']['name']}-objective"
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {_KEY: python.pop("source")},
    }
    python["configMap"] = {"name": name, "key": _KEY}
    return [config_map, study]


def _own(namespace: Namespace, objects: Sequence[Object]) -> None:
    """Have the ConfigMap deleted with its study."""
    config_map, study = (one["metadata"]["name"] for one in objects)
    found = namespace.find(STUDIES, study)
    if found is not None:
        owner = {
            "apiVersion": names.API_VERSION,
            "kind": "Study",
            "name": study,
            "uid": found["metadata"]["uid"],
        }
        namespace.patch(CONFIG_MAPS, config_map, {"metadata": {"ownerReferences": [owner]}})

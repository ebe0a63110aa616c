"""An Experiment of Katib, v1beta1, as a Study."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from trialfleet import names
from trialfleet.api.study import Study
from trialfleet.api.suggestions import found, printable
from trialfleet.api.verdict import Rejected, check, line
from trialfleet.api.yaml_documents import YamlError, documents
from trialfleet.model.errors import InvalidInput
from trialfleet.transfer.katib.fields import Fields
from trialfleet.transfer.katib.metrics import Collected, collected
from trialfleet.transfer.katib.search import pruner, sampler, search_space
from trialfleet.transfer.katib.template import Program, program

_API_VERSION: Final = "kubeflow.org/v1beta1"
_ACCEPTED: Final = f"accepted: one Experiment of {_API_VERSION}"
_KATIB_PARALLELISM: Final = 3
_VOLUME: Final = "katib-metrics"


@dataclass(frozen=True, slots=True)
class Converted:
    """A study made of an experiment."""

    manifest: dict[str, Any]
    notes: list[str]
    """What differs or has no equivalent: one line each, with the path in the experiment."""


def convert(text: str, source: str) -> Converted:
    """Return the study that an experiment's YAML describes.

    Args:
        text: A manifest with one Experiment; other objects in it are told and left out.
        source: What errors call the text.

    Raises:
        InvalidInput: No study that validates can be made of it.
    """
    notes: list[str] = []
    experiments = list[Mapping[str, Any]]()
    try:
        for document in documents(text):
            content = document.content
            if isinstance(content, Mapping) and content.get("kind") == "Experiment":
                experiments.append(content)
            else:
                kind = content.get("kind") if isinstance(content, Mapping) else content
                notes.append(f"{source}:{document.line}: {printable(found(kind))} is left out")
    except YamlError as error:
        where = f"{source}:{error.line}:{error.column}"
        raise InvalidInput(f"{where}: {printable(error.message)}") from None
    if len(experiments) != 1:
        raise InvalidInput(f"{source}: found {len(experiments)} Experiments, {_ACCEPTED}")
    experiment = Fields(experiments[0], (), notes)
    version = experiment.any("apiVersion")
    if version != _API_VERSION:
        raise experiment.refusal("apiVersion", f"found {found(version)}, {_ACCEPTED}")
    manifest = _study(experiment)
    try:
        check(Study, manifest)
    except Rejected as rejected:
        lines = [line(finding) for finding in rejected.findings]
        raise InvalidInput(
            "\n".join(f"the study would not be valid: {one}" for one in lines)
        ) from None
    return Converted(manifest, notes)


def _study(experiment: Fields) -> dict[str, Any]:
    experiment.any("kind")
    experiment.any("status")
    metadata, namespace = _metadata(experiment)
    spec = experiment.object("spec")
    if spec is None:
        raise experiment.refusal("spec", "missing, accepted: an object")
    if spec.any("nasConfig") is not None:
        raise spec.refusal("nasConfig", "neural architecture search has no equivalent")
    objective, metric = _objective(spec)
    chosen, stopped = sampler(spec), pruner(spec)
    space = search_space(spec)
    runs = program(spec, space, metadata["name"], namespace)
    where = collected(spec, metric)
    parallelism = spec.integer("parallelTrialCount")
    study = {
        "objectives": [objective],
        "sampler": chosen,
        "pruner": stopped,
        "budget": _budget(spec, runs),
        "parallelism": _KATIB_PARALLELISM if parallelism is None else parallelism,
        "searchSpace": space,
        "objective": {"command": _command(runs, where, metric)},
        "template": _with_volume(runs.template, where),
    }
    if (policy := spec.any("resumePolicy")) not in (None, "Never"):
        spec.tell(
            "resumePolicy",
            f"{policy} needs no equivalent: a study keeps its trials, and goes on when its "
            "budget grows",
        )
    spec.close()
    experiment.close()
    return {
        "apiVersion": names.API_VERSION,
        "kind": "Study",
        "metadata": metadata,
        "spec": study,
    }


def _metadata(experiment: Fields) -> tuple[dict[str, Any], str | None]:
    given = experiment.object("metadata")
    if given is None:
        raise experiment.refusal("metadata", "missing, accepted: an object with a name")
    if given.any("generateName") is not None:
        given.tell("generateName", "a study has a name of its own: left out")
    metadata: dict[str, Any] = {"name": given.text("name")}
    namespace = given.any("namespace")
    if namespace is not None:
        metadata["namespace"] = namespace
    for key in ("labels", "annotations"):
        if (value := given.any(key)) is not None:
            metadata[key] = value
    # What the API server has written says nothing about the experiment.
    for key in ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"):
        given.any(key)
    given.close()
    return metadata, namespace if isinstance(namespace, str) else None


def _objective(spec: Fields) -> tuple[dict[str, Any], str]:
    objective = spec.object("objective")
    if objective is None:
        raise spec.refusal("objective", "missing, accepted: an object with objectiveMetricName")
    direction, metric = objective.text("type"), objective.text("objectiveMetricName")
    value: dict[str, Any] = {"name": metric, "direction": direction}
    goal = objective.number("goal")
    if goal is not None:
        value["goal"] = goal
    if more := objective.items("additionalMetricNames"):
        shown = ", ".join(map(str, more))
        objective.tell(
            "additionalMetricNames", f"{shown}: a study records its objectives only, left out"
        )
    strategy = "min" if direction == "minimize" else "max"
    given = False
    for entry in objective.objects("metricStrategies"):
        name, rule = entry.text("name"), entry.text("value")
        entry.close()
        if name == metric:
            strategy, given = rule, True
    if strategy != "latest":
        which = "" if given else ", by default,"
        objective.tell(
            "metricStrategies",
            f"Katib takes{which} the {strategy} of all values of {metric!r} in the output; a study "
            "takes the last one, so the program has to print the right one last",
        )
    objective.close()
    return value, metric


def _budget(spec: Fields, runs: Program) -> dict[str, Any]:
    budget: dict[str, Any] = {}
    # Both count what has ended for whatever reason, and end at the number itself.
    trials, failed = spec.integer("maxTrialCount"), spec.integer("maxFailedTrialCount")
    if trials is not None:
        budget["trials"] = trials
    if failed is not None:
        # Katib ends at the first failure with 0 as with 1.
        budget["failedTrials"] = max(failed, 1)
    if runs.trial_timeout_s is not None:
        budget["trialTimeout"] = f"{runs.trial_timeout_s}s"
    return budget


def _command(runs: Program, where: Collected, metric: str) -> dict[str, Any]:
    command: dict[str, Any] = {"args": runs.args}
    if runs.env:
        command["env"] = runs.env
    command["metrics"] = {metric: where.metric}
    return command


def _with_volume(template: dict[str, Any], where: Collected) -> dict[str, Any]:
    """Return the template with the empty volume that Katib mounts for files of metrics."""
    if where.folder is None:
        return template
    pod = dict(template["spec"])
    worker = dict(pod["containers"][0])
    mounts, volumes = worker.get("volumeMounts") or [], pod.get("volumes") or []
    if not isinstance(mounts, list) or not isinstance(volumes, list):
        return template  # which does not validate, and says why
    path = str(PurePosixPath(where.folder))
    if any(isinstance(mount, Mapping) and mount.get("mountPath") == path for mount in mounts):
        return template
    worker["volumeMounts"] = [*mounts, {"name": _VOLUME, "mountPath": path}]
    pod["containers"] = [worker]
    pod["volumes"] = [*volumes, {"name": _VOLUME, "emptyDir": {}}]
    return {**template, "spec": pod}

"""The workers of a study: a Job, work-queue style, and the ConfigMap with what they run."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from trialfleet import names
from trialfleet.api.study import Study
from trialfleet.controller.build.packages import (
    REQUIREMENTS_FILE,
    add_packages,
    wants_packages,
)
from trialfleet.controller.build.pod_parts import SECRET_MOUNT, own_container
from trialfleet.controller.build.template import (
    completed,
    dump_template,
    environment,
    labels_of_pods,
)
from trialfleet.controller.ensured_study import definition_of
from trialfleet.controller.options import OperatorOptions
from trialfleet.kube.objects import Object, Owner, digest, hashed
from trialfleet.model import errors

_STUDY_FILE: Final = "study.json"
_OBJECTIVE_FILE: Final = "objective.py"
_CHECKPOINTS: Final = "/var/lib/trialfleet/checkpoints"

_GRACE_S: Final = 30
"""Kubernetes' own default."""
_LAST_S: Final = 5
"""Of a pod's grace, for a worker that has to hand its trial back."""

_BACKOFF_LIMIT: Final = 6
"""Workers that may fail by themselves, for each one that runs, before the Job is given up."""

NO_LIMIT: Final = 2**31 - 1
"""A back-off limit that no Job reaches."""


def build_config(owner: Owner, study: Study) -> Object:
    """Return the ConfigMap that holds the study as its workers read it."""
    return owner.make(
        "v1",
        "ConfigMap",
        names.study_config_name(owner.name),
        names.COMPONENT_STUDY,
        data={_STUDY_FILE: json.dumps(for_workers(study), indent=1, sort_keys=True)},
    )


def for_workers(study: Study) -> Object:
    """Return the manifest of a study without what is none of its workers' business."""
    spec: dict[str, Any] = study.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for part in (
        *("template", "prepare", "collate", "storage", "parallelism", "suspend", "retries"),
        *("trials", "trialsFrom", "warmStart", "ttlSecondsAfterFinished"),
    ):
        spec.pop(part, None)
    python = study.spec.objective.python
    if python is not None and python.config_map is not None:
        # The kubelet brings the ConfigMap's key as a file beside the manifest.
        given = spec["objective"]["python"]
        del given["configMap"]
        given["file"] = _OBJECTIVE_FILE
    if python is not None and python.requirements is not None:
        spec["objective"]["python"]["requirements"] = {"file": REQUIREMENTS_FILE}
    return {
        "apiVersion": names.API_VERSION,
        "kind": "Study",
        "metadata": {"name": study.metadata.name},
        "spec": spec,
    }


@dataclass(frozen=True, slots=True)
class Reach:
    """How the pods of a study reach its storage."""

    storage: str
    """The storage's name."""
    proxies: str
    """``HOST:PORT[,HOST:PORT...]``, the nearest first."""
    secret: str | None
    """Name of the Secret with the study's token; None where nothing is encrypted."""


def contract(reach: Reach, template: Object) -> str:
    """Return the hash of what pods of a Job must agree on with the storage and the study."""
    return digest([reach.proxies, reach.secret, template])


def backoff_limit_for(parallelism: int) -> int:
    """Return how many workers of a Job may fail by themselves before it is given up."""
    return _BACKOFF_LIMIT * max(1, parallelism)


def reaches(job: Mapping[str, Any], reach: Reach) -> bool:
    """Whether the pods of a Job that exists reach the storage as those of a new one do."""
    pod = job["spec"]["template"]["spec"]
    (worker,) = (one for one in pod["containers"] if one["name"] == names.WORKER_CONTAINER)
    proxies = {one.get("value") for one in worker["env"] if one["name"] == names.ENV_PROXY}
    secrets = [
        volume["secret"]["secretName"]
        for volume in pod.get("volumes", ())
        if volume["name"] == SECRET_MOUNT["name"]
    ]
    return proxies == {reach.proxies} and secrets == ([reach.secret] if reach.secret else [])


def build_job(
    owner: Owner,
    study: Study,
    *,
    index: int,
    parallelism: int,
    reach: Reach,
    generation: int,
    options: OperatorOptions,
) -> Object:
    """Return the Job of a study's workers.

    Without ``completions`` it is a work queue: one worker that ends clean says that there is no
    more work, and no other is started.
    """
    template = dump_template(study.spec.template)
    queue = _queue_labels(template)
    job = owner.make(
        "batch/v1",
        "Job",
        names.worker_job_name(owner.name, index),
        names.COMPONENT_WORKER,
        annotations={
            names.ANNOTATION_GENERATION: str(generation),
            names.ANNOTATION_CONTRACT: contract(reach, template),
        },
        spec={
            "parallelism": parallelism,
            "backoffLimit": backoff_limit_for(parallelism),
            "podFailurePolicy": {"rules": _failure_rules(installs=wants_packages(study))},
            "podReplacementPolicy": "Failed",
            "template": _pod_template(owner, study, template, reach, options),
        },
    )
    job["metadata"]["labels"] |= queue
    return hashed(job)


def resized(live: Object, parallelism: int, backoff_limit: int | None = None) -> Object:
    """Return a Job that exists with another number of workers, and another back-off limit if given.

    All else is taken from what is there, so that an operator of another version does not replace
    the workers of a running study.
    """
    live_metadata, live_spec = live["metadata"], live["spec"]
    ours = {names.ANNOTATION_GENERATION, names.ANNOTATION_CONTRACT}
    annotations = live_metadata.get("annotations", {})
    labels = live_metadata.get("labels", {})
    kept = ("backoffLimit", "podFailurePolicy", "podReplacementPolicy", "template")
    # Kueue suspends the Jobs of its queues itself.
    running = {} if names.LABEL_QUEUE in labels else {"suspend": False}
    return hashed(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": live_metadata["name"],
                "namespace": live_metadata["namespace"],
                "labels": dict(labels),
                "annotations": {key: annotations[key] for key in ours & annotations.keys()},
                "ownerReferences": copy.deepcopy(live_metadata.get("ownerReferences", [])),
            },
            "spec": {
                "parallelism": parallelism,
                **running,
                **{key: copy.deepcopy(live_spec[key]) for key in kept if key in live_spec},
                **({} if backoff_limit is None else {"backoffLimit": backoff_limit}),
            },
        }
    )


def _queue_labels(template: Object) -> dict[str, str]:
    """Return the labels by which Kueue takes the Job: it looks at the Job, not at its pods."""
    labels: dict[str, str] = template.get("metadata", {}).get("labels", {})
    return {key: text for key, text in labels.items() if key.startswith("kueue.x-k8s.io/")}


def _failure_rules(*, installs: bool) -> list[Object]:
    """Return what becomes of a Job when a worker ends otherwise than clean; the first match."""

    def on_exit(*codes: int, container: str = names.WORKER_CONTAINER) -> Object:
        return {"containerName": container, "operator": "In", "values": sorted(codes)}

    conflict = on_exit(errors.EXIT_INVALID, container=names.PACKAGES_CONTAINER)
    return [
        {
            "action": "Ignore",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        },
        {"action": "Ignore", "onExitCodes": on_exit(errors.EXIT_DRAINED, errors.EXIT_OVERRUN)},
        # Any other worker would fail the same way.
        {"action": "FailJob", "onExitCodes": on_exit(errors.EXIT_OBJECTIVE, errors.EXIT_INVALID)},
        *([{"action": "FailJob", "onExitCodes": conflict}] if installs else []),
    ]


def _pod_template(
    owner: Owner, study: Study, template: Object, reach: Reach, options: OperatorOptions
) -> Object:
    template = copy.deepcopy(template)
    spec = template.setdefault("spec", {})
    # A Job restarts nothing in place: its failure policy has to see how a worker ended.
    spec["restartPolicy"] = "Never"
    grace_s = spec.setdefault("terminationGracePeriodSeconds", _GRACE_S)
    containers = spec.setdefault("containers", [])
    if not any(container["name"] == names.WORKER_CONTAINER for container in containers):
        containers.append({"name": names.WORKER_CONTAINER})
    for container in containers:
        if container["name"] == names.WORKER_CONTAINER:
            _complete_worker(container, grace_s, options)
            if wants_packages(study):
                add_packages(spec, container, f"{names.STUDY_FOLDER}/{_STUDY_FILE}", options)
            if options.image_pull_secrets:
                spec.setdefault(
                    "imagePullSecrets", [{"name": name} for name in options.image_pull_secrets]
                )
    volumes, mounts = _volumes(owner, study)
    known = definition_of(study)
    env, secrets = environment(owner.name, reach.proxies, reach.secret)
    return completed(
        template,
        labels=labels_of_pods(owner.labels(names.COMPONENT_WORKER), reach.storage),
        env=[
            *env,
            {
                "name": names.ENV_WORKER,
                "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}},
            },
            {"name": names.ENV_CHECKPOINT_ROOT, "value": _CHECKPOINTS},
            *([{"name": names.ENV_DEFINITION, "value": known}] if known else []),
        ],
        volumes=[*volumes, *secrets],
        mounts=mounts,
    )


def _complete_worker(container: Object, grace_s: int, options: OperatorOptions) -> None:
    ours = own_container(
        names.WORKER_CONTAINER,
        [
            "worker",
            f"--study={names.STUDY_FOLDER}/{_STUDY_FILE}",
            f"--grace={max(0, grace_s - _LAST_S)}",
        ],
        options,
        options.worker_image,
    )
    if "image" not in container:
        container["image"] = ours["image"]
        if "imagePullPolicy" in ours:
            container.setdefault("imagePullPolicy", ours["imagePullPolicy"])
    given = container.get("resources", {})
    if options.worker_resources and not ({"requests", "limits", "claims"} & given.keys()):
        container["resources"] = copy.deepcopy(dict(options.worker_resources))
    if "command" not in container and "args" not in container:
        container["command"], container["args"] = ours["command"], ours["args"]


def _volumes(owner: Owner, study: Study) -> tuple[list[Object], list[Object]]:
    sources: list[Object] = [{"configMap": {"name": names.study_config_name(owner.name)}}]
    python = study.spec.objective.python
    if python is not None and python.config_map is not None:
        item = {"key": python.config_map.key, "path": _OBJECTIVE_FILE}
        sources.append({"configMap": {"name": python.config_map.name, "items": [item]}})
    if python is not None and python.requirements is not None:
        held = python.requirements.config_map
        assert held is not None  # the cluster takes no other
        item = {"key": held.key, "path": REQUIREMENTS_FILE}
        sources.append({"configMap": {"name": held.name, "items": [item]}})
    volumes: list[Object] = [
        {"name": "trialfleet-study", "projected": {"sources": sources}},
        {"name": "trialfleet-checkpoints", "emptyDir": {}},
    ]
    mounts: list[Object] = [
        {"name": "trialfleet-study", "mountPath": names.STUDY_FOLDER, "readOnly": True},
        {"name": "trialfleet-checkpoints", "mountPath": _CHECKPOINTS},
    ]
    return volumes, mounts

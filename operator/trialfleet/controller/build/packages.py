"""What a worker's pod has for the packages that its objective asks for."""

import copy
from typing import Final

from trialfleet import names
from trialfleet.api.study import Study
from trialfleet.controller.build.pod_parts import own_container
from trialfleet.controller.options import OperatorOptions
from trialfleet.kube.objects import Object

REQUIREMENTS_FILE: Final = "requirements.txt"
"""Beside the manifest, where a ConfigMap holds it."""

_LINK: Final = f"{names.PACKAGES_FOLDER}/site"
_VOLUME: Final = "trialfleet-packages"


def wants_packages(study: Study) -> bool:
    """Whether something is to be installed before a worker starts."""
    python = study.spec.objective.python
    return python is not None and (python.packages is not None or python.requirements is not None)


def add_packages(spec: Object, worker: Object, study_file: str, options: OperatorOptions) -> None:
    """Add to a pod's spec what installs packages with the image of its worker, and their volume.

    They are kept in a volume that the worker mounts at ``names.PACKAGE_CACHE``, if it does; the
    worker's variables are pip's too, so that a study may name an index of its own.
    """
    mount = {"name": _VOLUME, "mountPath": names.PACKAGES_FOLDER}
    kept = [
        copy.deepcopy(one)
        for one in worker.get("volumeMounts", ())
        if one["mountPath"] == names.PACKAGE_CACHE
    ]
    cache = names.PACKAGE_CACHE if kept else f"{names.PACKAGES_FOLDER}/cache"
    given = copy.deepcopy(worker.get("env", []))
    known = {one["name"] for one in given}
    variables = {"PIP_NO_CACHE_DIR": "1", **options.package_variables}
    sources = copy.deepcopy(worker.get("envFrom", []))
    if options.package_secret:
        # Of two sources the last one counts, and a variable's own value before both.
        sources.insert(0, {"secretRef": {"name": options.package_secret, "optional": True}})
    container = own_container(
        names.PACKAGES_CONTAINER,
        ["packages", f"--study={study_file}", f"--cache={cache}", f"--link={_LINK}"],
        options,
        worker["image"],
        env=[
            *({"name": key, "value": text} for key, text in variables.items() if key not in known),
            *given,
        ],
        volumeMounts=[mount, *kept],
        resources=_without_devices(worker.get("resources", {})),
        envFrom=sources,
    )
    user = worker.get("securityContext", {})
    for field in user.keys() & {"runAsUser", "runAsGroup", "runAsNonRoot"}:
        container["securityContext"][field] = user[field]
    if "imagePullPolicy" in worker:
        container["imagePullPolicy"] = worker["imagePullPolicy"]
    spec["initContainers"] = [*spec.get("initContainers", ()), container]
    spec.setdefault("volumes", []).append({"name": _VOLUME, "emptyDir": {}})
    worker.setdefault("volumeMounts", []).append({**mount, "readOnly": True})
    worker.setdefault("env", []).append({"name": names.ENV_PACKAGES, "value": _LINK})


def _without_devices(resources: Object) -> Object:
    """Return what a container may use, without GPUs and other devices."""
    return {
        part: {name: amount for name, amount in resources[part].items() if "/" not in name}
        for part in ("requests", "limits")
        if part in resources
    }

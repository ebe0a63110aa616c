"""What a manifest says and one machine does not do: told by what it changes."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from trialfleet import names
from trialfleet.local import run_once

if TYPE_CHECKING:
    from trialfleet.api.pods import Container, PodSpec
    from trialfleet.api.study import StudySpec

_MEASURES: Final = {"memory": "memory", "cpu": "cores"}


def local_notices(spec: "StudySpec") -> Iterator[str]:
    """Yield a line for each thing that a run on this machine does otherwise than a cluster."""
    if spec.template is not None:
        yield from _pod("spec.template.spec", spec.template.spec)
        for container in spec.template.spec.containers or ():
            if container.name != names.WORKER_CONTAINER:
                yield (
                    f"spec.template.spec.containers: {container.name!r} is not started on one "
                    "machine: what trials want of it has to run already"
                )
        for container in spec.template.spec.init_containers or ():
            yield (
                f"spec.template.spec.initContainers: {container.name!r} does not run on one "
                "machine: what it makes has to be there already"
            )
    for name, template in (("prepare", spec.prepare), ("collate", spec.collate)):
        if template is None:
            continue
        left = run_once.without_command(template)
        if left:
            yield (
                f"spec.{name}: does not run on one machine: only the image of {left[0]!r} knows "
                "its program; it runs with a command in the manifest"
            )
        else:
            yield from _pod(f"spec.{name}.spec", template.spec)
    if spec.storage_name is not None:
        yield (
            f"spec.storage.name: not {spec.storage_name!r} but this machine keeps the trials, or "
            "the database of --storage"
        )
    if spec.ttl_seconds_after_finished is not None:
        yield "spec.ttlSecondsAfterFinished: the study stays: on one machine nothing deletes it"
    if spec.suspend:
        yield "spec.suspend: the study runs all the same: on one machine Ctrl-C suspends it"


def _pod(path: str, pod: "PodSpec") -> Iterator[str]:
    for container in pod.containers or ():
        if path == "spec.template.spec" and container.name != names.WORKER_CONTAINER:
            continue
        yield from _container(f"{path}.containers[{container.name}]", container)


def _container(path: str, container: "Container") -> Iterator[str]:
    if container.image is not None:
        yield (
            f"{path}.image: the programs and packages of this machine are used, not those of "
            f"{container.image}"
        )
    mounts = [mount.mount_path for mount in container.volume_mounts or ()]
    if mounts:
        yield f"{path}.volumeMounts: no volume, but what this machine has at {', '.join(mounts)}"
    if container.working_dir is not None:
        yield f"{path}.workingDir: programs run in the folder of the manifest"
    limits = container.resources.limits if container.resources is not None else None
    measures = [word for name, word in _MEASURES.items() if name in (limits or {})]
    if measures:
        yield f"{path}.resources.limits: no limit of {' and '.join(measures)} on one machine"
    missing = [
        variable.name
        for variable in container.env or ()
        if variable.value_from is not None and variable.name not in os.environ
    ]
    if missing:
        yield (
            f"{path}.env: {', '.join(missing)} not set: what it refers to is in the cluster; "
            "a variable of the same name that is set here is taken"
        )
    if container.env_from:
        yield f"{path}.envFrom: not read: the variables that are set here are taken"

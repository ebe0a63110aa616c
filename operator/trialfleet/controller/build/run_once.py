"""The Jobs that run once: before a study (prepare) and after it (collate)."""

import copy
from typing import Final

from trialfleet import names
from trialfleet.api.study import Study
from trialfleet.controller.build.pod_parts import SECRET_MOUNT, own_container
from trialfleet.controller.build.template import (
    completed,
    dump_template,
    environment,
    labels_of_pods,
)
from trialfleet.controller.build.worker_job import Reach
from trialfleet.controller.options import OperatorOptions
from trialfleet.kube.objects import Object, Owner

_RESULTS: Final = "/var/lib/trialfleet/results"

_BACKOFF_LIMIT: Final = 3

# The image has Python and no shell.
_WRITE_RESULTS: Final = f"""
import os, subprocess, sys
study, proxy, folder = map(
    os.environ.get, ("{names.ENV_STUDY}", "{names.ENV_PROXY}", "{names.ENV_RESULTS}")
)
for form in ("json", "csv"):
    with open(folder + "/trials." + form, "wb") as file:
        command = ["trialfleet", "trials", study, "--proxy", proxy, "--output", form]
        code = subprocess.call(command, stdout=file)
    if code:
        sys.exit(code)
"""


def build_prepare(owner: Owner, study: Study, *, reach: Reach, generation: int) -> Object:
    """Return the Job that runs before the first trial."""
    return _job(
        owner,
        names.prepare_job_name(owner.name),
        names.COMPONENT_PREPARE,
        _template(owner, dump_template(study.spec.prepare), names.COMPONENT_PREPARE, reach),
        generation,
    )


def build_collate(
    owner: Owner, study: Study, *, reach: Reach, generation: int, options: OperatorOptions
) -> Object:
    """Return the Job that runs after the last trial: all trials are in files when it starts."""
    template = _template(owner, dump_template(study.spec.collate), names.COMPONENT_COLLATE, reach)
    spec = template["spec"]
    where = {"name": names.ENV_RESULTS, "value": _RESULTS}
    mount = {"name": "trialfleet-results", "mountPath": _RESULTS}
    spec["volumes"].append({"name": "trialfleet-results", "emptyDir": {}})
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        container["env"].append(where)
        container["volumeMounts"].append(mount)
    writer = own_container(
        "trialfleet-results",
        [],
        options,
        None,
        env=[*environment(owner.name, reach.proxies, reach.secret)[0], where],
        volumeMounts=[mount, *([] if reach.secret is None else [SECRET_MOUNT])],
        resources={"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
    )
    writer["command"] = ["python3", "-c", _WRITE_RESULTS]
    del writer["args"]
    spec["initContainers"] = [writer, *spec.get("initContainers", ())]
    return _job(
        owner,
        names.collate_job_name(owner.name),
        names.COMPONENT_COLLATE,
        template,
        generation,
    )


def _template(owner: Owner, template: Object, component: str, reach: Reach) -> Object:
    env, volumes = environment(owner.name, reach.proxies, reach.secret)
    return completed(
        copy.deepcopy(template),
        labels=labels_of_pods(owner.labels(component), reach.storage),
        env=env,
        volumes=volumes,
        mounts=(),
    )


def _job(owner: Owner, name: str, component: str, template: Object, generation: int) -> Object:
    spec: Object = {"backoffLimit": _BACKOFF_LIMIT, "template": template}
    if template["spec"]["restartPolicy"] == "Never":
        disrupted = [{"type": "DisruptionTarget", "status": "True"}]
        spec["podFailurePolicy"] = {"rules": [{"action": "Ignore", "onPodConditions": disrupted}]}
        spec["podReplacementPolicy"] = "Failed"
    return owner.make(
        "batch/v1",
        "Job",
        name,
        component,
        annotations={names.ANNOTATION_GENERATION: str(generation)},
        spec=spec,
    )

"""What is added to a user's pod template; what the user says stays."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Final

from trialfleet import names
from trialfleet.api.base import Model
from trialfleet.controller.build import access
from trialfleet.controller.build.pod_parts import (
    SECRET_MOUNT,
    USER,
    container_security,
    secret_volume,
)
from trialfleet.kube.objects import Object

_SHORT_TOLERATIONS: Final = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")

_LOST_NODE_S: Final = 30
"""After which a pod on a node that is away is taken to be lost; Kubernetes' default is 300 s,
but a trial can be run again at once."""


def dump_template(template: Model | None) -> Object:
    """Return a pod template as it was written."""
    if template is None:
        return {}
    dumped: Object = template.model_dump(mode="json", by_alias=True, exclude_unset=True)
    clean: Object = without_nulls(dumped)
    return clean


def without_nulls(value: Any) -> Any:
    """Return a JSON value without the keys that are null: absent, to Kubernetes."""
    if isinstance(value, Mapping):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [without_nulls(part) for part in value]
    return value


def completed(
    template: Object,
    *,
    labels: Mapping[str, str],
    env: Iterable[Object],
    volumes: Iterable[Object],
    mounts: Iterable[Object],
) -> Object:
    """Return a pod template with all that a pod of a study needs.

    Each container gets the environment and the mounts: which of them wants a proxy only the user
    knows. The template's own variables and mounts win.
    """
    template = copy.deepcopy(template)
    volumes, mounts = list(volumes), list(mounts)
    if any(volume["name"] == SECRET_MOUNT["name"] for volume in volumes):
        mounts.append(SECRET_MOUNT)
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = {**metadata.get("labels", {}), **labels}
    spec = template.setdefault("spec", {})
    spec.setdefault("restartPolicy", "Never")
    spec.setdefault("enableServiceLinks", False)
    # A study's pods have nothing to ask of the API server.
    spec.setdefault("automountServiceAccountToken", False)
    spec.setdefault("tolerations", []).extend(_tolerations(spec["tolerations"]))
    if not spec["tolerations"]:
        del spec["tolerations"]
    spec["volumes"] = _joined(volumes, spec.get("volumes", ()), "name")
    _secure(spec)
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        container["env"] = _joined(env, container.get("env", ()), "name")
        container["volumeMounts"] = _joined(mounts, container.get("volumeMounts", ()), "mountPath")
        container.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")
    return template


def _joined(ours: Iterable[Object], theirs: Iterable[Object], key: str) -> list[Object]:
    theirs = list(theirs)
    taken = {one[key] for one in theirs}
    return [*(dict(one) for one in ours if one[key] not in taken), *theirs]


def _tolerations(given: list[Object]) -> list[Object]:
    keys = {toleration.get("key") for toleration in given}
    if None in keys:
        return []  # everything is tolerated already
    return [
        {
            "key": key,
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": _LOST_NODE_S,
        }
        for key in _SHORT_TOLERATIONS
        if key not in keys
    ]


def _secure(spec: Object) -> None:
    """Fill in what Pod Security ``restricted`` asks for and the template leaves open."""
    security = spec.setdefault("securityContext", {})
    containers = [*spec.get("initContainers", ()), *spec["containers"]]
    own = [container.get("securityContext", {}) for container in containers]
    if not any("runAsUser" in one or "runAsNonRoot" in one for one in (security, *own)):
        # An image whose user is root, or a name, would not start as "not root" without a number.
        security |= {"runAsUser": USER, "runAsGroup": USER, "runAsNonRoot": True}
        security.setdefault("fsGroup", USER)
    security.setdefault("runAsNonRoot", True)
    security.setdefault("seccompProfile", {"type": "RuntimeDefault"})
    for container in containers:
        defaults = container_security(read_only=False)
        container["securityContext"] = {**defaults, **container.get("securityContext", {})}


def environment(study: str, proxies: str, secret: str | None) -> tuple[list[Object], list[Object]]:
    """Return the environment and the volumes by which a pod of a study reaches its storage.

    ``secret`` is the name of the study's own, None where nothing is encrypted.
    """
    env: list[Object] = [
        {"name": names.ENV_PROXY, "value": proxies},
        {"name": names.ENV_STUDY, "value": study},
    ]
    if secret is None:
        return env, []
    env += [
        {"name": names.ENV_TOKEN_FILE, "value": f"{access.FOLDER}/{access.TOKEN}"},
        {"name": names.ENV_CA_FILE, "value": f"{access.FOLDER}/{access.CA}"},
    ]
    return env, [secret_volume(secret, (access.TOKEN, access.CA))]


def labels_of_pods(owner_labels: Mapping[str, str], storage: str) -> dict[str, str]:
    """Return the labels of a study's pods: also the storage's, by which they may reach it."""
    return {**owner_labels, names.LABEL_STORAGE: storage}

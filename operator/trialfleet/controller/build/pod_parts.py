"""What all pods that the operator makes have in common: Pod Security ``restricted``, no token."""

from collections.abc import Sequence
from typing import Any, Final

from trialfleet import names
from trialfleet.api.pods import Resources
from trialfleet.controller.build.access import FOLDER
from trialfleet.controller.options import OperatorOptions
from trialfleet.kube.objects import Object

USER: Final = 65532
"""The user that our images run as; any will do."""

_POD_ADDRESS: Final = "TRIALFLEET_POD_IP"

POD_ADDRESS_VARIABLE: Final[Object] = {
    "name": _POD_ADDRESS,
    "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
}
"""Environment variable with the pod's address, to listen on."""

POD_ADDRESS: Final = f"$({_POD_ADDRESS})"


SECRET_MOUNT: Final[Object] = {
    "name": "trialfleet-secret",
    "mountPath": FOLDER,
    "readOnly": True,
}
"""Mounts what ``secret_volume`` has."""


def secret_volume(secret: str, keys: Sequence[str]) -> Object:
    """Return the volume with some keys of a Secret, for ``SECRET_MOUNT``."""
    return {
        "name": "trialfleet-secret",
        "secret": {
            "secretName": secret,
            "defaultMode": 0o440,
            "items": [{"key": key, "path": key} for key in keys],
        },
    }


def pod_security(user: int = USER) -> Object:
    """Return the security context of a pod under ``restricted``."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        # Else a large volume is walked through at each start.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(*, read_only: bool = True) -> Object:
    """Return the security context of a container under ``restricted``."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": read_only,
    }


def own_container(
    name: str, args: Sequence[str], options: OperatorOptions, image: str | None, **more: Any
) -> Object:
    """Return a container that runs the command ``trialfleet``."""
    container: Object = {
        "name": name,
        "image": image or options.image,
        "command": ["trialfleet"],
        "args": list(args),
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **more,
    }
    if options.image_pull_policy:
        container["imagePullPolicy"] = options.image_pull_policy
    return container


def own_pod(containers: Sequence[Object], options: OperatorOptions, **more: Any) -> Object:
    """Return the spec of a pod of ours."""
    spec: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "containers": list(containers),
        **more,
    }
    if options.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in options.image_pull_secrets]
    return spec


def resources(given: Resources | None, **defaults: str) -> Object:
    """Return what a container may use: as given, else requests, and the memory as a limit.

    A ResourceQuota on memory refuses pods without the limit.
    """
    if given is not None:
        dumped: Object = given.model_dump(mode="json", by_alias=True, exclude_none=True)
        return dumped
    limits = {key: value for key, value in defaults.items() if key == "memory"}
    return {"requests": dict(defaults), "limits": limits}


def service_address(service: str, namespace: str, port: int) -> str:
    """Return HOST:PORT of a Service."""
    return f"{service}.{namespace}.svc:{port}"


def proxy_addresses(storage: str, namespace: str, placement: str) -> str:
    """Return where workers find the proxies of a storage, the nearest first."""
    services = [names.proxy_service(storage)]
    if placement == "Node":
        services.insert(0, names.node_proxy_service(storage))
    return ",".join(service_address(one, namespace, names.PROXY_PORT) for one in services)

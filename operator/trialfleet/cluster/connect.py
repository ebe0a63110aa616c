"""From the name of a study in a cluster to its trials."""

import contextlib
import os
import tempfile
from base64 import b64decode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from trialfleet import names
from trialfleet.client import FleetStorage
from trialfleet.cluster.namespace import PODS, SECRETS, STORAGES, STUDIES, Namespace, Object
from trialfleet.cluster.pod_states import is_ready
from trialfleet.cluster.tunnel import Tunnel
from trialfleet.model import errors

PATIENCE_S: Final = 10.0
"""For which a proxy that was ready is called."""


def find_study(namespace: Namespace, name: str | None) -> Object:
    """Return the Study of a name, or the only one of the namespace.

    Raises ``InvalidInput`` if there is none, or several and no name.
    """
    if name is not None:
        found = namespace.find(STUDIES, name)
        if found is not None:
            return found
    studies = namespace.list(STUDIES)
    if not studies:
        raise errors.InvalidInput(
            f"STUDY: there is no study in {namespace}; accepted: another --namespace, or a new "
            "one: trialfleet submit FILE"
        )
    if name is None and len(studies) == 1:
        return studies[0]
    listed = ", ".join(sorted(one["metadata"]["name"] for one in studies))
    told = "missing" if name is None else f"found {name!r}"
    raise errors.InvalidInput(f"STUDY: {told}, accepted in {namespace}: {listed}")


def storage_name(study: Mapping[str, Any]) -> str:
    """Return the name of the StudyStorage that holds a study's trials."""
    own = study.get("status", {}).get("storage") or study["spec"].get("storage", {}).get("name")
    return str(own or study["metadata"]["name"])


@contextlib.contextmanager
def open_trials(namespace: Namespace, study: Mapping[str, Any]) -> Iterator[FleetStorage]:
    """Give the storage of a study, through a proxy's pod, with the study's own token.

    Token and certificate are in files that only this user can read, for as long as this lasts.

    Raises:
        StorageUnavailable: No proxy is ready, or the one that is does not answer.
        ClusterUnavailable: The API server does not answer.
        PermissionDenied: The user may not read the study's Secret, or not forward ports.
    """
    name, storage = study["metadata"]["name"], storage_name(study)
    tls = _is_encrypted(namespace, storage, name)
    pod = _ready_proxy(namespace, storage, name)
    with tempfile.TemporaryDirectory(prefix="trialfleet-") as folder:
        token = ca = server_name = ""
        if tls:
            data = _access(namespace, name)
            token = _write(Path(folder, names.ACCESS_TOKEN), data[names.ACCESS_TOKEN])
            ca = _write(Path(folder, names.ACCESS_CA), data[names.ACCESS_CA])
            server_name = names.proxy_host(storage, namespace.name)
        with Tunnel(namespace, pod, names.PROXY_PORT) as tunnel:
            client = FleetStorage(
                tunnel.address,
                patience_s=PATIENCE_S,
                token_file=token,
                ca_file=ca,
                server_name=server_name,
            )
            try:
                yield client
            except errors.StorageUnavailable as error:
                if not tunnel.broken:
                    raise
                raise errors.StorageUnavailable(f"{error}: pod {pod}: {tunnel.broken}") from error
            finally:
                client.close()


def _is_encrypted(namespace: Namespace, storage: str, study: str) -> bool:
    found = namespace.find(STORAGES, storage)
    if found is None:
        raise errors.StorageUnavailable(
            f"study {study!r}: there is no storage {storage!r} in {namespace}; {_why(study)}"
        )
    if found.get("status", {}).get("phase") == "Asleep":
        raise errors.StorageUnavailable(
            f"study {study!r}: its storage {storage!r} sleeps in {namespace}; wake it: trialfleet "
            f"storage wake {storage} --namespace {namespace.name}"
        )
    return bool(found["spec"].get("security", {}).get("tls", True))


def _ready_proxy(namespace: Namespace, storage: str, study: str) -> str:
    labels = f"{names.LABEL_STORAGE}={storage},{names.LABEL_COMPONENT}={names.COMPONENT_PROXY}"
    pods = namespace.list(PODS, labels=labels)
    for pod in pods:
        if is_ready(pod):
            return str(pod["metadata"]["name"])
    raise errors.StorageUnavailable(
        f"study {study!r}: no proxy of the storage {storage!r} is ready ({len(pods)} in "
        f"{namespace}); {_why(study)}"
    )


def _access(namespace: Namespace, study: str) -> dict[str, bytes]:
    labels = f"{names.LABEL_STUDY}={study},{names.LABEL_COMPONENT}={names.COMPONENT_STUDY}"
    secrets = namespace.list(SECRETS, labels=labels)
    if not secrets:
        raise errors.StorageUnavailable(
            f"study {study!r}: it has no Secret with its token yet in {namespace}; {_why(study)}"
        )
    newest = max(secrets, key=lambda one: str(one["metadata"].get("creationTimestamp")))
    return {key: b64decode(text) for key, text in newest.get("data", {}).items()}


def _why(study: str) -> str:
    return f"what is in the way: trialfleet why {study}"


def _write(path: Path, content: bytes) -> str:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    return str(path)

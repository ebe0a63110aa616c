"""PostgreSQL: a StatefulSet of our own, or a Cluster of CloudNativePG.

Our own runs ``trialfleet postgres`` in the operator's image by default: PostgreSQL comes with the
package for local runs, so a cluster has one image less to pull. Any image that takes the official
one's variables (POSTGRES_USER, POSTGRES_PASSWORD_FILE, PGDATA ...) may take its place.
"""

from typing import Final

from trialfleet import names
from trialfleet.api.study_storage import CloudNativePG, ManagedPostgres, StudyStorageSpec, Volume
from trialfleet.controller.build import access
from trialfleet.controller.build.objects import Object, Owner, without_empty
from trialfleet.controller.build.pods import (
    POD_ADDRESS,
    POD_ADDRESS_VARIABLE,
    SECRET_MOUNT,
    own_container,
    own_pod,
    pod_security,
    resources,
    secret_volume,
)
from trialfleet.controller.options import Options

CNPG_API: Final = "postgresql.cnpg.io/v1"

_DATA: Final = "/var/lib/postgresql/data"

_AUTHORITY: Final = "/run/postgres-authority"

_OFFICIAL_USER: Final = 999
"""The user ``postgres`` of the official image for Debian."""

_GRACE_S: Final = 60
"""For the checkpoint of a server that stops."""


def build_service(owner: Owner) -> Object:
    """Return the Service in front of the server."""
    labels = selector(owner)
    return owner.make(
        "v1",
        "Service",
        names.postgres_service(owner.name),
        names.COMPONENT_POSTGRES,
        spec={
            "selector": labels,
            "ports": [
                {
                    "name": "postgres",
                    "port": names.POSTGRES_PORT,
                    "targetPort": "postgres",
                    "protocol": "TCP",
                }
            ],
        },
    )


def build_stateful_set(
    owner: Owner, spec: StudyStorageSpec, options: Options, secret: str
) -> Object:
    """Return the StatefulSet of one server; ``secret`` is the name of the storage's."""
    managed = spec.postgres.managed or ManagedPostgres()
    labels = owner.labels(names.COMPONENT_POSTGRES)
    pod = own_pod(
        [_container(managed, options, tls=spec.security.tls)],
        options,
        terminationGracePeriodSeconds=_GRACE_S,
        volumes=[
            secret_volume(secret, _held(tls=spec.security.tls)),
            {"name": "tmp", "emptyDir": {}},
            {"name": "run", "emptyDir": {}},
        ],
    )
    if managed.image:
        pod["securityContext"] = pod_security(_OFFICIAL_USER)
    stateful_set: Object = {
        "replicas": 1,
        "serviceName": names.postgres_service(owner.name),
        "selector": {"matchLabels": selector(owner)},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    if managed.empty_dir is not None:
        limit = managed.empty_dir.size_limit
        directory = {} if limit is None else {"sizeLimit": limit}
        pod["volumes"].append({"name": "data", "emptyDir": directory})
        # A new pod has no data: not even a new image is worth that.
        stateful_set["updateStrategy"] = {"type": "OnDelete"}
    else:
        stateful_set["volumeClaimTemplates"] = [_claim(managed.volume or Volume())]
        stateful_set["persistentVolumeClaimRetentionPolicy"] = {
            "whenDeleted": spec.retention,
            "whenScaled": "Retain",
        }
    return owner.make(
        "apps/v1",
        "StatefulSet",
        names.postgres_name(owner.name),
        names.COMPONENT_POSTGRES,
        spec=stateful_set,
    )


def build_cnpg_cluster(owner: Owner, given: CloudNativePG) -> Object:
    """Return the Cluster of CloudNativePG; its operator makes the Secret with the URL."""
    storage = without_empty(
        {
            "size": str(given.volume.size),
            "storageClass": given.volume.storage_class_name,
        }
    )
    cluster = without_empty(
        {
            "instances": given.instances,
            "imageName": given.image,
            "storage": storage,
            "bootstrap": {"initdb": {"database": names.APP, "owner": names.APP}},
            "resources": None if given.resources is None else resources(given.resources),
            "inheritedMetadata": {"labels": {names.LABEL_STORAGE: owner.name}},
        }
    )
    return owner.make(
        CNPG_API,
        "Cluster",
        names.postgres_name(owner.name),
        names.COMPONENT_POSTGRES,
        spec=cluster,
    )


def url_source(storage: str, spec: StudyStorageSpec, secret: str) -> tuple[str, str]:
    """Return name and key of the Secret that holds the database's URL."""
    if spec.postgres.external is not None:
        reference = spec.postgres.external.secret_ref
        return reference.name, reference.key
    if spec.postgres.cloud_native_pg is not None:
        return f"{names.postgres_name(storage)}-app", "uri"
    return secret, access.URL


def cnpg_trust(storage: str) -> tuple[list[Object], Object, Object]:
    """Return what lets libpq know CloudNativePG's server: environment, volume and mount.

    Its URL says nothing of encryption, and libpq would then take any server.
    """
    environment: list[Object] = [
        {"name": "PGSSLMODE", "value": "verify-full"},
        {"name": "PGSSLROOTCERT", "value": f"{_AUTHORITY}/ca.crt"},
    ]
    # The Secret also has the authority's key, which stays where it is.
    secret = {
        "secretName": f"{names.postgres_name(storage)}-ca",
        "defaultMode": 0o440,
        "items": [{"key": "ca.crt", "path": "ca.crt"}],
    }
    volume: Object = {"name": "postgres-authority", "secret": secret}
    mount: Object = {"name": "postgres-authority", "mountPath": _AUTHORITY, "readOnly": True}
    return environment, volume, mount


def _held(*, tls: bool) -> tuple[str, ...]:
    certificate = (access.POSTGRES_CERTIFICATE, access.POSTGRES_KEY) if tls else ()
    return (access.PASSWORD, *certificate)


def _container(managed: ManagedPostgres, options: Options, *, tls: bool) -> Object:
    certificate, key = (
        f"{access.FOLDER}/{one}" for one in (access.POSTGRES_CERTIFICATE, access.POSTGRES_KEY)
    )
    more: Object = {
        "env": [
            POD_ADDRESS_VARIABLE,
            {"name": "PGDATA", "value": f"{_DATA}/pgdata"},
            {"name": "POSTGRES_USER", "value": names.APP},
            {"name": "POSTGRES_DB", "value": names.APP},
            {"name": "POSTGRES_PASSWORD_FILE", "value": f"{access.FOLDER}/{access.PASSWORD}"},
        ],
        "ports": [{"name": "postgres", "containerPort": names.POSTGRES_PORT, "protocol": "TCP"}],
        # The port opens when the server has started; whether its schema is right, proxies say.
        "readinessProbe": {"tcpSocket": {"port": "postgres"}, "periodSeconds": 2},
        "resources": resources(managed.resources, cpu="100m", memory="512Mi"),
        "volumeMounts": [
            {"name": "data", "mountPath": _DATA},
            SECRET_MOUNT,
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "run", "mountPath": "/var/run/postgresql"},
        ],
    }
    args = ["postgres", f"--listen={POD_ADDRESS}:{names.POSTGRES_PORT}"]
    if tls:
        args += [f"--tls-cert={certificate}", f"--tls-key={key}"]
    container = own_container("postgres", args, options, managed.image, **more)
    if managed.image:
        for part in ("command", "args", "imagePullPolicy"):
            container.pop(part, None)
        settings = ["max_connections=500"]
        if tls:
            settings += ["ssl=on", f"ssl_cert_file={certificate}", f"ssl_key_file={key}"]
        container["args"] = ["postgres", *(part for one in settings for part in ("-c", one))]
    return container


def _claim(volume: Volume) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": without_empty(
            {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": volume.storage_class_name,
                "resources": {"requests": {"storage": str(volume.size)}},
            }
        ),
    }


def selector(owner: Owner) -> dict[str, str]:
    """Return the labels that tell the pod of a storage's PostgreSQL."""
    return {
        names.LABEL_STORAGE: owner.name,
        names.LABEL_COMPONENT: names.COMPONENT_POSTGRES,
    }

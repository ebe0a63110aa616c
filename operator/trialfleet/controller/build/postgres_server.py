"""PostgreSQL: a StatefulSet of our own, or a Cluster of CloudNativePG.

Our own runs the official image, ``docker.io/library/postgres``, by its own entry point, or another
one that has its interface: https://github.com/docker-library/docs/blob/master/postgres/README.md
"""

from typing import Final

from trialfleet import names
from trialfleet.api.study_storage import (
    CloudNativePG,
    DatabaseVolume,
    ManagedPostgres,
    StudyStorageSpec,
)
from trialfleet.controller.build import access
from trialfleet.controller.build.pod_parts import (
    SECRET_MOUNT,
    container_security,
    own_pod,
    pod_security,
    resources,
    secret_volume,
)
from trialfleet.controller.options import OperatorOptions
from trialfleet.kube.kinds import CNPG
from trialfleet.kube.objects import Object, Owner, without_empty

_DATA: Final = "/var/lib/postgresql/data"

_AUTHORITY: Final = "/run/postgres-authority"

POSTGRES_USER_ID: Final = 999
"""The user ``postgres`` of the official image for Debian."""

_CONNECTIONS: Final = 500

_CHECK_DATA: Final = """\
test -s "$PGDATA/PG_VERSION" || exit 0
made=$(cat "$PGDATA/PG_VERSION")
image=$(postgres --version)
image=${image#*) }
image=${image%%[!0-9]*}
if [ "$made" != "$image" ]; then
  echo "the data folder was made by PostgreSQL $made, the image has $image: name an image of" \\
    "$made again, or dump and restore (docs/disasters.md)" >&2
  exit 1
fi
echo "ALTER ROLE $POSTGRES_USER PASSWORD '$(cat "$POSTGRES_PASSWORD_FILE")'" |
  postgres --single -D "$PGDATA" -c exit_on_error=on postgres
"""
"""No server reads the data of another major version, and the image sets the password of a new
database only, where the Secret's may be another by now."""

_ASK: Final = f"pg_isready -q -h 127.0.0.1 -U {names.APP}"
"""While its entry point makes the database the server listens on no address yet."""
_UNTIL_STARTED: Final = f"until {_ASK} -t 1; do sleep 0.2; done"
_UNLESS_SILENT: Final = f"{_ASK} -t 5; [ $? -ne 2 ]"
_START_S: Final = 600
_START_TRIES: Final = 6
"""An hour for a start, before it is tried again."""

_GRACE_S: Final = 60
"""For the checkpoint of a server that stops."""
_HUNG_GRACE_S: Final = 5
"""One that does not answer takes no signal either, and recovers when it is started again."""


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
            # There is one server, and proxies ask again until it answers: to wait until its pod is
            # counted as ready, and all nodes know that, would only take seconds more.
            "publishNotReadyAddresses": True,
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
    owner: Owner, spec: StudyStorageSpec, options: OperatorOptions, secret: str, *, asleep: bool
) -> Object:
    """Return the StatefulSet of one server, or none; ``secret`` is the name of the storage's."""
    managed = spec.postgres.managed or ManagedPostgres()
    labels = owner.labels(names.COMPONENT_POSTGRES)
    pod = own_pod(
        [_server(managed, options, tls=spec.security.tls)],
        options,
        initContainers=[_password_setter(managed, options)],
        terminationGracePeriodSeconds=_GRACE_S,
        volumes=[
            secret_volume(secret, _held(tls=spec.security.tls)),
            {"name": "tmp", "emptyDir": {}},
            {"name": "run", "emptyDir": {}},
        ],
    )
    pod["securityContext"] = pod_security(POSTGRES_USER_ID)
    stateful_set: Object = {
        "replicas": 0 if asleep else 1,
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
        stateful_set["volumeClaimTemplates"] = [_claim(managed.volume or DatabaseVolume())]
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
        CNPG.api_version,
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
    return (access.PASSWORD, access.POSTGRES_RULES, *certificate)


def _server(managed: ManagedPostgres, options: OperatorOptions, *, tls: bool) -> Object:
    settings = {
        "max_connections": _CONNECTIONS,
        "hba_file": f"{access.FOLDER}/{access.POSTGRES_RULES}",
    }
    if tls:
        # A key that is root's may be readable by the group, which is fsGroup's.
        settings |= {
            "ssl": "on",
            "ssl_cert_file": f"{access.FOLDER}/{access.POSTGRES_CERTIFICATE}",
            "ssl_key_file": f"{access.FOLDER}/{access.POSTGRES_KEY}",
        }
    arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return {
        **_container("postgres", managed, options),
        # Arguments alone: the image's own entry point makes the database and starts the server.
        "args": ["postgres", *arguments],
        "ports": [{"name": "postgres", "containerPort": names.POSTGRES_PORT, "protocol": "TCP"}],
        # Waits for the server instead of asking again and again: to make a database, or to
        # recover one, takes as long as it takes, and each failed probe would be a Warning.
        "startupProbe": {
            "exec": {"command": ["sh", "-c", _UNTIL_STARTED]},
            "periodSeconds": 1,
            "timeoutSeconds": _START_S,
            "failureThreshold": _START_TRIES,
        },
        # The port opens when the server has started; whether its schema is right, proxies say.
        "readinessProbe": {"tcpSocket": {"port": "postgres"}, "periodSeconds": 2},
        # One that is stopped or hangs still has an open port: it has to answer. That it lets
        # nobody in, while it recovers, is an answer.
        "livenessProbe": {
            "exec": {"command": ["sh", "-c", _UNLESS_SILENT]},
            "periodSeconds": 10,
            "timeoutSeconds": 10,
            "failureThreshold": 3,
            "terminationGracePeriodSeconds": _HUNG_GRACE_S,
        },
    }


def _password_setter(managed: ManagedPostgres, options: OperatorOptions) -> Object:
    return {
        **_container("password", managed, options),
        "command": ["sh", "-euc", _CHECK_DATA],
    }


def _container(name: str, managed: ManagedPostgres, options: OperatorOptions) -> Object:
    container: Object = {
        "name": name,
        "image": managed.image or options.postgres_image,
        "env": [
            {"name": "PGDATA", "value": f"{_DATA}/pgdata"},
            {"name": "POSTGRES_USER", "value": names.APP},
            {"name": "POSTGRES_DB", "value": names.APP},
            {"name": "POSTGRES_PASSWORD_FILE", "value": f"{access.FOLDER}/{access.PASSWORD}"},
            # Nothing depends on the locales that an image happens to have.
            {"name": "POSTGRES_INITDB_ARGS", "value": "--encoding=UTF8 --locale=C"},
        ],
        "resources": resources(managed.resources, cpu="100m", memory="512Mi"),
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "data", "mountPath": _DATA},
            SECRET_MOUNT,
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "run", "mountPath": "/var/run/postgresql"},
        ],
    }
    if options.image_pull_policy and not managed.image:
        container["imagePullPolicy"] = options.image_pull_policy
    return container


def _claim(volume: DatabaseVolume) -> Object:
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

"""Backups of a managed PostgreSQL: a CronJob that makes dumps, and one of which restores are made.

The second is suspended for ever. A Job that is made of it (``kubectl create job --from``) reaches
the database and the dumps, and nobody has to write its pod by hand.
"""

from importlib import resources
from typing import Final

from trialfleet import names
from trialfleet.api.backup import Backup
from trialfleet.api.study_storage import ManagedPostgres, StudyStorageSpec
from trialfleet.controller.build import access
from trialfleet.controller.build.pod_parts import (
    SECRET_MOUNT,
    container_security,
    own_pod,
    pod_security,
    secret_volume,
)
from trialfleet.controller.build.pod_parts import (
    resources as pod_resources,
)
from trialfleet.controller.build.postgres_server import POSTGRES_USER_ID
from trialfleet.controller.options import OperatorOptions
from trialfleet.kube.objects import Object, Owner, without_empty

_DUMPS: Final = "/backups"

_SIZE: Final = "10Gi"

_TRIES: Final = 4
"""Further ones, seconds to minutes apart: the database may be about to start."""

_LATE_S: Final = 3600
"""How late a dump may begin, when Kubernetes was away or the storage slept."""

_LONGEST_S: Final = 6 * 3600
"""Of one that hangs, so that the next may run."""


def _script(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def build_claim(owner: Owner, backup: Backup, *, retention: str) -> Object | None:
    """Return the claim for the dumps; None if one is named that exists.

    It outlives the storage, unless its data are to go with it.
    """
    if backup.volume.claim_name is not None:
        return None
    claim = owner.make(
        "v1",
        "PersistentVolumeClaim",
        names.backup_name(owner.name),
        names.COMPONENT_BACKUP,
        spec=without_empty(
            {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": backup.volume.storage_class_name,
                "resources": {"requests": {"storage": str(backup.volume.size or _SIZE)}},
            }
        ),
    )
    if retention == "Retain":
        del claim["metadata"]["ownerReferences"]
    return claim


def build_cron_jobs(
    owner: Owner, spec: StudyStorageSpec, options: OperatorOptions, secret: str, *, suspended: bool
) -> list[Object]:
    """Return the CronJob that makes dumps, and the one of which restores are made."""
    backup = spec.backup
    assert backup is not None

    def cron_job(
        name: str, component: str, container: Object, *, suspended: bool, tries: int
    ) -> Object:
        labels = owner.labels(component)
        pod = own_pod(
            [container],
            options,
            restartPolicy="Never",
            volumes=[
                *([secret_volume(secret, [access.CA])] if spec.security.tls else []),
                {
                    "name": "dumps",
                    "persistentVolumeClaim": {
                        "claimName": backup.volume.claim_name or names.backup_name(owner.name)
                    },
                },
            ],
        )
        pod["securityContext"] = pod_security(POSTGRES_USER_ID)
        disrupted = [{"type": "DisruptionTarget", "status": "True"}]
        return owner.make(
            "batch/v1",
            "CronJob",
            name,
            component,
            spec={
                "schedule": backup.schedule,
                "suspend": suspended,
                "timeZone": "Etc/UTC",
                "concurrencyPolicy": "Forbid",
                "startingDeadlineSeconds": _LATE_S,
                "successfulJobsHistoryLimit": 1,
                "failedJobsHistoryLimit": 1,
                "jobTemplate": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "activeDeadlineSeconds": _LONGEST_S,
                        "podFailurePolicy": {
                            "rules": [{"action": "Ignore", "onPodConditions": disrupted}]
                        },
                        "template": {"metadata": {"labels": labels}, "spec": pod},
                        "backoffLimit": tries,
                    },
                },
            },
        )

    keep = {"name": "KEEP", "value": str(backup.keep)}
    dumps = cron_job(
        names.backup_name(owner.name),
        names.COMPONENT_BACKUP,
        _container("backup", "back_up.sh", owner, spec, options, secret, keep),
        suspended=suspended,
        tries=_TRIES,
    )
    restores = cron_job(
        names.restore_name(owner.name),
        names.COMPONENT_RESTORE,
        _container("restore", "restore.sh", owner, spec, options, secret),
        suspended=True,
        tries=0,
    )
    return [dumps, restores]


def _container(
    name: str,
    script: str,
    owner: Owner,
    spec: StudyStorageSpec,
    options: OperatorOptions,
    secret: str,
    *more: Object,
) -> Object:
    managed = spec.postgres.managed or ManagedPostgres()
    host = f"{names.postgres_service(owner.name)}.{owner.namespace}.svc"
    settings = {
        "PGHOST": host,
        "PGPORT": str(names.POSTGRES_PORT),
        "PGUSER": names.APP,
        "PGDATABASE": names.APP,
        "PGCONNECT_TIMEOUT": "10",
        "FOLDER": f"{_DUMPS}/{owner.name}",
        "LC_ALL": "C",
    }
    # libpq refuses a file of passwords that its group may read, as a Secret's is.
    password = {"secretKeyRef": {"name": secret, "key": access.PASSWORD}}
    mounts = [{"name": "dumps", "mountPath": _DUMPS}]
    if spec.security.tls:
        settings |= {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": f"{access.FOLDER}/{access.CA}"}
        mounts.append(SECRET_MOUNT)
    container: Object = {
        "name": name,
        "image": managed.image or options.postgres_image,
        "command": ["sh", "-euc", _script(script)],
        "env": [
            *({"name": key, "value": value} for key, value in settings.items()),
            {"name": "PGPASSWORD", "valueFrom": password},
            *more,
        ],
        "resources": pod_resources(None, cpu="100m", memory="256Mi"),
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }
    if options.image_pull_policy and not managed.image:
        container["imagePullPolicy"] = options.image_pull_policy
    return container

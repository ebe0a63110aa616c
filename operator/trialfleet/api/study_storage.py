"""The resource StudyStorage: where trials are kept, and the proxies in front of it."""

import datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from trialfleet.api.backup import Backup
from trialfleet.api.base import (
    ACCEPTED,
    OPEN,
    RULES,
    Condition,
    DnsSubdomain,
    Duration,
    Finding,
    Model,
    ObjectMeta,
    Quantity,
    SecretKey,
    Text,
    broken,
    broken_at,
    count_given,
    exactly_one,
    found_fields,
    rule,
)
from trialfleet.api.pods import Resources
from trialfleet.api.suggestions import found

_ONE_POSTGRES: Final = "accepted: exactly one of managed, cloudNativePG and external"
_ONE_VOLUME: Final = "accepted: at most one of volume and emptyDir"
_POSTGRES_FIXED: Final = (
    "where PostgreSQL is can't change once the storage exists: make a storage of another name"
)
_STORAGE_NAME: Final = "accepted: at most 48 characters without '.', as pods are named after it"
_UUID: Final = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_PER_REPLICA: Final = "workersPerReplica has an effect with placement Shared only"
_BACKUP_NAME: Final = (
    "accepted with spec.backup: at most 41 characters, as a CronJob is named after it"
)
_MANAGED_ONLY: Final = (
    "has an effect with postgres.managed only: CloudNativePG has backups of its own, and an "
    "external PostgreSQL is backed up where it runs"
)


class DatabaseVolume(Model):
    """A persistent volume."""

    size: Quantity = "10Gi"
    """Size of the volume; can grow where its class allows it."""
    storage_class_name: DnsSubdomain | None = None
    """StorageClass; absent: the cluster's default."""


class EmptyDir(Model):
    """A volume that is gone with its pod, and all trials with it."""

    size_limit: Quantity | None = None
    """The pod is evicted beyond this."""


class ManagedPostgres(Model):
    """PostgreSQL run by Trialfleet: a StatefulSet of one pod."""

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                rule(f"{count_given('volume', 'emptyDir')} <= 1", _ONE_VOLUME),
                rule("has(self.emptyDir) == has(oldSelf.emptyDir)", _POSTGRES_FIXED),
            ]
        }
    )

    volume: DatabaseVolume | None = None
    """Where the data is; absent, and no emptyDir either: a volume of 10Gi of the default class."""
    empty_dir: EmptyDir | None = None
    """Keep the data in the pod only: for trying things out."""
    image: Text | None = None
    """Image of PostgreSQL, with the interface of the official one; absent: that one, or what the
    operator was installed with."""
    resources: Resources | None = None
    """Resources of the pod."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.volume is not None and self.empty_dir is not None:
            raise broken(f"found volume and emptyDir, {_ONE_VOLUME}")
        return self


class CloudNativePG(Model):
    """PostgreSQL run by CloudNativePG, whose CRDs must be installed."""

    instances: Annotated[int, Field(ge=1, le=9)] = 3
    """Servers: one primary, the others replicas."""
    volume: DatabaseVolume = DatabaseVolume()
    """Where each server's data is."""
    image: Text | None = None
    """Image of PostgreSQL; absent: CloudNativePG's default."""
    resources: Resources | None = None
    """Resources of each pod."""


class ExternalPostgres(Model):
    """PostgreSQL that someone else runs."""

    secret_ref: SecretKey
    """The Secret with the database's URL: `postgresql://user:password@host:port/database`."""


class PostgresSettings(Model):
    """Where PostgreSQL is: exactly one of managed, cloudNativePG and external."""

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                rule(exactly_one("managed", "cloudNativePG", "external"), _ONE_POSTGRES),
                rule(
                    "has(self.managed) == has(oldSelf.managed) && "
                    "has(self.cloudNativePG) == has(oldSelf.cloudNativePG)",
                    _POSTGRES_FIXED,
                ),
            ]
        }
    )

    managed: ManagedPostgres | None = None
    """PostgreSQL run by Trialfleet."""
    cloud_native_pg: CloudNativePG | None = Field(default=None, alias="cloudNativePG")
    """PostgreSQL run by CloudNativePG."""
    external: ExternalPostgres | None = None
    """PostgreSQL that someone else runs."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        kinds = ("managed", "cloud_native_pg", "external")
        if sum(getattr(self, kind) is not None for kind in kinds) != 1:
            raise broken(f"{found_fields(self, *kinds)}, {_ONE_POSTGRES}")
        return self


class ProxySettings(Model):
    """The gRPC servers between workers and PostgreSQL."""

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                rule("self.placement == 'Shared' || !has(self.workersPerReplica)", _PER_REPLICA)
            ]
        }
    )

    placement: Literal["Node", "Shared"] = "Node"
    """Node: one on every node, a DaemonSet. Shared: a Deployment with a replica for each so many
    workers."""
    workers_per_replica: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, examples=[100]
    )
    """With placement Shared: workers for each replica; absent: 100."""
    resources: Resources | None = Field(
        default=None, examples=[{"requests": {"cpu": "100m", "memory": "128Mi"}}]
    )
    """Resources of each proxy."""
    node_selector: Annotated[dict[str, str], Field(max_length=64)] | None = None
    """Nodes for the proxies."""
    tolerations: (
        Annotated[
            list[Annotated[dict[str, Any], Field(json_schema_extra=OPEN)]], Field(max_length=64)
        ]
        | None
    ) = None
    """Taints that the proxies tolerate, as in a pod."""
    affinity: Annotated[dict[str, Any], Field(json_schema_extra=OPEN)] | None = None
    """Affinity of the proxies, as in a pod."""
    priority_class_name: DnsSubdomain | None = None
    """Priority of the proxies' pods."""
    image: Text | None = None
    """Image of the proxies; absent: the operator's."""
    grace_period: Duration = datetime.timedelta(seconds=20)
    """How long a stopping proxy finishes calls in flight."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.placement != "Shared" and self.workers_per_replica is not None:
            raise broken(_PER_REPLICA)
        return self


class Security(Model):
    """Authentication and encryption of what passes inside the cluster."""

    tls: bool = True
    """Encrypt and authenticate with a certificate authority of the storage's own, and a token for
    each study."""
    token_keys: list[Annotated[int, Field(ge=1, le=1_000_000)]] = Field(
        default=[1], min_length=1, max_length=2
    )
    """Numbers of the keys that tokens are made with: proxies take tokens of each of them, new ones
    are made with the first. `trialfleet storage rotate` changes it."""
    plaintext_port: Annotated[int, Field(ge=1024, le=65535)] | None = None
    """Open this port without encryption and token, for stock Optuna clients; absent: none. Whoever
    reaches it can read, change and delete every study of the storage. Pickled state of samplers
    (CmaEsSampler's) is refused there: it would run in the workers."""


class Idle(Model):
    """What a storage does when all of its studies have ended."""

    after: Duration = datetime.timedelta(minutes=10)
    """So long after the last one ended."""
    action: Literal["Sleep", "Keep"] = "Sleep"
    """Sleep: PostgreSQL and the proxies are stopped, the volume is kept, and a study that goes on
    or is new starts them again. Keep: they stay."""


class StudyStorageSpec(Model):
    """Where PostgreSQL is, and how it is reached."""

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                rule(
                    "!has(self.backup) || !has(self.postgres) || has(self.postgres.managed)",
                    f"backup {_MANAGED_ONLY}",
                )
            ]
        }
    )

    postgres: PostgresSettings = PostgresSettings(managed=ManagedPostgres())
    """Where PostgreSQL is; absent: managed by Trialfleet."""
    retention: Literal["Retain", "Delete"] = "Retain"
    """What becomes of the data when the StudyStorage is deleted. Trialfleet never deletes data of
    an external PostgreSQL."""
    proxy: ProxySettings = ProxySettings()
    """The gRPC servers between workers and PostgreSQL."""
    security: Security = Security()
    """Authentication and encryption."""
    idle: Idle | None = None
    """What it does when all of its studies have ended; absent: all stays."""
    backup: Backup | None = None
    """Dumps of a managed PostgreSQL; absent: none."""
    accept_data_loss: (
        Annotated[
            str,
            Field(
                pattern=f"^{_UUID}$",
                max_length=36,
                json_schema_extra={
                    ACCEPTED: "the identity of a database, status.database.identity"
                },
            ),
        ]
        | None
    ) = None
    """The identity of the database that is lost: goes on with what is there in its place."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.backup is not None and self.postgres.managed is None:
            raise broken_at("StudyStorageSpec", [Finding(("backup",), _MANAGED_ONLY)])
        return self


class Database(Model):
    """The database that holds the trials, as it was seen last."""

    identity: Annotated[str, Field(max_length=36)]
    """Written when the tables were made: another database has another one."""
    studies: Annotated[int, Field(ge=0)] | None = None
    """Studies that used it."""
    trials: Annotated[int, Field(ge=0)] | None = None
    """Their finished trials."""
    seen_time: (
        Annotated[str, Field(max_length=32, json_schema_extra={"format": "date-time"})] | None
    ) = None
    """When these counts were read."""


class StudyStorageStatus(Model):
    """What is known of a storage; written by the operator."""

    phase: Literal["Pending", "Ready", "Unavailable", "Asleep"] | None = None
    """One word for the eye; the conditions are the truth."""
    message: Annotated[str, Field(max_length=256)] | None = None
    """What is in the way; one line."""
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=32,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            },
        ),
    ] = Field(default_factory=list)
    """PostgresReady, ProxiesReady, Ready, BackedUp and others, with reasons."""
    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """The generation of the spec that this status was made for."""
    postgres: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, examples=["managed"]
    )
    """Where PostgreSQL is: managed, cloudNativePG or external."""
    database: Database | None = None
    """The database that holds the trials."""
    endpoint: Annotated[str, Field(max_length=253)] | None = None
    """Host and port of the proxies."""
    proxies: Annotated[str, Field(max_length=32)] | None = Field(default=None, examples=["3/3"])
    """Ready and desired proxies."""
    studies: Annotated[int, Field(ge=0)] | None = None
    """Studies that use the storage."""
    schema_version: Annotated[str, Field(max_length=64)] | None = None
    """Revision of Optuna's tables."""
    last_backup_time: (
        Annotated[str, Field(max_length=32, json_schema_extra={"format": "date-time"})] | None
    ) = None
    """When the newest dump was complete."""


class StudyStorage(Model):
    """One PostgreSQL database and the proxies in front of it; serves one study or many."""

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                rule(
                    "self.metadata.name.size() <= 48 && !self.metadata.name.contains('.')",
                    _STORAGE_NAME,
                ),
                rule(
                    "!has(self.spec) || !has(self.spec.backup) || self.metadata.name.size() <= 41",
                    _BACKUP_NAME,
                ),
            ]
        }
    )

    api_version: Literal["trialfleet.dev/v1alpha1"] = "trialfleet.dev/v1alpha1"
    kind: Literal["StudyStorage"] = "StudyStorage"
    metadata: ObjectMeta
    spec: StudyStorageSpec = StudyStorageSpec()
    status: StudyStorageStatus | None = None

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        name = self.metadata.name
        if len(name) > 48 or "." in name:
            raise broken_at(
                "StudyStorage",
                [Finding(("metadata", "name"), f"found {found(name)}, {_STORAGE_NAME}")],
            )
        if self.spec.backup is not None and len(name) > 41:
            raise broken_at(
                "StudyStorage",
                [Finding(("metadata", "name"), f"found {found(name)}, {_BACKUP_NAME}")],
            )
        return self

    def notices(self) -> list[Finding]:
        """Return what is accepted but has no effect, or is dangerous without looking so."""
        notices = []
        managed = self.spec.postgres.managed
        if managed is not None and managed.empty_dir is not None:
            path: tuple[str | int, ...] = ("spec", "postgres", "managed", "emptyDir")
            notices.append(Finding(path, "all trials are gone when the pod is"))
        return notices

"""Backups of the PostgreSQL that a storage runs."""

from typing import Annotated, Final, Self

from pydantic import ConfigDict, Field, model_validator

from trialfleet.api.base import (
    ACCEPTED,
    RULES,
    DnsSubdomain,
    Model,
    Quantity,
    broken,
    found_fields,
    rule,
)

_ONE_CLAIM: Final = "accepted: either claimName, or size and storageClassName"
_PART: Final = r"[0-9A-Za-z*?/,-]+"


class BackupVolume(Model):
    """Where dumps are kept: a volume that is made, or one that is there."""

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                rule(
                    "!has(self.claimName) || !(has(self.size) || has(self.storageClassName))",
                    _ONE_CLAIM,
                )
            ]
        }
    )

    size: Quantity | None = None
    """Size of the volume; absent, and no claimName either: 10Gi."""
    storage_class_name: DnsSubdomain | None = None
    """StorageClass; absent: the cluster's default."""
    claim_name: DnsSubdomain | None = None
    """A PersistentVolumeClaim that exists; several storages may share it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        made = [self.size, self.storage_class_name]
        if self.claim_name is not None and made != [None, None]:
            given = found_fields(self, "size", "storage_class_name", "claim_name")
            raise broken(f"{given}, {_ONE_CLAIM}")
        return self


class Backup(Model):
    """Dumps of the database, made by a CronJob."""

    schedule: Annotated[
        str,
        Field(
            pattern=rf"^(@(hourly|daily|weekly|monthly|yearly)|{_PART}( +{_PART}){{4}})$",
            max_length=128,
            json_schema_extra={
                ACCEPTED: "five fields of cron such as '30 2 * * *', or @hourly, @daily, @weekly"
            },
        ),
    ]
    """When, in UTC: minute, hour, day of the month, month, day of the week."""
    volume: BackupVolume = BackupVolume()
    """Where the dumps are kept."""
    keep: Annotated[int, Field(ge=1, le=1000)] = 7
    """Dumps that are kept; older ones are removed when a new one is complete."""

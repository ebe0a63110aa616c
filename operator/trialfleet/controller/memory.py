"""What the operator remembers of a study beside what the cluster does; may be lost any time."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from trialfleet.controller.pod_view import PodView
from trialfleet.kube.pod_status import Trouble

CONFIRM_EVERY: Final = datetime.timedelta(minutes=5)
"""Secrets are not watched: whether they are still there shows when they are made again."""


@dataclass(slots=True)
class Memory:
    """Of one Study or StudyStorage, by its uid."""

    uid: str
    ensured: int | None = None
    """Generation of the spec that the storage was told last."""
    study_id: int | None = None
    found: int = 0
    """Trials of an earlier study of this name that the storage had when it was told."""
    blocked: Trouble | None = None
    """Why the storage could not be told."""
    points: list[dict[str, Any]] | None = None
    """The points of ``trialsFrom``."""
    reported: set[str] = field(default_factory=set)
    """Uids of pods whose end a proxy knows."""
    served: set[str] = field(default_factory=set)
    """Uids of those among them whose worker had a session before."""
    departed: dict[str, PodView] = field(default_factory=dict)
    """Pods that are gone, whose end no proxy knows yet."""
    short_since: dict[str, datetime.datetime] = field(default_factory=dict)
    """Since when a Job has too few pods, by its uid."""
    created: set[str] = field(default_factory=set)
    """Names of the Secrets that were made, or were there."""
    confirmed: datetime.datetime | None = None
    """When that was found out."""
    database: str = ""
    """Identity of the storage's database, as a proxy told it last."""
    identified: bool = False
    """A proxy has told it since there was one that serves."""
    cnpg: bool = False
    """CloudNativePG is installed."""
    written: datetime.datetime | None = None
    """When the status was written last."""
    swept: datetime.datetime | None = None
    """When the studies of the storage were last compared with the Studies."""
    left_behind: bool = False
    """A Study of the storage is gone since."""
    last: Mapping[str, Any] | None = None
    """The object as it was when it was deleted."""
    told: dict[str, datetime.datetime] = field(default_factory=dict)
    """When an Event of a reason was written last."""

    def unconfirmed(self, now: datetime.datetime) -> bool:
        """Whether it is long ago that the Secrets were there."""
        return self.confirmed is not None and now - self.confirmed >= CONFIRM_EVERY

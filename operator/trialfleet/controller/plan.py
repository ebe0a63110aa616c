"""What a plan consists of: the output of the pure part, and all that the rest carries out."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trialfleet.kube.objects import Object


@dataclass(frozen=True, slots=True)
class Note:
    """An Event to write."""

    reason: str
    message: str
    type: Literal["Normal", "Warning"] = "Normal"
    at_most_every: datetime.timedelta = datetime.timedelta(0)
    """Of several with this reason that come sooner, only the first is written."""


@dataclass(frozen=True, slots=True)
class Removal:
    """An object to delete."""

    api_version: str
    kind: str
    name: str
    uid: str
    """Only this one, not its successor of the same name."""
    force: bool = False
    """Without waiting for a node that is away."""


@dataclass(frozen=True, slots=True)
class DeadWorker:
    """A worker whose end is to be reported to a proxy."""

    pod: str
    """The pod's uid."""
    worker: str
    reason: str
    message: str
    failed: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What should be, and what is to be done about it."""

    objects: tuple[Object, ...] = ()
    """Should exist, in this order."""
    once: tuple[Object, ...] = ()
    """Should exist and are never changed: Secrets, which the operator need not be able to read."""
    removals: tuple[Removal, ...] = ()
    status: Mapping[str, Any] | None = None
    """None: leave it as it is."""
    notes: tuple[Note, ...] = ()
    """For after the status was written."""
    ensure: bool = False
    """The storage is to be told what the study is."""
    dead: tuple[DeadWorker, ...] = ()
    requeue_after: datetime.timedelta | None = None
    """Look again then, even if nothing happens."""
    urgent: bool = False
    """Write the status at once: more than numbers has changed."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Parts of a plan, from one policy."""

    objects: tuple[Object, ...] = ()
    removals: tuple[Removal, ...] = ()
    notes: tuple[Note, ...] = field(default=())

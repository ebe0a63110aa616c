"""Apply: bring about what a plan says, with as few requests as possible."""

import datetime
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trialfleet import names
from trialfleet.controller.build.comparing import projected
from trialfleet.controller.memory import Memory
from trialfleet.controller.observed import Subject
from trialfleet.controller.plan import Note, Removal
from trialfleet.controller.store import Store
from trialfleet.kube.cluster import Cluster, ClusterError
from trialfleet.kube.kinds import EVENT, kind_of
from trialfleet.kube.objects import Object
from trialfleet.kube.times import timestamp

_log = logging.getLogger(__name__)

STATUS_EVERY: Final = datetime.timedelta(seconds=2)
"""Between two writes of the status of a study that runs, unless more than numbers has changed."""

_TRIES: Final = 4
"""Looks at an object that others make and delete at the same time."""


class NameTaken(Exception):
    """An object of that name exists and is another's."""


class Applier:
    """Writes to the cluster, and takes note in the store of what came back.

    What the API server writes differently from how it was sent (``0.5`` becomes ``500m``) would
    look like a change made by somebody else for ever: it is compared once and remembered.
    """

    def __init__(self, cluster: Cluster, store: Store) -> None:
        self._cluster = cluster
        self._store = store
        self._same: dict[str, tuple[str, str]] = {}

    async def ensure(self, subject: Subject, objects: Sequence[Object]) -> None:
        """Create or change objects that are not as wanted.

        Raises :class:`NameTaken` for one that is not the subject's.
        """
        for wanted in objects:
            metadata = wanted["metadata"]
            live = self._store.get(wanted["kind"], metadata["namespace"], metadata["name"])
            for _ in range(_TRIES):
                if await self._settle(subject, wanted, live):
                    break
                # What the watches told is not how it is: they lag behind, or tell nothing of an
                # object without a label of ours.
                kind = kind_of(wanted["apiVersion"], wanted["kind"])
                live = await self._cluster.get(kind, metadata["namespace"], metadata["name"])
            else:
                name = f"{wanted['kind']} {metadata['name']}"
                raise ClusterError(409, "Conflict", f"{name}: changes while it is applied")

    async def create_once(
        self, objects: Sequence[Object], memory: Memory, now: datetime.datetime
    ) -> None:
        """Create objects that may be there; what is there is left as it is."""
        for wanted in objects:
            await self._cluster.create(wanted)
            memory.created.add(wanted["metadata"]["name"])
            memory.confirmed = now

    async def remove(self, subject: Subject, removals: Sequence[Removal]) -> None:
        """Delete objects."""
        for removal in removals:
            kind = kind_of(removal.api_version, removal.kind)
            await self._cluster.delete(
                kind, subject.namespace, removal.name, removal.uid, force=removal.force
            )

    async def write_status(
        self, subject: Subject, status: Mapping[str, Any], memory: Memory, now: datetime.datetime
    ) -> None:
        """Write a status if it differs from what was read."""
        if status == subject.status:
            return
        kind = kind_of(names.API_VERSION, subject.kind)
        written = await self._cluster.apply_status(kind, subject.namespace, subject.name, status)
        memory.written = now
        self._store.put(written)

    async def tell(
        self, subject: Subject, notes: Sequence[Note], memory: Memory, now: datetime.datetime
    ) -> None:
        """Write Events; of those that come too often only the first."""
        for note in notes:
            last = memory.told.get(note.reason)
            if last is not None and now - last < note.at_most_every:
                continue
            memory.told[note.reason] = now
            try:
                await self._cluster.create(event(subject, note, now))
            except ClusterError as error:
                # Not worth doing anything again for; a namespace that goes takes no Event.
                level = logging.INFO if error.gone else logging.WARNING
                _log.log(level, "no Event for %s %s: %s", subject.kind, subject.name, error)

    async def _settle(self, subject: Subject, wanted: Object, live: Object | None) -> bool:
        """Create an object or change ``live``; False if there is another one than ``live``.

        Only what the subject owns is ever written to: a change names the uid of the object that
        was found to be the subject's.
        """
        if live is None:
            applied = await self._cluster.apply_new(wanted)
            verb = "made"
        elif "deletionTimestamp" in live["metadata"]:
            # Its end wakes the operator again.
            return True
        elif not owned_by(live, subject.uid):
            raise NameTaken(_taken(subject, wanted))
        elif self._is_as_wanted(wanted, live):
            return True
        else:
            applied = await self._cluster.apply(wanted, live["metadata"]["uid"])
            verb = "changed"
        if applied is None:
            return False
        _log.info(
            "%s %s/%s: %s %s %s",
            *(subject.kind, subject.namespace, subject.name, verb),
            *(wanted["kind"], wanted["metadata"]["name"]),
        )
        self._note(wanted, applied)
        return True

    def _note(self, wanted: Object, applied: Object) -> None:
        self._store.put(applied)
        kept = _digest(projected(applied, wanted))
        self._same[applied["metadata"]["uid"]] = (_wanted_hash(wanted), kept)

    def _is_as_wanted(self, wanted: Object, live: Object) -> bool:
        seen = projected(live, wanted)
        if seen == wanted:
            return True
        known = self._same.get(live["metadata"]["uid"])
        return known == (_wanted_hash(wanted), _digest(seen))


def owned_by(live: Mapping[str, Any], uid: str) -> bool:
    """Whether an object's controller is the one with the uid."""
    return any(
        one.get("uid") == uid and one.get("controller")
        for one in live["metadata"].get("ownerReferences", ())
    )


def event(subject: Subject, note: Note, now: datetime.datetime) -> Object:
    """Return an Event; two operators that tell the same in the same minute write one."""
    moment = timestamp(now)
    text = "\0".join((subject.uid, note.reason, note.message, moment[:16]))
    name = f"{subject.name}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"name": name, "namespace": subject.namespace},
        "involvedObject": {
            "apiVersion": names.API_VERSION,
            "kind": subject.kind,
            "name": subject.name,
            "namespace": subject.namespace,
            "uid": subject.uid,
        },
        "reason": note.reason,
        "message": note.message[:1024],
        "type": note.type,
        "source": {"component": names.OPERATOR},
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }


def _wanted_hash(wanted: Mapping[str, Any]) -> str:
    return str(wanted["metadata"]["annotations"][names.ANNOTATION_HASH])


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _taken(subject: Subject, wanted: Mapping[str, Any]) -> str:
    return (
        f"{wanted['kind']} {wanted['metadata']['name']!r} is needed under this name, and one that "
        f"belongs to something else exists; it is left as it is: rename or delete it, or give the "
        f"{subject.kind} another name"
    )

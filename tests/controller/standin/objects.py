"""The objects of the stand-in: versions, generations, owners, and who is told of a change."""

import collections
import copy
import datetime
import itertools
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.controller.standin import fields
from tests.controller.standin.fields import Path

Object = dict[str, Any]
Place = tuple[str, str, str]
"""Plural with group, namespace, name."""


class Refused(Exception):
    """What the API server answers with an error."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


@dataclass
class Change:
    """One entry of the history that watches read."""

    version: int
    type: str
    resource: str
    object: Object
    before: Object | None
    """The object as it was; None where there was none."""


@dataclass
class Stored:
    """An object, and who owns which of its fields."""

    object: Object
    owners: dict[tuple[str, str, str], set[Path]] = field(default_factory=dict)
    """By manager, operation and subresource."""


class Objects:
    """All objects. For one event loop; whatever is given out is a copy."""

    def __init__(self) -> None:
        self._stored: dict[Place, Stored] = {}
        self._versions = itertools.count(1001)
        self.version = 1000
        self.history: list[Change] = []
        self.listeners: list[Callable[[Change], None]] = []
        self._untold: collections.deque[Change] = collections.deque()
        self._telling = False
        self.grace_of: Callable[[Object], float] = lambda _: 0.0
        """Seconds for which an object goes on after it was deleted."""

    def get(self, place: Place) -> Object:
        """Return an object."""
        return copy.deepcopy(self._find(place).object)

    def has(self, place: Place) -> bool:
        """Whether there is such an object."""
        return place in self._stored

    def list(self, resource: str, namespace: str = "") -> list[Object]:
        """Return the objects of a resource."""
        return [
            copy.deepcopy(stored.object)
            for (kind, ns, _), stored in self._stored.items()
            if kind == resource and namespace in ("", ns)
        ]

    def create(self, place: Place, obj: Object, manager: str) -> Object:
        """Create an object."""
        if place in self._stored:
            raise Refused(409, "AlreadyExists", f"{place[0]} {place[2]!r} already exists")
        obj = copy.deepcopy(obj)
        obj.pop("status", None)
        stored = Stored(obj)
        stored.owners[manager, "Update", ""] = set(fields.leaves(obj))
        return self._insert(place, stored)

    def apply(
        self, place: Place, config: Object, manager: str, *, force: bool, subresource: str = ""
    ) -> Object:
        """Server-side apply."""
        config = copy.deepcopy(config)
        part = {"status"} if subresource else set(config) - {"status"}
        config = {
            key: value
            for key, value in config.items()
            if key in part | {"apiVersion", "kind", "metadata"}
        }
        if subresource:
            config["metadata"] = {}
        wanted = set(fields.leaves(config))
        stored = self._stored.get(place)
        key = (manager, "Apply", subresource)
        if stored is None:
            if subresource:
                raise _not_found(place)
            stored = Stored(config, {key: wanted})
            return self._insert(place, stored)
        self._settle_conflicts(stored, config, wanted, key, force)
        obj = fields.merge(stored.object, config)
        dropped = stored.owners.get(key, set()) - wanted
        held = set().union(*(own for other, own in stored.owners.items() if other != key))
        for path in dropped - held:
            fields.remove(obj, path)
        stored.owners[key] = wanted
        return self._replace(place, stored, obj, subresource)

    def update(
        self, place: Place, change: Callable[[Object], Object], manager: str, subresource: str = ""
    ) -> Object:
        """Change an object as an update or a merge patch does."""
        stored = self._find(place)
        obj = change(copy.deepcopy(stored.object))
        part = "status" if subresource else ""
        before, after = copy.deepcopy(stored.object), copy.deepcopy(obj)
        if part:
            obj = {**before, "status": after.get("status", {})}
        elif "status" in before:
            obj["status"] = before["status"]
        changed = set(fields.leaves(obj)) - set(fields.leaves(before))
        for path in set(fields.leaves(obj)) & set(fields.leaves(before)):
            if fields.lookup(obj, path) != fields.lookup(before, path):
                changed.add(path)
        changed = {path for path in changed if path[:2] != ("metadata", "managedFields")}
        for own in stored.owners.values():
            own -= changed
        stored.owners.setdefault((manager, "Update", part), set()).update(changed)
        return self._replace(place, stored, obj, subresource)

    def delete(self, place: Place, *, uid: str = "", grace_s: float | None = None) -> Object:
        """Delete an object, and in the end all that it owns."""
        stored = self._find(place)
        metadata = stored.object["metadata"]
        if uid and uid != metadata["uid"]:
            raise Refused(409, "Conflict", f"the UID in the precondition ({uid}) does not match")
        grace = self.grace_of(stored.object) if grace_s is None else grace_s
        if (grace or metadata.get("finalizers")) and "deletionTimestamp" not in metadata:
            when = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=grace)
            obj = copy.deepcopy(stored.object)
            obj["metadata"] |= {
                "deletionTimestamp": timestamp(when),
                "deletionGracePeriodSeconds": int(grace),
            }
            return self._replace(place, stored, obj, "")
        if not grace and not metadata.get("finalizers"):
            return self.forget(place)
        if not grace and metadata.get("deletionGracePeriodSeconds"):
            obj = copy.deepcopy(stored.object)
            obj["metadata"]["deletionGracePeriodSeconds"] = 0
            return self._replace(place, stored, obj, "")
        return copy.deepcopy(stored.object)

    def forget(self, place: Place) -> Object:
        """Remove an object at once, with all that it owns."""
        stored = self._stored.pop(place)
        obj = copy.deepcopy(stored.object)
        self._number(obj)
        self._tell("DELETED", place[0], obj, stored.object)
        for owned, child in list(self._stored.items()):
            references = child.object["metadata"].get("ownerReferences", ())
            owners = {one["uid"] for one in references}
            if obj["metadata"]["uid"] in owners and owned in self._stored:
                self.delete(owned)
        return obj

    def _insert(self, place: Place, stored: Stored) -> Object:
        metadata = stored.object.setdefault("metadata", {})
        metadata |= {
            "name": place[2],
            "uid": str(uuid.uuid4()),
            "creationTimestamp": timestamp(datetime.datetime.now(datetime.UTC)),
            "generation": 1,
        }
        if place[1]:
            metadata["namespace"] = place[1]
        self._stored[place] = stored
        self._seal(stored)
        self._tell("ADDED", place[0], stored.object, None)
        created = copy.deepcopy(stored.object)
        if self._is_orphan(created) and place in self._stored:
            self.delete(place)
        return created

    def _is_orphan(self, obj: Object) -> bool:
        """Whether all owners of an object are gone: the garbage collector's business."""
        owners = {one["uid"] for one in obj["metadata"].get("ownerReferences", ())}
        there = (
            {one.object["metadata"]["uid"] for one in self._stored.values()} if owners else set()
        )
        return bool(owners) and not owners & there

    def _replace(self, place: Place, stored: Stored, obj: Object, subresource: str) -> Object:
        before = stored.object
        obj["metadata"] = {
            **obj["metadata"],
            **{
                key: before["metadata"][key]
                for key in ("name", "namespace", "uid", "creationTimestamp", "generation")
                if key in before["metadata"]
            },
        }
        if not subresource and obj.get("spec") != before.get("spec"):
            obj["metadata"]["generation"] = before["metadata"]["generation"] + 1
        if _content(obj) == _content(before):
            return copy.deepcopy(before)
        stored.object = obj
        self._seal(stored)
        self._tell("MODIFIED", place[0], obj, before)
        metadata = obj["metadata"]
        held = metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds")
        if "deletionTimestamp" in metadata and not held:
            return self.forget(place)
        return copy.deepcopy(obj)

    def _settle_conflicts(
        self,
        stored: Stored,
        config: Object,
        wanted: set[Path],
        key: tuple[str, str, str],
        force: bool,
    ) -> None:
        conflicts = []
        for other, own in stored.owners.items():
            if other == key:
                continue
            for path in own & wanted:
                try:
                    same = fields.lookup(stored.object, path) == fields.lookup(config, path)
                except KeyError:
                    same = False
                if not same:
                    conflicts.append((other, path))
        if conflicts and not force:
            manager = conflicts[0][0][0]
            raise Refused(
                409, "Conflict", f"Apply failed with {len(conflicts)} conflict with {manager!r}"
            )
        for other, path in conflicts:
            stored.owners[other].discard(path)

    def _seal(self, stored: Stored) -> None:
        self._number(stored.object)
        stored.object["metadata"]["managedFields"] = [
            {
                "manager": manager,
                "operation": operation,
                "fieldsType": "FieldsV1",
                "fieldsV1": fields.as_fields_v1(own),
                **({"subresource": subresource} if subresource else {}),
            }
            for (manager, operation, subresource), own in stored.owners.items()
            if own
        ]

    def _number(self, obj: Object) -> None:
        self.version = next(self._versions)
        obj["metadata"]["resourceVersion"] = str(self.version)

    def _tell(self, kind: str, resource: str, obj: Object, before: Object | None) -> None:
        change = Change(self.version, kind, resource, copy.deepcopy(obj), before)
        self.history.append(change)
        del self.history[:-5000]
        self._untold.append(change)
        if self._telling:
            return
        self._telling = True
        try:
            # A listener may change something itself: everybody hears of changes in their order.
            while self._untold:
                change = self._untold.popleft()
                for listener in list(self.listeners):
                    listener(change)
        finally:
            self._telling = False

    def _find(self, place: Place) -> Stored:
        if place not in self._stored:
            raise _not_found(place)
        return self._stored[place]


def timestamp(moment: datetime.datetime) -> str:
    """Return a time as the API writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _content(obj: Mapping[str, Any]) -> Object:
    metadata = {
        key: part
        for key, part in obj["metadata"].items()
        if key not in ("resourceVersion", "managedFields", "generation")
    }
    return {**obj, "metadata": metadata}


def _not_found(place: Place) -> Refused:
    return Refused(404, "NotFound", f"{place[0]} {place[2]!r} not found")

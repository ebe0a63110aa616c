"""What the watches have told: the objects of the operator's kinds, found by their owner."""

import re
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from trialfleet import names
from trialfleet.kube.objects import Object

_STORAGE_COMPONENTS: Final = (
    names.COMPONENT_POSTGRES,
    names.COMPONENT_PROXY,
    names.COMPONENT_BACKUP,
    names.COMPONENT_RESTORE,
)

_POD_SPEC_KEPT: Final = ("nodeName",)

_WARNINGS: Final = 4096
"""Of how many objects the newest warning is kept: the whole cluster's pass by."""


class Key(NamedTuple):
    """A Study or a StudyStorage."""

    kind: str
    namespace: str
    name: str


class Ref(NamedTuple):
    """Any object."""

    kind: str
    namespace: str
    name: str


class Warned(NamedTuple):
    """The newest warning about an object."""

    reason: str
    message: str
    last: str
    """When, as the API server writes it."""


def owner_of(obj: Mapping[str, Any]) -> Key | None:
    """Return whom an object concerns, by its labels."""
    kind, metadata = obj.get("kind", ""), obj["metadata"]
    namespace = metadata.get("namespace", "")
    if kind in ("Study", "StudyStorage"):
        return Key(kind, namespace, metadata["name"])
    labels = metadata.get("labels", {})
    if labels.get(names.LABEL_COMPONENT) in _STORAGE_COMPONENTS:
        storage = labels.get(names.LABEL_STORAGE)
        return None if storage is None else Key("StudyStorage", namespace, storage)
    study = labels.get(names.LABEL_STUDY)
    return None if study is None else Key("Study", namespace, study)


class Store:
    """Objects as the API server had them last. For one event loop.

    Watches may bring what is older than the answer to a request: an object is never replaced by
    an older one.
    """

    def __init__(self) -> None:
        self._objects: dict[Ref, Object] = {}
        self._children: dict[Key, set[Ref]] = defaultdict(set)
        self._warnings: OrderedDict[str, Warned] = OrderedDict()

    def put(self, obj: Mapping[str, Any]) -> bool:
        """Take note of an object; False if this or a newer state of it is known."""
        kept = _kept(obj)
        ref = _ref(kept)
        old = self._objects.get(ref)
        if old is not None and _version(kept) <= _version(old):
            return False
        if old is not None:
            self._unlink(ref, old)
        self._objects[ref] = kept
        owner = owner_of(kept)
        if owner is not None:
            self._children[owner].add(ref)
        return True

    def remove(self, obj: Mapping[str, Any]) -> Object | None:
        """Take note that an object is gone; return what was known, unless a successor is."""
        ref = _ref(obj)
        old = self._objects.get(ref)
        if old is None or old["metadata"].get("uid") != obj["metadata"].get("uid"):
            return None
        del self._objects[ref]
        self._unlink(ref, old)
        self._warnings.pop(old["metadata"].get("uid", ""), None)
        return old

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return an object."""
        return self._objects.get(Ref(kind, namespace, name))

    def owned(self, key: Key, kind: str) -> list[Object]:
        """Return the objects of a kind that concern a Study or StudyStorage."""
        found = [self._objects[ref] for ref in self._children.get(key, ()) if ref.kind == kind]
        return sorted(found, key=lambda obj: str(obj["metadata"]["name"]))

    def of_kind(self, kind: str) -> Iterator[Object]:
        """Yield all objects of a kind."""
        yield from (obj for ref, obj in list(self._objects.items()) if ref.kind == kind)

    def warn(self, event: Mapping[str, Any]) -> Key | None:
        """Take note of a warning that the API server has as an Event; return whom it concerns.

        Only the newest about each object is kept, also if the object itself is not known yet: it
        is told by another watch.
        """
        involved = event.get("involvedObject", {})
        ref = Ref(involved.get("kind", ""), involved.get("namespace", ""), involved.get("name", ""))
        obj = self._objects.get(ref) or self._objects.get(_workload_of(ref))
        uid = involved.get("uid", "") if obj is None else obj["metadata"].get("uid", "")
        series = event.get("series") or {}
        last = (
            series.get("lastObservedTime")
            or event.get("lastTimestamp")
            or event.get("eventTime")
            or ""
        )
        before = self._warnings.pop(uid, None)
        if before is None or before.last <= last:
            before = Warned(event.get("reason", ""), event.get("message", ""), last)
        self._warnings[uid] = before
        while len(self._warnings) > _WARNINGS:
            self._warnings.popitem(last=False)
        return None if obj is None else owner_of(obj)

    def warning(self, uid: str) -> Warned | None:
        """Return the newest warning about an object."""
        return self._warnings.get(uid)

    def _unlink(self, ref: Ref, old: Object) -> None:
        owner = owner_of(old)
        if owner is not None:
            self._children[owner].discard(ref)
            if not self._children[owner]:
                del self._children[owner]


def _workload_of(ref: Ref) -> Ref:
    """Return the Deployment of a ReplicaSet: those are not watched."""
    if ref.kind != "ReplicaSet":
        return ref
    return Ref("Deployment", ref.namespace, re.sub(r"-[^-]*$", "", ref.name))


def _ref(obj: Mapping[str, Any]) -> Ref:
    metadata = obj["metadata"]
    return Ref(obj.get("kind", ""), metadata.get("namespace", ""), metadata["name"])


def _version(obj: Mapping[str, Any]) -> int:
    # Comparable since Kubernetes 1.35 by promise, and as long as there has been etcd in fact.
    version = obj["metadata"].get("resourceVersion", "0")
    return int(version) if version.isdigit() else 0


def _kept(obj: Mapping[str, Any]) -> Object:
    """Return an object without what the operator never looks at, which is most of a pod."""
    kept = dict(obj)
    kept["metadata"] = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}
    if obj.get("kind") == "Pod":
        kept["spec"] = {k: v for k, v in obj.get("spec", {}).items() if k in _POD_SPEC_KEPT}
    return kept

"""From a file of manifests to objects in a cluster."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trialfleet.cluster.namespace import ApiError, Namespace
from trialfleet.model import errors


class Applied(NamedTuple):
    """What became of one object of a file."""

    kind: str
    name: str
    namespace: str
    done: str
    """``created``, ``changed`` or ``unchanged``."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.done}"


def apply(
    namespace: Namespace, file: Path, objects: Iterable[Mapping[str, Any]], *, force: bool
) -> Iterator[Applied]:
    """Apply a file's objects on the server's side, in their order.

    An object that names a namespace goes there, another one to ``namespace``. Fields that somebody
    else has set are left alone, which is an error, or are taken over with ``force``.

    Raises:
        InvalidInput: The API server will not have an object.
    """
    for obj in objects:
        kind, name = str(obj["kind"]), str(obj.get("metadata", {}).get("name", ""))
        place = namespace.at(obj["metadata"].get("namespace") or namespace.name)
        resource = place.resource(obj["apiVersion"], kind)
        if not name or resource is None:
            what = "a name" if not name else f"a kind that {place} has"
            raise errors.InvalidInput(
                f"{file}: {obj['apiVersion']} {kind} {name!r}: not applied, accepted: {what}"
            )
        wanted = copy.deepcopy(dict(obj))
        wanted["metadata"] = {**wanted["metadata"], "namespace": place.name}
        before = place.find(resource, name)
        try:
            after = place.apply(resource, wanted, force=force)
        except ApiError as error:
            raise errors.InvalidInput(f"{file}: {kind} {name!r}: {_refusal(error)}") from error
        yield Applied(kind, name, place.name, _done(before, after))


def _done(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> str:
    if before is None:
        return "created"
    same = before["metadata"].get("generation") == after["metadata"].get("generation")
    versions = (one["metadata"].get("resourceVersion") for one in (before, after))
    return "unchanged" if len(set(versions)) == 1 or (same and "spec" in after) else "changed"


def _refusal(error: ApiError) -> str:
    said = " ".join(str(error).split())
    if error.code == 409:
        return (
            f"{said}; accepted: the same values, a file without these fields, or --force to take "
            "them over"
        )
    if error.code == 404:
        return f"{said}; accepted: a namespace that is there (kubectl create namespace NAME)"
    return said

"""What all objects that the operator makes have in common."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trialfleet import names

Object = dict[str, Any]
"""An object of Kubernetes, as in JSON."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The Study or StudyStorage that an object is made for; its end is the object's end."""

    kind: str
    name: str
    namespace: str
    uid: str

    @property
    def reference(self) -> Object:
        """The owner reference."""
        return {
            "apiVersion": names.API_VERSION,
            "kind": self.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            # Without blockOwnerDeletion: a deletion in the foreground waits for nothing of ours.
            "blockOwnerDeletion": False,
        }

    def labels(self, component: str) -> dict[str, str]:
        """The labels of an object of this owner."""
        own = names.LABEL_STUDY if self.kind == "Study" else names.LABEL_STORAGE
        return {
            names.LABEL_APP: names.APP,
            names.LABEL_MANAGED_BY: names.OPERATOR,
            names.LABEL_COMPONENT: component,
            own: self.name,
        }

    def make(
        self,
        api_version: str,
        kind: str,
        name: str,
        component: str,
        *,
        annotations: Mapping[str, str] | None = None,
        **parts: Any,
    ) -> Object:
        """Return an object with metadata, and the given parts beside it."""
        return hashed(
            {
                "apiVersion": api_version,
                "kind": kind,
                "metadata": {
                    "name": name,
                    "namespace": self.namespace,
                    "labels": self.labels(component),
                    "annotations": dict(annotations or {}),
                    "ownerReferences": [self.reference],
                },
                **parts,
            }
        )


def hashed(wanted: Object) -> Object:
    """Return an object with the annotation that tells it from what was wanted before."""
    metadata = wanted["metadata"]
    annotations = {
        key: value
        for key, value in metadata.get("annotations", {}).items()
        if key != names.ANNOTATION_HASH
    }
    bare = {**wanted, "metadata": {**metadata, "annotations": annotations}}
    annotations = {**annotations, names.ANNOTATION_HASH: digest(bare)}
    return {**bare, "metadata": {**metadata, "annotations": annotations}}


def digest(value: object) -> str:
    """Return a short hash of a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_empty(value: Mapping[str, Any]) -> Object:
    """Return a mapping without what is None."""
    return {key: part for key, part in value.items() if part is not None}

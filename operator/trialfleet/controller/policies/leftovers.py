"""What is left when a storage is deleted: its volume, which somebody pays for. Pure."""

from collections.abc import Mapping
from typing import Any

from trialfleet import names
from trialfleet.controller import reasons
from trialfleet.controller.plan import Note


def note_of_volume(storage: Mapping[str, Any]) -> Note | None:
    """Return the Event about the volume that stays when a storage is gone, as it was last."""
    spec = storage.get("spec", {})
    postgres = spec.get("postgres", {"managed": {}})
    kept = "managed" in postgres and "emptyDir" not in postgres["managed"]
    if not kept or spec.get("retention", "Retain") != "Retain":
        return None
    name = storage["metadata"]["name"]
    claim = names.postgres_claim(name)
    trials = storage.get("status", {}).get("database", {}).get("trials")
    held = "" if trials is None else f", with {trials} finished trials"
    return Note(
        reasons.EVENT_VOLUME_KEPT,
        f"the volume of {name!r} is kept, as spec.retention says{held}: a storage of its name "
        f"takes it up again, and 'kubectl delete pvc {claim}' deletes it",
    )

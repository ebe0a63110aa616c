"""What is left when a storage is deleted: its volume, which somebody pays for. Pure."""

from collections.abc import Mapping
from typing import Any

from trialfleet import names
from trialfleet.controller.plan import Note
from trialfleet.kube import reasons


def note_of_volume(storage: Mapping[str, Any]) -> Note | None:
    """Return the Event about the volumes that stay when a storage is gone, as it was last."""
    spec = storage.get("spec", {})
    postgres = spec.get("postgres", {"managed": {}})
    if "managed" not in postgres or spec.get("retention", "Retain") != "Retain":
        return None
    name = storage["metadata"]["name"]
    kept = {}
    if "emptyDir" not in postgres["managed"]:
        trials = storage.get("status", {}).get("database", {}).get("trials")
        held = "" if trials is None else f", with {trials} finished trials"
        kept[names.postgres_claim(name)] = f"the volume of {name!r} is kept{held}"
    if "backup" in spec and "claimName" not in spec["backup"].get("volume", {}):
        kept[names.backup_name(name)] = f"the dumps of {name!r} are kept"
    if not kept:
        return None
    return Note(
        reasons.EVENT_VOLUME_KEPT,
        f"{'; '.join(kept.values())}, as spec.retention says: a storage of its name takes them up "
        f"again, and 'kubectl delete pvc {' '.join(kept)}' deletes them",
    )

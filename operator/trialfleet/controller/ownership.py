"""Whose the studies of a storage are, and those whose Study is gone.

A storage keeps with each study the uids of the StudyStorage and of the Study that it belongs to. So
a new Study of an old name is told from its predecessor, also by an operator that was away when that
was deleted; and where several storages use one database, each deals with its own studies only.
"""

import datetime
import logging
from collections.abc import Mapping
from typing import Any, Final

from trialfleet import names
from trialfleet.client.study_calls import Studies
from trialfleet.kube.cluster import Cluster
from trialfleet.kube.kinds import STUDY

_log = logging.getLogger(__name__)

SWEEP_EVERY: Final = datetime.timedelta(hours=1)
"""Between two comparisons of a storage with the Studies, while none was seen to go."""


def deletes_trials(storage: Mapping[str, Any]) -> bool:
    """Whether the trials of a study that is gone are to be deleted, and the storage goes on."""
    metadata = storage["metadata"]
    own = any(one["kind"] == "Study" for one in metadata.get("ownerReferences", ()))
    delete = storage.get("spec", {}).get("retention") == "Delete"
    return delete and not own and "deletionTimestamp" not in metadata


def owner_of_trials(storage: Mapping[str, Any], study_uid: str) -> str:
    """Return what a storage is told of the owner of a study."""
    return f"{storage['metadata']['uid']}/{study_uid}"


async def delete_predecessor(
    studies: Studies, storage: Mapping[str, Any], name: str, uid: str
) -> None:
    """Delete the trials of an earlier Study of this storage and name, whose uid was another."""
    ours = owner_of_trials(storage, uid)
    for one in await studies.owned(owner_of_trials(storage, "")):
        if one.name == name and one.owner != ours:
            await _delete(studies, storage, one.study_id, name)


async def sweep(cluster: Cluster, studies: Studies, storage: Mapping[str, Any]) -> None:
    """Delete the trials of all Studies of a storage that are gone."""
    owned = await studies.owned(owner_of_trials(storage, ""))
    if not owned:
        return
    # What the watches told may be old, and trials that are deleted don't come back.
    there = await cluster.list(STUDY, storage["metadata"]["namespace"], "")
    owners = {owner_of_trials(storage, study["metadata"]["uid"]) for study in there}
    for one in owned:
        if one.owner not in owners:
            await _delete(studies, storage, one.study_id, one.name)


async def _delete(studies: Studies, storage: Mapping[str, Any], study_id: int, name: str) -> None:
    await studies.delete(study_id, names.OPERATOR)
    metadata = storage["metadata"]
    _log.info(
        "StudyStorage %s/%s: deleted the trials of the Study %s, which is gone",
        *(metadata["namespace"], metadata["name"], name),
    )

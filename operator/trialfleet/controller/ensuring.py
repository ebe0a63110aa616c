"""Tell a storage what a study is, with what only the cluster knows of it."""

from typing import Any

from trialfleet.api.base import ConfigMapKey
from trialfleet.api.points import parse_points
from trialfleet.client.study_calls import Studies
from trialfleet.controller.ensured_study import define
from trialfleet.controller.memory import Memory
from trialfleet.controller.observed import StudyObserved
from trialfleet.kube import reasons
from trialfleet.kube.cluster import Cluster
from trialfleet.kube.kinds import CONFIG_MAP
from trialfleet.kube.pod_status import Trouble
from trialfleet.model.errors import InvalidInput, NotFound, StorageUnavailable

_WAYS_OUT = (
    "to count them as this study's set spec.adopt to true; to begin anew give the study another "
    "name, or delete the trials"
)


async def ensure(
    cluster: Cluster,
    studies: Studies,
    observed: StudyObserved,
    memory: Memory,
    *,
    owner: str,
    bare_tokens: bool,
) -> bool:
    """Tell a storage what a study is and whose; whether anything is different now.

    With ``bare_tokens`` its token bears no uid.
    """
    study, subject = observed.study, observed.subject
    assert study is not None and observed.storage is not None
    before = memory.blocked
    # What has run trials already is no other study than theirs, whatever its ConfigMap holds now.
    started = "startTime" in subject.status
    try:
        if study.spec.trials_from is not None and memory.points is None:
            memory.points = await _points(cluster, observed)
        definition = define(
            study,
            memory.points or (),
            source=await _source(cluster, observed, started=started),
            adopt=study.spec.adopt or started,
            owner=owner,
            bare_tokens=bare_tokens,
        )
        ensured = await studies.ensure(definition)
    except InvalidInput as error:
        memory.blocked = Trouble(reasons.STORAGE_REFUSED, str(error))
    except NotFound as error:
        memory.blocked = Trouble(reasons.CONFIG_MISSING, str(error))
    except StorageUnavailable as error:
        memory.blocked = Trouble(reasons.STORAGE_UNAVAILABLE, str(error))
    else:
        if not ensured.differs:
            memory.blocked = None
            memory.ensured = subject.generation
            memory.study_id = ensured.study_id
            memory.found = 0 if started else ensured.trials
            return True
        memory.blocked = Trouble(reasons.DEFINITION_DIFFERS, f"{ensured.differs}; {_WAYS_OUT}")
    return memory.blocked != before


async def _points(cluster: Cluster, observed: StudyObserved) -> list[dict[str, Any]]:
    assert observed.study is not None and observed.study.spec.trials_from is not None
    reference = observed.study.spec.trials_from.config_map
    if reference is None:
        # An API server with the resource of an earlier release has taken the field without a look.
        raise InvalidInput("spec.trialsFrom: found no configMap, accepted on a cluster: one")
    where = f"spec.trialsFrom.configMap: ConfigMap {reference.name!r}, key {reference.key!r}"
    text = await _read(cluster, observed, reference, where)
    return parse_points(text, where, observed.study.spec.search_space)


async def _source(cluster: Cluster, observed: StudyObserved, *, started: bool) -> str | None:
    """Return the objective's source text where it is in a ConfigMap."""
    assert observed.study is not None
    python = observed.study.spec.objective.python
    if python is None or python.config_map is None:
        return None
    reference = python.config_map
    where = f"spec.objective.python.configMap: ConfigMap {reference.name!r}, key {reference.key!r}"
    try:
        return await _read(cluster, observed, reference, where)
    except NotFound:
        if started:
            return None
        raise


async def _read(
    cluster: Cluster, observed: StudyObserved, reference: ConfigMapKey, where: str
) -> str:
    found = await cluster.get(CONFIG_MAP, observed.subject.namespace, reference.name)
    text = None if found is None else found.get("data", {}).get(reference.key)
    if text is None:
        raise NotFound(f"{where}: not found")
    return str(text)

"""The plan for a storage: PostgreSQL, the proxies in front of it, and who may reach them."""

import copy
import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trialfleet import names
from trialfleet.api.study_storage import StudyStorage
from trialfleet.controller.build import (
    access,
    backups,
    disruption,
    network,
    postgres_server,
    proxies,
)
from trialfleet.controller.build.comparing import projected
from trialfleet.controller.build.pod_parts import service_address
from trialfleet.controller.conditions import Wanted, find, one_line, settle
from trialfleet.controller.observed import StorageObserved
from trialfleet.controller.options import OperatorOptions
from trialfleet.controller.plan import Note, Plan, Removal
from trialfleet.controller.policies import data_loss, troubles
from trialfleet.controller.policies.backups import plan_backups
from trialfleet.controller.policies.data_loss import NOTHING_KNOWN, Judgement
from trialfleet.controller.policies.idleness import NOT_IDLE, Idleness, plan_idleness
from trialfleet.controller.secrecy import Keys
from trialfleet.kube import reasons
from trialfleet.kube.kinds import CNPG
from trialfleet.kube.objects import Object, hashed
from trialfleet.kube.pod_status import Trouble
from trialfleet.kube.times import parse_time

_FIXED: Final = ("volumeClaimTemplates", "serviceName", "selector")
"""What can't change in a StatefulSet."""

_REMOVABLE: Final = {
    "DaemonSet": "apps/v1",
    "Deployment": "apps/v1",
    "CronJob": "batch/v1",
    "PodDisruptionBudget": "policy/v1",
}

_SERVING: Final = (names.COMPONENT_POSTGRES, names.COMPONENT_PROXY)
"""What a storage consists of; a dump that can't be made does not stand in its way."""

_TROUBLE_EVERY: Final = datetime.timedelta(minutes=5)
_RECHECK: Final = datetime.timedelta(seconds=3)

_START: Final = datetime.timedelta(seconds=20)
"""What the proxies get to start, before it is told that they don't."""
_START_POSTGRES: Final = datetime.timedelta(minutes=2)
"""What a PostgreSQL of ours gets that runs and does not answer yet: to begin on a slow disk, or to
recover, takes as long as it takes."""
_AWAY: Final = datetime.timedelta(seconds=3)
"""What a database that was there gets to come back."""


def plan_storage(
    observed: StorageObserved, options: OperatorOptions, keys: Keys, now: datetime.datetime
) -> Plan:
    """Decide what should be there for a storage, and what its status says."""
    storage = observed.storage
    if storage is None:
        refused = Trouble(reasons.INVALID_SPEC, observed.refusal)
        return _with_status(observed, Plan(), refused, now)
    serving = [pod for pod in observed.pods if pod.component in _SERVING]
    trouble = troubles.find_trouble(serving, observed.troubles, now)
    given = storage.spec.postgres
    if given.cloud_native_pg is not None and not observed.cnpg_installed:
        trouble = Trouble(
            reasons.CRD_MISSING,
            "spec.postgres.cloudNativePG: the cluster has no CloudNativePG (no resource Cluster of "
            f"{CNPG.api_version}); install it, or use managed or external",
        )
        return _with_status(observed, Plan(), trouble, now)
    subject, spec = observed.subject, storage.spec
    where = access.StorageNames(subject.namespace, subject.name)
    secret = access.build_storage_secret(subject.owner, keys, where, spec, now)
    name = "" if secret is None else secret["metadata"]["name"]
    judged = data_loss.judge(observed, now)
    idle = plan_idleness(observed, now)
    objects = _objects(
        observed, storage, options, secret=name, identity=judged.identity, asleep=idle.asleep
    )
    if spec.backup is not None:
        objects += backups.build_cron_jobs(
            subject.owner,
            spec,
            options,
            name,
            # Of a database that is not the right one, dumps would take the place of good ones.
            suspended=idle.asleep or judged.lost is not None or judged.unknown,
        )
    once = [secret] if secret is not None else []
    if spec.backup is not None:
        claim = backups.build_claim(subject.owner, spec.backup, retention=spec.retention)
        once += [claim] if claim is not None else []
    if idle.asleep:
        trouble = None
    elif judged.lost is not None:
        trouble = judged.lost
    elif trouble is None and not _ready(observed) and not judged.unknown:
        trouble = _unreachable(observed, now)
    plan = Plan(
        objects=tuple(objects),
        once=tuple(one for one in once if one["metadata"]["name"] not in observed.created),
        removals=_unwanted(observed, objects),
        notes=(*judged.notes, *idle.notes),
        requeue_after=idle.requeue_after,
    )
    return _with_status(observed, plan, trouble, now, judged, idle)


def _objects(
    observed: StorageObserved,
    storage: StudyStorage,
    options: OperatorOptions,
    *,
    secret: str,
    identity: str,
    asleep: bool,
) -> list[Object]:
    owner, spec = observed.subject.owner, storage.spec
    objects: list[Object] = []
    if spec.postgres.managed is not None:
        stateful_set = postgres_server.build_stateful_set(
            owner, spec, options, secret, asleep=asleep
        )
        live = observed.live.get(f"StatefulSet/{stateful_set['metadata']['name']}")
        objects += [postgres_server.build_service(owner), _keeping_fixed(stateful_set, live)]
    elif spec.postgres.cloud_native_pg is not None:
        objects.append(postgres_server.build_cnpg_cluster(owner, spec.postgres.cloud_native_pg))
    objects += proxies.build_services(owner, spec)
    if identity:
        objects.append(proxies.build_identity(owner, identity))
    if not asleep:
        objects.append(
            proxies.build_workload(owner, spec, options, workers=observed.workers, secret=secret)
        )
    kept = not asleep and (observed.runs or _in_memory(storage))
    objects += disruption.build_budgets(owner, spec, needed=kept)
    if options.network_policies:
        objects += network.build_policies(owner, spec, options)
    return objects


def _in_memory(storage: StudyStorage) -> bool:
    """Whether the trials are lost when PostgreSQL's pod is."""
    managed = storage.spec.postgres.managed
    return managed is not None and managed.empty_dir is not None


def _unwanted(observed: StorageObserved, objects: Sequence[Object]) -> tuple[Removal, ...]:
    """Return the removal of proxies that are placed otherwise by now, and of what is not wanted."""
    wanted = {f"{one['kind']}/{one['metadata']['name']}" for one in objects}
    return tuple(
        Removal(
            _REMOVABLE[live["kind"]],
            live["kind"],
            live["metadata"]["name"],
            live["metadata"]["uid"],
        )
        for name, live in observed.live.items()
        if live["kind"] in _REMOVABLE
        and name not in wanted
        and "deletionTimestamp" not in live["metadata"]
    )


def _keeping_fixed(wanted: Object, live: Mapping[str, Any] | None) -> Object:
    if live is None:
        return wanted
    spec = dict(wanted["spec"])
    for field in _FIXED:
        there = live["spec"].get(field)
        if field in spec and projected(there, spec[field]) != spec[field]:
            spec[field] = copy.deepcopy(there)
    return hashed({**wanted, "spec": spec})


def _ready(observed: StorageObserved) -> bool:
    # A pod says so itself a while before it is counted.
    pods = [pod for pod in observed.pods if pod.component == names.COMPONENT_PROXY]
    counted = observed.proxies is not None and observed.proxies.ready > 0
    return counted or any(pod.ready for pod in pods)


def _unreachable(observed: StorageObserved, now: datetime.datetime) -> Trouble | None:
    """Return that no proxy reaches the database, once that has lasted too long for a start."""
    subject = observed.subject
    if subject.has(reasons.ASLEEP):
        # It begins to start.
        return None
    if _postgres_has_started(observed) and not subject.has(reasons.POSTGRES_READY):
        # Proxies get their time from now on.
        return None
    times = (reasons.READY, reasons.ASLEEP, reasons.POSTGRES_READY)
    changes = (find(subject.conditions, one) for one in times)
    since = max(
        (
            time
            for one in changes
            if one is not None and (time := parse_time(one.last_transition_time)) is not None
        ),
        default=None,
    )
    was_ready = subject.status.get("phase") in ("Ready", "Unavailable")
    starts = _postgres_starts(observed)
    patience = _START_POSTGRES if starts else _AWAY if was_ready else _START
    if now - (since or subject.created) < patience:
        return None
    message = observed.proxy_error or "no proxy reaches the database"
    return Trouble(reasons.STORAGE_UNAVAILABLE, message)


def _postgres_has_started(observed: StorageObserved) -> bool:
    return observed.postgres is not None and observed.postgres.ready > 0


def _postgres_starts(observed: StorageObserved) -> bool:
    """Whether a PostgreSQL of ours is on its way."""
    if observed.postgres is None or observed.postgres.ready:
        return False
    pods = [pod for pod in observed.pods if pod.component == names.COMPONENT_POSTGRES]
    return any(pod.end is None and pod.trouble is None for pod in pods)


def _with_status(
    observed: StorageObserved,
    plan: Plan,
    trouble: Trouble | None,
    now: datetime.datetime,
    judged: Judgement = NOTHING_KNOWN,
    idle: Idleness = NOT_IDLE,
) -> Plan:
    subject = observed.subject
    there = observed.storage is not None and _ready(observed)
    ready = there and judged.lost is None and not (judged.unknown or idle.asleep)
    was_ready = subject.status.get("phase") in ("Ready", "Unavailable")
    dumps = plan_backups(observed, now)
    status: Object = {
        "phase": (
            "Ready"
            if ready
            else "Asleep"
            if idle.asleep
            else "Unavailable"
            if was_ready
            else "Pending"
        ),
        "observedGeneration": subject.generation,
        "conditions": [
            one.model_dump(mode="json", by_alias=True, exclude_none=True)
            for one in settle(
                subject.conditions,
                [
                    *_conditions(observed, ready, trouble, idle),
                    *([] if dumps.condition is None else [dumps.condition]),
                ],
                generation=subject.generation,
                now=now,
            )
        ],
        "studies": observed.studies,
    }
    if trouble is not None:
        status["message"] = one_line(trouble.message or trouble.reason)
    if observed.storage is not None:
        status["postgres"] = _kind(observed.storage)
        status["endpoint"] = service_address(
            names.proxy_service(subject.name), subject.namespace, names.PROXY_PORT
        )
    database = judged.database or subject.status.get("database")
    if database is not None:
        status["database"] = database
    if dumps.last is not None:
        status["lastBackupTime"] = dumps.last
    if observed.proxies is not None:
        status["proxies"] = f"{observed.proxies.ready}/{observed.proxies.desired}"
    waits = [troubles.soonest(observed.pods, now), plan.requeue_after]
    if observed.storage is not None and not ready and not idle.asleep:
        waits.append(_RECHECK)
    return Plan(
        objects=plan.objects,
        once=plan.once,
        removals=plan.removals,
        status=status,
        notes=(*plan.notes, *_notes(observed, ready, trouble), *dumps.notes),
        requeue_after=min((wait for wait in waits if wait is not None), default=None),
        urgent=True,
    )


def _kind(storage: StudyStorage) -> str:
    given = storage.spec.postgres
    if given.managed is not None:
        return "managed"
    return "external" if given.external is not None else "cloudNativePG"


def _conditions(
    observed: StorageObserved, ready: bool, trouble: Trouble | None, idle: Idleness
) -> list[Wanted]:
    waiting = trouble or Trouble(reasons.ASLEEP if idle.asleep else reasons.STARTING, "")

    def wanted(kind: str, status: bool) -> Wanted:
        if status:
            return Wanted(kind, True, reasons.AVAILABLE)
        return Wanted(kind, False, waiting.reason, waiting.message)

    there = observed.postgres is not None and observed.postgres.ready > 0
    database = ready or (there and not idle.asleep)
    stalled = (
        Wanted(reasons.STALLED, False, reasons.PROGRESSING)
        if trouble is None
        else Wanted(reasons.STALLED, True, trouble.reason, trouble.message)
    )
    spec = None if observed.storage is None else observed.storage.spec
    idle_spec = None if spec is None else spec.idle
    port = None if spec is None else spec.security.plaintext_port
    open_port = Wanted(
        reasons.PLAINTEXT_PORT,
        True,
        reasons.OPEN_WITHOUT_TOKEN,
        f"who reaches port {port} of a proxy needs no token to read, change and delete studies",
    )
    sleeps = idle_spec is not None and idle_spec.action == "Sleep"
    return [
        wanted(reasons.POSTGRES_READY, database),
        wanted(reasons.PROXIES_READY, ready),
        wanted(reasons.READY, ready),
        stalled,
        *([idle.condition] if sleeps else []),
        *([open_port] if port is not None else []),
    ]


def _notes(observed: StorageObserved, ready: bool, trouble: Trouble | None) -> tuple[Note, ...]:
    subject = observed.subject
    if ready and not subject.has(reasons.READY):
        return (Note(reasons.EVENT_READY, "the database answers and its schema is right"),)
    old = find(subject.conditions, reasons.STALLED)
    if trouble is None or (
        old is not None and old.status == "True" and old.reason == trouble.reason
    ):
        return ()
    text = trouble.message or trouble.reason
    return (Note(trouble.reason, text, "Warning", at_most_every=_TROUBLE_EVERY),)

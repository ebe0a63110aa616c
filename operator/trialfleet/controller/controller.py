"""The loop: observe, plan, apply, for each Study and StudyStorage that was woken."""

import datetime
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from trialfleet import names
from trialfleet.client.answers import GivenUp, Summary
from trialfleet.controller import obstacles
from trialfleet.controller.apply import STATUS_EVERY, Applier, NameTaken
from trialfleet.controller.ensuring import ensure
from trialfleet.controller.kinds import CHILDREN, OURS
from trialfleet.controller.memory import Memory
from trialfleet.controller.observe import (
    has_ended,
    observe_storage,
    observe_study,
    proxy_pods,
    storage_name,
    studies_of,
    subject_of,
)
from trialfleet.controller.observed import StudyObserved, Subject
from trialfleet.controller.operator_metrics import OperatorMetrics
from trialfleet.controller.options import OperatorOptions
from trialfleet.controller.ownership import (
    SWEEP_EVERY,
    delete_predecessor,
    deletes_trials,
    owner_of_trials,
    sweep,
)
from trialfleet.controller.plan import DeadWorker, Note, Plan
from trialfleet.controller.pod_view import view_pod
from trialfleet.controller.policies.deaths import note_of
from trialfleet.controller.policies.leftovers import note_of_volume
from trialfleet.controller.policies.startup import uid_of_token
from trialfleet.controller.proxy_connections import Proxies
from trialfleet.controller.secrecy import Keys
from trialfleet.controller.status import BEST
from trialfleet.controller.storage_plan import plan_storage
from trialfleet.controller.store import Key, Store, owner_of
from trialfleet.controller.study_plan import is_over, plan_study
from trialfleet.controller.wakeups import Wakeups
from trialfleet.kube import reasons
from trialfleet.kube.cluster import Cluster, ClusterError
from trialfleet.kube.kinds import CNPG
from trialfleet.kube.pod_status import Trouble
from trialfleet.model.ends import EndKind
from trialfleet.model.errors import NotFound, StorageUnavailable

_log = logging.getLogger(__name__)


_CNPG_S: Final = 30.0
"""Between two looks whether CloudNativePG is installed, while a storage asks for it."""


class Controller:
    """Of one operator process, on one event loop."""

    def __init__(
        self, cluster: Cluster, keys: Keys, options: OperatorOptions, metrics: OperatorMetrics
    ) -> None:
        self._cluster = cluster
        self._keys = keys
        self._options = options
        self.store = Store()
        self._applier = Applier(cluster, self.store)
        self.metrics = metrics
        metrics.watch(lambda: self.store.of_kind("Study"))
        self.wakeups = Wakeups(self._reconcile)
        self._memories: dict[Key, Memory] = {}
        self._proxies = Proxies(self.store, keys, lambda: cluster.check())
        self._states: dict[Key, tuple[int, bool]] = {}

    # -- what the watches tell -------------------------------------------------------------------

    def note(self, obj: Mapping[str, Any]) -> None:
        """Take note of an object as it is now."""
        if self._is_ours(obj):
            self.store.put(obj)

    def changed(self, obj: Mapping[str, Any]) -> None:
        """Wake whom an object concerns that was made or has changed."""
        if self._is_ours(obj):
            self.store.put(obj)
            self._wake_owner(obj)

    def gone(self, obj: Mapping[str, Any]) -> None:
        """Take note that an object is gone, and wake whom it concerned."""
        known = self.store.remove(obj)
        if known is None:
            return
        key = owner_of(obj)
        memory = None if key is None else self._memories.get(key)
        if obj.get("kind") == "Study":
            namespace = obj["metadata"]["namespace"]
            storage = self._memories.get(Key("StudyStorage", namespace, storage_name(known)))
            if storage is not None:
                storage.left_behind = True
        if obj.get("kind") == "StudyStorage" and memory is not None:
            memory.last = known
        if obj.get("kind") == "Pod" and memory is not None:
            # The last state may be one that no earlier event has shown.
            pod = view_pod(obj, gone=True)
            if pod.component == names.COMPONENT_WORKER and pod.uid not in memory.reported:
                memory.departed[pod.uid] = pod
        self._wake_owner(obj)

    def warned(self, event: Mapping[str, Any]) -> None:
        """Take note of a warning of somebody else's, and wake whom it concerns."""
        key = self.store.warn(event)
        if key is not None:
            self.wakeups.wake(key)

    async def verify(self) -> None:
        """Compare the store with the cluster: a watch that was cut off tells of no deletions."""
        for kind in (*OURS, *CHILDREN):
            label = "" if kind in OURS else names.LABEL_COMPONENT
            try:
                listed = await self._cluster.list(kind, self._options.namespace, label)
            except ClusterError as error:
                _log.warning("can't compare: %s", error)
                continue
            there = {obj["metadata"]["uid"] for obj in listed}
            for obj in list(self.store.of_kind(kind.kind)):
                if obj["metadata"]["uid"] not in there:
                    self.gone(obj)

    async def close(self) -> None:
        """Close the connections to proxies."""
        await self._proxies.close()

    def _is_ours(self, obj: Mapping[str, Any]) -> bool:
        """Whether an object is in a namespace that this operator looks after."""
        return obj["metadata"].get("namespace") not in self._options.excluded

    def _wake_owner(self, obj: Mapping[str, Any]) -> None:
        key = owner_of(obj)
        if key is None:
            return
        self.wakeups.wake(key)
        if obj.get("kind") == "StudyStorage":
            for study in studies_of(self.store, key.namespace, key.name):
                self.wakeups.wake(Key("Study", key.namespace, study["metadata"]["name"]))
        elif obj.get("kind") == "Study":
            # How many workers there are to be, and whether any, depends on the specs and on which
            # studies have ended: not on each new status.
            state = obj["metadata"].get("generation", 0), has_ended(obj)
            if self._states.get(key) != state or self.store.get(*key) is None:
                self._states[key] = state
                self.wakeups.wake(Key("StudyStorage", key.namespace, storage_name(obj)))

    # -- one look ----------------------------------------------------------------------------------

    async def _reconcile(self, key: Key) -> float | None:
        with self.metrics.reconcile(key.kind):
            return await self._look(key)

    async def _look(self, key: Key) -> float | None:
        obj = self.store.get(*key)
        if obj is not None and "deletionTimestamp" in obj["metadata"]:
            # What it owns is deleted by the cluster, with or without this operator.
            return None
        if obj is None:
            await self._forget(key)
            return None
        memory = self._memories.get(key)
        if memory is None or memory.uid != obj["metadata"]["uid"]:
            memory = self._memories[key] = Memory(obj["metadata"]["uid"])
        look = self._look_at_study if key.kind == "Study" else self._look_at_storage
        try:
            return await look(key, obj, memory)
        except ClusterError as error:
            if error.gone:
                # It, or its namespace, is about to go; if not, the watch will tell.
                _log.info("%s %s/%s: %s", *key, error)
                return None
            raise

    async def _forget(self, key: Key) -> None:
        # First of all: what is made anew under this name meanwhile is to be looked at.
        memory = self._memories.pop(key, None)
        self._states.pop(key, None)
        self.wakeups.forget(key)
        await self._proxies.forget(key)
        note = None if memory is None or memory.last is None else note_of_volume(memory.last)
        if memory is not None and memory.last is not None and note is not None:
            await self._applier.tell(subject_of(memory.last), [note], memory, _now())

    async def _look_at_study(
        self, key: Key, obj: Mapping[str, Any], memory: Memory
    ) -> float | None:
        now = _now()
        observed = observe_study(obj, self.store, memory, None, now)
        if observed.storage is not None and observed.storage.ready and not is_over(observed):
            summary = await self._summary(observed, memory)
            observed = observe_study(obj, self.store, memory, summary, now)
        if obstacles.misses_config(observed) or memory.unconfirmed(now):
            memory.created.clear()
            observed = replace(observed, created=frozenset())
        plan = plan_study(observed, self._options, self._keys, now)
        plan = await self._bring_about(observed.subject, plan, memory)
        served = len(memory.served)
        notes = await self._report(observed, plan.dead, memory)
        again = await self._publish(observed.subject, plan, notes, memory, now)
        memory.departed = {
            uid: pod
            for uid, pod in memory.departed.items()
            if uid not in memory.reported
            and pod.end is not None
            and pod.end.kind in (EndKind.LOST, EndKind.FAILED)
            and not is_over(observed)
        }
        if plan.ensure and await self._ensure(observed, memory):
            return 0.0
        # A worker that is known to have died with its session is replaced at once.
        return again if len(memory.served) == served else 0.0

    async def _look_at_storage(
        self, key: Key, obj: Mapping[str, Any], memory: Memory
    ) -> float | None:
        now = _now()
        waits: list[float] = []
        given = obj.get("spec", {}).get("postgres", {})
        installed = True
        if "cloudNativePG" in given and not memory.cnpg:
            installed = memory.cnpg = await self._cluster.serves(CNPG)
            waits += [] if installed else [_CNPG_S]
        observed = observe_storage(
            obj,
            self.store,
            memory,
            cnpg_installed=installed,
            identity=await self._identity(key, memory),
            proxy_error=await self._proxies.why_not(key),
        )
        if obstacles.misses_config(observed) or memory.unconfirmed(now):
            memory.created.clear()
            observed = replace(observed, created=frozenset())
        if memory.left_behind:
            observed = replace(observed, busy=True)
        plan = plan_storage(observed, self._options, self._keys, now)
        plan = await self._bring_about(observed.subject, plan, memory)
        again = await self._publish(observed.subject, plan, [], memory, now)
        swept = await self._sweep(obj, memory)
        waits += [wait for wait in (again, swept) if wait is not None]
        return min(waits, default=None)

    async def _sweep(self, obj: Mapping[str, Any], memory: Memory) -> float | None:
        """Delete the trials of Studies that are gone; return when to look again."""
        if not deletes_trials(obj):
            memory.left_behind, memory.swept = False, None
            return None
        metadata = obj["metadata"]
        if not any(pod.ready for pod in proxy_pods(self.store, *_place(metadata))):
            return None
        if memory.left_behind or memory.swept is None or _now() - memory.swept >= SWEEP_EVERY:
            # A Study that goes meanwhile is for the next time.
            memory.left_behind = False
            try:
                studies = await self._proxies.of(*_place(metadata))
                await sweep(self._cluster, studies, obj)
            except Exception:
                memory.left_behind = True
                raise
            memory.swept = _now()
        return SWEEP_EVERY.total_seconds()

    async def _bring_about(self, subject: Subject, plan: Plan, memory: Memory) -> Plan:
        """Apply the objects of a plan; return the plan, with what stood in its way."""
        try:
            await self._applier.create_once(plan.once, memory, _now())
            await self._applier.ensure(subject, plan.objects)
            await self._applier.remove(subject, plan.removals)
        except NameTaken as error:
            taken = Trouble(reasons.NAME_TAKEN, str(error))
            return obstacles.stalled(plan, subject, taken, _now())
        except ClusterError as error:
            refused = obstacles.refusal(error)
            if refused is None:
                raise
            return obstacles.stalled(plan, subject, refused, _now())
        return plan

    async def _publish(
        self,
        subject: Subject,
        plan: Plan,
        notes: list[Note],
        memory: Memory,
        now: datetime.datetime,
    ) -> float | None:
        """Write the status, then the Events; return when to look again."""
        again = None if plan.requeue_after is None else plan.requeue_after.total_seconds()
        if plan.status is not None:
            early = memory.written is not None and now - memory.written < STATUS_EVERY
            if early and not plan.urgent and memory.written is not None:
                left = (memory.written + STATUS_EVERY - now).total_seconds()
                await self._applier.tell(subject, notes, memory, now)
                return left if again is None else min(left, again)
            await self._applier.write_status(subject, plan.status, memory, now)
        await self._applier.tell(subject, [*plan.notes, *notes], memory, now)
        return again

    async def _ensure(self, observed: StudyObserved, memory: Memory) -> bool:
        """Tell the storage what a study is; whether anything is different now."""
        subject = observed.subject
        if observed.storage is None:
            return False
        storage = self.store.get("StudyStorage", subject.namespace, observed.storage.name)
        if storage is None:
            return False
        studies = await self._proxies.of(subject.namespace, observed.storage.name)
        if memory.ensured is None and deletes_trials(storage):
            await delete_predecessor(studies, storage, subject.name, subject.uid)
        owner = owner_of_trials(storage, subject.uid)
        bare_tokens = not uid_of_token(observed, self._keys)
        return await ensure(
            self._cluster, studies, observed, memory, owner=owner, bare_tokens=bare_tokens
        )

    # -- what only proxies know ------------------------------------------------------------------

    async def _summary(self, observed: StudyObserved, memory: Memory) -> Summary | None:
        if memory.ensured != observed.subject.generation or memory.study_id is None:
            return None
        assert observed.storage is not None
        studies = await self._proxies.of(observed.subject.namespace, observed.storage.name)
        try:
            return await studies.summary(memory.study_id, BEST)
        except StorageUnavailable as error:
            _log.info("study %s: %s", observed.subject.name, error)
        except NotFound:
            # The database is another, or was emptied: the study begins anew.
            memory.ensured = memory.study_id = None
        return None

    async def _report(
        self, observed: StudyObserved, dead: tuple[DeadWorker, ...], memory: Memory
    ) -> list[Note]:
        """Tell a proxy which workers are dead; return the Events about it."""
        if not dead or observed.storage is None:
            return []
        studies = await self._proxies.of(observed.subject.namespace, observed.storage.name)
        reported: list[tuple[DeadWorker, GivenUp]] = []
        for worker in dead:
            try:
                given_up = await studies.give_up(
                    worker=worker.worker,
                    reason=worker.reason,
                    message=worker.message,
                    failed=worker.failed,
                )
            except StorageUnavailable as error:
                _log.warning("worker %s is dead, and %s", worker.worker, error)
                break
            memory.reported.add(worker.pod)
            if given_up.opened:
                memory.served.add(worker.pod)
            reported.append((worker, given_up))
        return note_of(reported)

    async def _identity(self, key: Key, memory: Memory) -> str:
        """Return the identity of the database that proxies serve; empty if none serves."""
        if not any(pod.ready for pod in proxy_pods(self.store, key.namespace, key.name)):
            memory.identified = False
            return ""
        if not memory.identified:
            studies = await self._proxies.of(key.namespace, key.name)
            try:
                told = await studies.identity()
            except StorageUnavailable:
                return ""
            if memory.database not in ("", told):
                # What studies are called there is not what they were called before.
                for study in studies_of(self.store, key.namespace, key.name):
                    name = study["metadata"]["name"]
                    known = self._memories.get(Key("Study", key.namespace, name))
                    if known is not None:
                        known.ensured = known.study_id = None
            memory.database, memory.identified = told, True
        return memory.database


def _place(metadata: Mapping[str, Any]) -> tuple[str, str]:
    return metadata["namespace"], metadata["name"]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)

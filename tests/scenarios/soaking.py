"""A soak: everything that a study on a cluster needs fails, alone and together, for long."""

import json
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.controller.kube import KubeError
from tests.scenarios.env import Env
from tests.soak.faults import Burst, bursts
from tests.soak.watcher import HEALED_S, Reading, Watcher
from trialfleet import names

STUDY: Final = "soaked"
STORAGE: Final = "soaked"
OWNERLESS_S: Final = 10.0
LONGEST_FAULT_S: Final = 10.0
SILENT_S: Final = names.SESSION_TIME_TO_LIVE_S
"""Until a worker that is frozen counts as dead."""
CHILDREN: Final = (
    *("jobs", "services", "configmaps", "networkpolicies"),
    *("deployments", "daemonsets", "statefulsets"),
)
_PAUSE_S: Final = 0.5
_LAG_S: Final = 5.0
"""For the status to follow what was changed."""


class Soak:
    """The study, and for each kind of fault a method that breaks something: its name is the kind.

    Each returns what mends it again.
    """

    def __init__(self, env: Env) -> None:
        self.env = env
        self.parallelism = 2
        self.budget = 1_000
        self.suspended_now = False
        self.troubled = False
        self.frozen_at = float("-inf")
        self.watcher = Watcher(OWNERLESS_S)
        self.status: dict[str, Any] = {}
        self._budgets: deque[tuple[float, int]] = deque(maxlen=50)
        self._reached = 0
        """Trials that counted or ran when the budget's last change had arrived."""
        self._versions = 0

    def begin(self) -> None:
        """Create the study."""
        self._budgets.append((time.monotonic(), self.budget))
        self.env.study(
            STUDY,
            seconds=0.3,
            budget={"trials": self.budget},
            parallelism=self.parallelism,
            retries=100,
            storage={"name": STORAGE},
        )

    def look(self) -> None:
        """Take a reading, wherever the API server is."""
        now = time.monotonic()
        if self.troubled:
            self.watcher.trouble(now)
        study = self.env.kube.find("studies", STUDY)
        if study is None:
            return
        self.status = study.get("status", {})
        trials = Counter(self.status.get("trials", {}))
        counted = trials["complete"] + trials["pruned"] + trials["failed"]
        # One that is being deleted hands its trial back, unless it is frozen: until it is killed.
        pods = [
            pod
            for pod in self.env.kube.list("pods", study=STUDY, component="worker")
            if pod.get("status", {}).get("phase") == "Running"
        ]
        # Which trial is whose the status does not say: more of them than workers have none.
        ownerless = range(max(0, trials["running"] - len(pods)))
        reading = Reading(
            study=f"{STUDY} {study['metadata']['uid']}",
            finished=counted + trials["lost"],
            counted=counted,
            running=trials["running"],
            budget=self._budget_at(now, counted + trials["running"]),
            ownerless=ownerless,
            size=len(json.dumps(study, separators=(",", ":"))),
        )
        self.watcher.look(reading, now)
        if counted > self.budget - 100:
            self._change_budget(self.budget + 1_000)

    def _budget_at(self, now: float, reached: int) -> int:
        """Return the largest that the status may be of: it follows what was changed a bit later.

        A budget that is made smaller than what there is by then takes nothing back.
        """
        recent = [most for at, most in self._budgets if at > now - _LAG_S]
        if recent:
            self._reached = reached
        return max([*recent, self.budget, self._reached])

    def healed(self, after_s: float) -> bool:
        """Whether as many workers are ready as are wanted, some time after the last fault."""
        desired = 0 if self.suspended_now else self.parallelism
        workers = self.status.get("workers", {})
        if time.monotonic() < self.frozen_at + SILENT_S + HEALED_S:
            return bool(desired == workers.get("ready", 0))
        return self.watcher.healed(desired, workers.get("ready", 0), after_s)

    # -- faults ------------------------------------------------------------------------------

    def worker_killed(self, place: int) -> Callable[[], None]:
        self._each(self.env.kill, self._worker(place))
        return _nothing

    def worker_frozen(self, place: int) -> Callable[[], None]:
        self.frozen_at = time.monotonic()
        self._each(lambda pod: self.env.hang(pod, names.WORKER_CONTAINER), self._worker(place))
        return _nothing

    def worker_evicted(self, place: int) -> Callable[[], None]:
        self._each(self.env.evict, self._worker(place))
        return _nothing

    def worker_deleted(self, place: int) -> Callable[[], None]:
        self._delete("pods", self._worker(place))
        return _nothing

    def proxy_deleted(self, place: int) -> Callable[[], None]:
        return self._pod_deleted("proxy", place)

    def postgres_deleted(self, place: int) -> Callable[[], None]:
        return self._pod_deleted("postgres", place)

    def child_deleted(self, place: int) -> Callable[[], None]:
        found = [
            (kind, one["metadata"]["name"])
            for kind in CHILDREN
            for labels in ({"study": STUDY}, {"storage": STORAGE})
            for one in self.env.kube.list(kind, **labels)
        ]
        if found:
            kind, name = found[place % len(found)]
            print(f"  {kind}/{name}", flush=True)
            self._delete(kind, [name])
        return _nothing

    def operator_killed(self, place: int) -> Callable[[], None]:
        self.env.stop_operator()
        return self.env.start_operator

    def api_broken(self, place: int) -> Callable[[], None]:
        """A share of the operator's requests is refused, its watches are dropped."""
        if self.env.break_api is None:
            pytest.skip("a real API server")
        self.env.break_api(True)
        return lambda: self.env.break_api and self.env.break_api(False)

    def pods_refused(self, place: int) -> Callable[[], None]:
        self.env.refuse_pods(True)
        return lambda: self.env.refuse_pods(False)

    def scaled(self, place: int) -> Callable[[], None]:
        self.parallelism = 1 + place % 3
        self._patch({"parallelism": self.parallelism})
        return _nothing

    def suspended(self, place: int) -> Callable[[], None]:
        self._suspend(True)
        return lambda: self._suspend(False)

    def budget_changed(self, place: int) -> Callable[[], None]:
        trials = self.status.get("trials", {}).get("complete", 0)
        self._change_budget(max(1, trials - 20 + place % 200))
        return _nothing

    def template_changed(self, place: int) -> Callable[[], None]:
        self._versions += 1
        worker = {"name": "worker", "env": [{"name": "VERSION", "value": str(self._versions)}]}
        self._patch({"template": {"spec": {"containers": [worker]}}})
        return _nothing

    def study_made_anew(self, place: int) -> Callable[[], None]:
        self.env.kube.delete("studies", STUDY)

        def make() -> None:
            deadline = time.monotonic() + HEALED_S
            while self.env.kube.find("studies", STUDY) is not None:
                assert time.monotonic() < deadline, "the study is still being deleted"
                time.sleep(_PAUSE_S)
            self.begin()

        return make

    def _worker(self, place: int) -> list[str]:
        found = sorted(
            one["metadata"]["name"]
            for one in self.env.workers(STUDY)
            if one.get("status", {}).get("phase") == "Running"
        )
        return [found[place % len(found)]] if found else []

    def _each(self, harm: Callable[[str], None], pods: list[str]) -> None:
        for pod in pods:
            try:
                harm(pod)
            except (KubeError, KeyError, ProcessLookupError):
                print(f"  {pod} is gone", flush=True)

    def _pod_deleted(self, component: str, place: int) -> Callable[[], None]:
        found = [one["metadata"]["name"] for one in self.env.pods(STORAGE, component)]
        self._delete("pods", found[place % len(found) :][:1] if found else [])
        return _nothing

    def _delete(self, kind: str, found: list[str]) -> None:
        for name in found:
            try:
                self.env.kube.delete(kind, name)
            except KubeError as error:
                assert error.code == 404, error

    def _patch(self, spec: dict[str, Any]) -> None:
        if self.env.kube.find("studies", STUDY) is not None:
            self.env.kube.patch("studies", STUDY, {"spec": spec})

    def _suspend(self, wanted: bool) -> None:
        self.suspended_now = wanted
        self._patch({"suspend": wanted})

    def _change_budget(self, trials: int) -> None:
        self.budget = trials
        self._budgets.append((time.monotonic(), trials))
        self._patch({"budget": {"trials": trials}})


KINDS: Final = sorted(
    name
    for name, found in vars(Soak).items()
    if not name.startswith("_") and getattr(found, "__annotations__", {}).get("place") is int
)


def _nothing() -> None:
    """Mend what mends itself."""


def _break(soak: Soak, burst: Burst, done: Counter[str], impossible: set[str]) -> None:
    mends = []
    soak.troubled = True
    for fault in burst.faults:
        _go_on(soak, fault.pause_s)
        print(f"{time.strftime('%H:%M:%S')} {fault.kind} {fault.place}", flush=True)
        try:
            mends.append(getattr(soak, fault.kind)(fault.place))
            done[fault.kind] += 1
        except pytest.skip.Exception:
            impossible.add(fault.kind)
    _go_on(soak, burst.lasting_s)
    for mend in reversed(mends):
        mend()
    soak.troubled = False


def _go_on(soak: Soak, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        soak.look()
        time.sleep(_PAUSE_S)


def _heal(soak: Soak) -> None:
    began = time.monotonic()
    finished = Counter(soak.status.get("trials", {}))
    while True:
        _go_on(soak, _PAUSE_S)
        after_s = time.monotonic() - began
        goes_on = Counter(soak.status.get("trials", {})) != finished
        if (soak.healed(after_s) and goes_on) or after_s > SILENT_S + 2 * HEALED_S:
            return


@pytest.mark.soak
def test_nothing_is_lost_on_a_cluster(own_env: Env, soak_minutes: float, soak_seed: int) -> None:
    env = own_env
    env.storage(STORAGE)
    env.ready(STORAGE)
    soak = Soak(env)
    soak.begin()
    _heal(soak)
    done: Counter[str] = Counter()
    impossible: set[str] = set()
    until = time.monotonic() + soak_minutes * 60
    for burst in bursts(KINDS, soak_seed, LONGEST_FAULT_S):
        if time.monotonic() > until:
            break
        _break(soak, burst, done, impossible)
        _heal(soak)
        if soak.watcher.violations:
            print(*soak.watcher.violations, env.describe(STUDY), sep="\n", flush=True)
    print(f"faults: {sum(done.values())}: {dict(sorted(done.items()))}")
    print(f"not possible here: {sorted(impossible)}")
    print(
        f"{soak.watcher.readings} readings, trials at last {soak.status.get('trials')}, "
        f"healed after {soak.watcher.longest_healing_s:.1f} s at most; "
        f"violations: {len(soak.watcher.violations)}"
    )
    env.kube.delete("studies", STUDY)
    env.wait_no_pods(STUDY)
    left = [
        one["metadata"]["name"] for kind in CHILDREN for one in env.kube.list(kind, study=STUDY)
    ]
    assert left == []
    assert soak.watcher.violations == []

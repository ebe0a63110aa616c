"""The loop around the plans: wake-ups, what is known of the cluster, what is written."""

import asyncio
import copy
import dataclasses
from typing import Any, cast

import pytest

from tests.controller.observations import KEYS, OPTIONS
from trialfleet import names
from trialfleet.controller.build.comparing import projected
from trialfleet.controller.controller import Controller
from trialfleet.controller.operator_metrics import OperatorMetrics
from trialfleet.controller.options import OperatorOptions
from trialfleet.controller.secrecy import Keys
from trialfleet.controller.store import Key, Store, owner_of
from trialfleet.controller.wakeups import GAP_S, Wakeups
from trialfleet.kube.cluster import Cluster, ClusterError
from trialfleet.kube.objects import Owner, hashed

A, B = Key("Study", "ns", "a"), Key("Study", "ns", "b")


def obj(version: int, kind: str = "Job", uid: str = "u", **labels: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "metadata": {
            "name": "x",
            "namespace": "ns",
            "uid": uid,
            "resourceVersion": str(version),
            "labels": labels or {names.LABEL_STUDY: "a", names.LABEL_COMPONENT: "worker"},
        },
    }


class TestStore:
    def test_an_older_state_does_not_replace_a_newer(self) -> None:
        store = Store()
        assert store.put(obj(10))
        assert not store.put(obj(9))
        assert store.put(obj(11))
        assert store.owned(A, "Job")[0]["metadata"]["resourceVersion"] == "11"

    def test_a_successor_is_not_removed_with_its_predecessor(self) -> None:
        store = Store()
        store.put(obj(10, uid="new"))
        assert store.remove(obj(11, uid="old")) is None
        assert store.remove(obj(12, uid="new")) is not None
        assert store.owned(A, "Job") == []

    def test_a_pod_belongs_to_its_study_or_its_storage(self) -> None:
        worker = obj(
            1,
            "Pod",
            **{
                names.LABEL_STUDY: "a",
                names.LABEL_STORAGE: "s",
                names.LABEL_COMPONENT: names.COMPONENT_WORKER,
            },
        )
        proxy = obj(
            1, "Pod", **{names.LABEL_STORAGE: "s", names.LABEL_COMPONENT: names.COMPONENT_PROXY}
        )
        assert owner_of(worker) == A
        assert owner_of(proxy) == Key("StudyStorage", "ns", "s")

    def test_the_newest_warning_counts(self) -> None:
        store = Store()
        store.put(obj(10))
        for last, message in (("2026-01-01T00:00:02Z", "new"), ("2026-01-01T00:00:01Z", "old")):
            assert store.warn(warning(last, message)) == A
        warned = store.warning("u")
        assert warned is not None and warned.message == "new"

    def test_a_warning_may_come_before_its_object(self) -> None:
        store = Store()
        assert store.warn(warning("2026-01-01T00:00:02Z", "early")) is None
        store.put(obj(10))
        warned = store.warning("u")
        assert warned is not None and warned.message == "early"


def warning(last: str, message: str) -> dict[str, Any]:
    involved = {"kind": "Job", "namespace": "ns", "name": "x", "uid": "u"}
    return {"involvedObject": involved, "lastTimestamp": last, "message": message}


class TestWakeups:
    @pytest.mark.parametrize(
        ("code", "traceback"),
        [(0, False), (409, False), (429, False), (500, False), (503, False), (422, True)],
    )
    def test_a_busy_api_server_is_told_in_a_line(
        self, code: int, traceback: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def run() -> None:
            done = asyncio.Event()

            async def look(key: Key) -> float | None:
                if not done.is_set():
                    done.set()
                    raise ClusterError(code, "Why", "PATCH /apis/jobs/x: refused")
                return None

            wakeups = Wakeups(look)
            task = asyncio.create_task(wakeups.run())
            wakeups.wake(A)
            await asyncio.wait_for(done.wait(), 5)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        with caplog.at_level("WARNING"):
            asyncio.run(run())
        (record,) = caplog.records
        assert "Study ns/a: PATCH /apis/jobs/x: refused; again in 1 s" in record.getMessage()
        assert bool(record.exc_info) == traceback

    def test_many_wake_ups_are_one_look(self) -> None:
        async def run() -> list[Key]:
            looks: list[Key] = []
            done = asyncio.Event()

            async def look(key: Key) -> float | None:
                looks.append(key)
                if len(looks) == 2:
                    done.set()
                return None

            wakeups = Wakeups(look)
            task = asyncio.create_task(wakeups.run())
            for _ in range(50):
                wakeups.wake(A)
                wakeups.wake(B)
            await asyncio.wait_for(done.wait(), 5)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return looks

        assert sorted(asyncio.run(run())) == [A, B]

    def test_never_twice_at_once_and_again_if_woken_meanwhile(self) -> None:
        async def run() -> tuple[int, int]:
            at_once = most = looks = 0
            done = asyncio.Event()
            wakeups: Wakeups

            async def look(key: Key) -> float | None:
                nonlocal at_once, most, looks
                at_once, looks = at_once + 1, looks + 1
                most = max(most, at_once)
                wakeups.wake(key)
                await asyncio.sleep(0)
                at_once -= 1
                if looks == 3:
                    done.set()
                return None

            wakeups = Wakeups(look)
            task = asyncio.create_task(wakeups.run())
            wakeups.wake(A)
            began = asyncio.get_running_loop().time()
            await asyncio.wait_for(done.wait(), 5)
            assert asyncio.get_running_loop().time() - began >= 2 * GAP_S
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return most, looks

        assert asyncio.run(run()) == (1, 3)

    def test_a_failure_is_tried_again(self) -> None:
        async def run() -> int:
            looks = 0
            done = asyncio.Event()

            async def look(key: Key) -> float | None:
                nonlocal looks
                looks += 1
                if looks == 1:
                    raise ConnectionError("away")
                done.set()
                return None

            wakeups = Wakeups(look)
            task = asyncio.create_task(wakeups.run())
            wakeups.wake(A)
            await asyncio.wait_for(done.wait(), 10)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return looks

        assert asyncio.run(run()) == 2


@pytest.mark.parametrize(
    ("live", "wanted", "same"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 2}, {"a": 1}, False),
        ({}, {"a": 1}, False),
        ([{"name": "x", "v": 1, "w": 2}, {"name": "y"}], [{"name": "x", "v": 1}], True),
        ([{"name": "y"}], [{"name": "x"}], False),
        ([{"name": "x", "v": 2}], [{"name": "x", "v": 1}], False),
        ([1, 2], [1, 2], True),
        ([1], [1, 2], False),
        ([{"p": 1, "q": 2}], [{"p": 1}], True),
        ({"selector": {"a": 1, "theirs": 2}}, {"selector": {"a": 1}}, False),
    ],
)
def test_what_was_filled_in_is_no_difference(live: Any, wanted: Any, same: bool) -> None:
    assert (projected(live, wanted) == wanted) is same


def test_the_hash_is_of_the_rest() -> None:
    one = Owner("Study", "q", "ns", "u").make("v1", "ConfigMap", "c", "study", data={"a": "1"})
    assert hashed(copy.deepcopy(one)) == one
    other = Owner("Study", "q", "ns", "u").make("v1", "ConfigMap", "c", "study", data={"a": "2"})
    key = names.ANNOTATION_HASH
    assert one["metadata"]["annotations"][key] != other["metadata"]["annotations"][key]


def test_passwords_are_derived() -> None:
    keys = Keys(b"k" * 32)
    assert keys.password("postgres", "ns", "a") == keys.password("postgres", "ns", "a")
    assert keys.password("postgres", "ns", "a") != keys.password("postgres", "n", "sa")
    assert keys.password("postgres", "ns", "a") != Keys(b"l" * 32).password("postgres", "ns", "a")
    assert keys.password("postgres", "ns", "a").isalnum()


def test_a_storage_made_anew_while_the_end_of_the_old_one_is_told_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[Any] = []
    new, old = (
        {**study(uid), "kind": "StudyStorage", "spec": {"postgres": {"managed": {}}}}
        for uid in ("new", "old")
    )

    async def run() -> None:
        controller = controller_of(OPTIONS)
        looked = asyncio.Event()

        async def look(key: Key, seen: Any, memory: Any) -> None:
            looks.append(seen["metadata"]["uid"])
            looked.set()

        async def tell(*_: Any) -> None:
            controller.changed(new)

        monkeypatch.setattr(controller._applier, "tell", tell)
        monkeypatch.setattr(controller, "_look_at_storage", look)
        controller.changed(old)
        task = asyncio.create_task(controller.wakeups.run())
        await asyncio.wait_for(looked.wait(), 5)
        looked.clear()
        controller.gone(old)
        await asyncio.wait_for(looked.wait(), 5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert looks == ["old", "new"]


def test_a_namespace_that_is_excluded_is_left_alone() -> None:
    looks: list[Key] = []

    async def run() -> None:
        options = dataclasses.replace(OPTIONS, excluded=frozenset({"ns"}))
        controller = controller_of(options)
        looked = asyncio.Event()

        async def look(key: Key, *_: Any) -> None:
            looks.append(key)
            looked.set()

        controller._look_at_study = look  # type: ignore[assignment]
        elsewhere = copy.deepcopy(study("v"))
        elsewhere["metadata"]["namespace"] = "other"
        for one in (study("u"), elsewhere):
            controller.note(one)
            controller.changed(one)
        task = asyncio.create_task(controller.wakeups.run())
        await asyncio.wait_for(looked.wait(), 5)
        controller.gone(study("u"))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert looks == [Key("Study", "other", "a")]


def controller_of(options: OperatorOptions) -> Controller:
    metrics = OperatorMetrics(dict, lambda: True)
    return Controller(cast(Cluster, None), KEYS, options, metrics)


def study(uid: str) -> dict[str, Any]:
    metadata = {"name": "a", "namespace": "ns", "uid": uid, "resourceVersion": "7"}
    return {"kind": "Study", "metadata": metadata, "spec": {}}

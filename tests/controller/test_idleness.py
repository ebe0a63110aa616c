"""When a storage sleeps, and what is left of it then."""

import dataclasses
import datetime
from typing import Any

import pytest

from tests.controller.observations import (
    KEYS,
    NOW,
    OPTIONS,
    ago,
    conditions,
    made,
    removed,
    storage_observed,
    study,
    workload,
)
from trialfleet.controller.build import own_storage
from trialfleet.controller.plan import Plan
from trialfleet.controller.storage_plan import plan_storage
from trialfleet.kube import reasons
from trialfleet.kube.objects import Owner

SLEEPS = {"idle": {"after": "10m"}}


def condition(kind: str, since_s: float, status: str = "True") -> dict[str, str]:
    moment = ago(since_s).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": kind, "status": status, "reason": "x", "lastTransitionTime": moment}


ASLEEP = [condition(reasons.ASLEEP, 3600)]
READY = {"phase": "Ready", "conditions": [condition(reasons.READY, 3600)]}


def plan(spec: dict[str, Any], status: Any = None, **changes: Any) -> Plan:
    """Return the plan for a storage that has been ready for an hour."""
    there = {"postgres": workload(1, 1), "proxies": workload(1, 1)}
    seen = storage_observed(spec, **{**there, **changes})
    subject = dataclasses.replace(seen.subject, created=ago(3600), status=status or READY)
    return plan_storage(dataclasses.replace(seen, subject=subject), OPTIONS, KEYS, NOW)


def is_asleep(planned: Plan) -> bool:
    assert planned.status is not None
    return bool(planned.status["phase"] == "Asleep")


@pytest.mark.parametrize(
    ("spec", "changes", "asleep"),
    [
        (SLEEPS, {"ended": ago(601)}, True),
        (SLEEPS, {"ended": ago(599)}, False),
        (SLEEPS, {"ended": ago(601), "busy": True}, False),
        # Nobody has used it yet: as long after it was made.
        (SLEEPS, {}, True),
        (SLEEPS, {"ended": ago(3000), "woken": ago(599)}, False),
        (SLEEPS, {"ended": ago(3000), "woken": ago(601)}, True),
        ({"idle": {"after": "10m", "action": "Keep"}}, {"ended": ago(3000)}, False),
        ({}, {"ended": ago(3000)}, False),
        ({**SLEEPS, "postgres": {"managed": {"emptyDir": {}}}}, {"ended": ago(3000)}, False),
    ],
)
def test_when(spec: dict[str, Any], changes: dict[str, Any], asleep: bool) -> None:
    assert is_asleep(plan(spec, **changes)) is asleep


@pytest.mark.parametrize(
    ("before", "woken_s", "asleep"),
    [
        # It begins to start: the annotation alone counts.
        (ASLEEP, 9, False),
        (ASLEEP, 11, True),
        # It starts, and takes longer than it is to stay awake.
        ([condition(reasons.ASLEEP, 60, "False")], 60, False),
        ([condition(reasons.ASLEEP, 601, "False")], 601, True),
        # It has served for so long.
        ([condition(reasons.READY, 9)], 60, False),
        ([condition(reasons.READY, 11)], 60, True),
    ],
)
def test_who_woke_it_has_something_of_it(
    before: list[dict[str, str]], woken_s: float, asleep: bool
) -> None:
    status = {"phase": "Pending", "conditions": before}
    planned = plan({"idle": {"after": "10s"}}, status, ended=ago(3000), woken=ago(woken_s))
    assert is_asleep(planned) is asleep


def test_it_is_looked_at_again_when_it_is_to_sleep() -> None:
    assert plan(SLEEPS, ended=ago(590)).requeue_after == datetime.timedelta(seconds=10)


def test_nothing_runs_and_the_volume_stays() -> None:
    proxies = {"kind": "DaemonSet", "metadata": {"name": "s-tf-proxy", "uid": "u"}}
    planned = plan(SLEEPS, ended=ago(601), live={"DaemonSet/s-tf-proxy": proxies})
    (stateful_set,) = (one for one in planned.objects if one["kind"] == "StatefulSet")
    assert stateful_set["spec"]["replicas"] == 0
    assert stateful_set["spec"]["volumeClaimTemplates"]
    assert "DaemonSet/s-tf-proxy" not in made(planned)
    assert removed(planned) == ["DaemonSet/s-tf-proxy"]
    assert conditions(planned)["Ready"] == ("False", reasons.ASLEEP)
    assert conditions(planned)["Stalled"][0] == "False"
    assert conditions(planned)["Asleep"] == ("True", reasons.NO_STUDY_RUNS)
    assert [(note.reason, note.type) for note in planned.notes] == [
        (reasons.EVENT_ASLEEP, "Normal")
    ]
    assert planned.requeue_after is None


def test_it_wakes_without_an_alarm() -> None:
    status = {"phase": "Asleep", "conditions": ASLEEP}
    planned = plan(SLEEPS, status, busy=True, postgres=workload(0, 0), proxies=None)
    assert planned.status is not None
    (stateful_set,) = (one for one in planned.objects if one["kind"] == "StatefulSet")
    assert stateful_set["spec"]["replicas"] == 1
    assert "DaemonSet/s-tf-proxy" in made(planned)
    assert conditions(planned)["Asleep"] == ("False", reasons.NEEDED)
    assert [note.reason for note in planned.notes] == [reasons.EVENT_AWAKE]
    again = plan(SLEEPS, planned.status, busy=True, postgres=workload(0, 1), proxies=workload(0, 1))
    assert conditions(again)["Stalled"] == ("False", reasons.PROGRESSING)


def test_proxies_that_are_placed_otherwise_replace_the_earlier_ones() -> None:
    live = {"kind": "DaemonSet", "metadata": {"name": "s-tf-proxy", "uid": "u"}}
    shared = {"proxy": {"placement": "Shared"}}
    planned = plan(shared, live={"DaemonSet/s-tf-proxy": live})
    assert removed(planned) == ["DaemonSet/s-tf-proxy"]
    assert "Deployment/s-tf-proxy" in made(planned)


def test_a_studys_own_storage_has_one_proxy_and_sleeps() -> None:
    owner = Owner("Study", "q", "ns", "uid-q")
    spec = own_storage.build_own_storage(owner, study(storage=None))["spec"]
    assert spec["proxy"]["placement"] == "Shared"
    assert spec["idle"] == {"after": "10m", "action": "Sleep"}
    kept = study(storage={"idle": {"action": "Keep"}})
    assert kept.spec.storage_name is None
    assert own_storage.build_own_storage(owner, kept)["spec"]["idle"]["action"] == "Keep"

"""What is decided when a database is not the one that held the trials."""

import dataclasses
from typing import Any

from tests.controller.observations import (
    KEYS,
    NOW,
    OPTIONS,
    conditions,
    made,
    storage_observed,
    workload,
)
from trialfleet import names
from trialfleet.controller.observed import StorageObserved
from trialfleet.controller.plan import Plan
from trialfleet.controller.storage_plan import plan_storage
from trialfleet.kube import reasons

ONE, TWO = (f"{digit * 8}-0000-4000-8000-{digit * 12}" for digit in "12")
SEEN = "2026-03-01T11:00:00Z"
KNOWN = {"identity": ONE, "studies": 2, "trials": 79, "seenTime": SEEN}


def seen(spec: dict[str, Any] | None = None, *, known: Any = KNOWN, **changes: Any) -> Plan:
    """Return the plan for a storage of which something is known."""
    there = {"postgres": workload(1, 1), "proxies": workload(1, 1), "studies": 2}
    base: StorageObserved = storage_observed(spec, **{**there, **changes})
    status = {"phase": "Ready", **({} if known is None else {"database": known})}
    base = dataclasses.replace(base, subject=dataclasses.replace(base.subject, status=status))
    return plan_storage(base, OPTIONS, KEYS, NOW)


def identity_of(plan: Plan) -> str | None:
    """Return the identity that proxies are told."""
    for obj in plan.objects:
        if obj["kind"] == "ConfigMap":
            return str(obj["data"]["identity"])
    return None


def test_an_identity_is_kept_as_soon_as_it_is_told() -> None:
    plan = seen(known=None)
    assert plan.status is not None and "database" not in plan.status
    assert identity_of(plan) is None
    plan = seen(known=None, identity=ONE, trials=3)
    assert plan.status is not None
    assert plan.status["database"] == {
        **KNOWN,
        "trials": 3,
        "seenTime": NOW.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    assert identity_of(plan) == ONE
    before_proxies = made(plan).index(f"ConfigMap/{names.identity_config_name('s')}")
    assert before_proxies < made(plan).index("DaemonSet/s-tf-proxy")


def test_it_is_written_again_only_when_something_else_is_known() -> None:
    plan = seen(identity=ONE, trials=79)
    assert plan.status is not None and plan.status["database"] == KNOWN
    assert conditions(plan)["Ready"][0] == "True"
    plan = seen(identity=ONE, trials=80)
    assert plan.status is not None and plan.status["database"]["trials"] == 80


def test_another_database_is_a_loss() -> None:
    plan = seen(identity=TWO, trials=90)
    assert conditions(plan)["Ready"] == ("False", reasons.DATA_LOST)
    assert conditions(plan)["Stalled"] == ("True", reasons.DATA_LOST)
    assert plan.status is not None
    assert plan.status["phase"] == "Unavailable"
    assert plan.status["database"] == {**KNOWN, "trials": 90}
    (note,) = plan.notes
    assert (note.reason, note.type) == (reasons.DATA_LOST, "Warning")
    for part in (TWO, f"{ONE}, had 90 finished trials of 2 studies at {SEEN}", "acceptDataLoss"):
        assert part in note.message
    assert identity_of(plan) == ONE


def test_an_empty_one_is_a_loss_in_the_proxys_words() -> None:
    told = "DataLost: the database is empty; the trials of this storage were elsewhere"
    plan = seen(proxies=workload(0), proxy_error=told)
    assert conditions(plan)["Stalled"] == ("True", reasons.DATA_LOST)
    assert plan.notes[0].message.startswith("the database is empty; the one of before")


def test_a_database_that_is_away_is_no_loss() -> None:
    plan = seen(proxies=workload(0), proxy_error="the database is away: no route")
    assert conditions(plan)["Stalled"][1] != reasons.DATA_LOST
    assert plan.status is not None and plan.status["database"] == KNOWN


def test_a_loss_that_is_accepted_is_none() -> None:
    spec = {"acceptDataLoss": ONE}
    plan = seen(spec, proxies=workload(0), proxy_error="DataLost: the database is empty; x")
    assert conditions(plan)["Stalled"] == ("False", reasons.PROGRESSING)
    (daemon_set,) = (one for one in plan.objects if one["kind"] == "DaemonSet")
    (container,) = daemon_set["spec"]["template"]["spec"]["containers"]
    assert f"--accept-data-loss={ONE}" in container["args"]
    assert conditions(seen(spec))["Ready"][0] == "False"
    plan = seen(spec, identity=TWO, trials=0)
    assert conditions(plan)["Ready"][0] == "True"
    assert plan.status is not None and plan.status["database"]["identity"] == TWO
    assert identity_of(plan) == TWO
    assert reasons.EVENT_LOSS_ACCEPTED in [note.reason for note in plan.notes]


def test_what_was_accepted_once_is_not_accepted_of_the_next() -> None:
    plan = seen({"acceptDataLoss": ONE}, known={**KNOWN, "identity": TWO}, identity=ONE)
    assert conditions(plan)["Stalled"] == ("True", reasons.DATA_LOST)

"""What a study costs the API server: few requests, and none without a reason."""

import math
import time

import pytest

from tests.controller.kube import wait_for
from tests.controller.standin.standin import StandIn
from tests.scenarios.env import Env
from trialfleet import names

pytestmark = pytest.mark.scenario

FIXED = 16
"""Requests of a study beside its status while it runs: its objects, its Events, its phases."""


def requests(standin: StandIn) -> list[str]:
    """Return what the operator asked for, but for its Lease, which it renews all the time."""
    return [
        f"{one.method} {one.path}"
        for one in standin.requests
        if one.agent == names.OPERATOR and "/leases/" not in one.path
    ]


def test_a_study_costs_a_bounded_number_of_requests(env: Env, standin: StandIn) -> None:
    before, began = len(requests(standin)), time.monotonic()
    env.study("cheap", seconds=0.2, budget={"trials": 50})
    env.wait_condition("cheap", "Complete")
    env.wait_no_pods("cheap")
    took_s = time.monotonic() - began
    made = requests(standin)[before:]
    assert len(made) <= FIXED + math.ceil(took_s / 2), "\n".join(made)
    assert not [one for one in made if one.startswith("GET")], made


def test_nothing_is_asked_of_the_api_server_without_a_reason(env: Env, standin: StandIn) -> None:
    env.study("over", budget={"trials": 2})
    env.wait_condition("over", "Complete")
    env.wait_no_pods("over")
    env.study("idle", parallelism=0)
    env.wait_condition("idle", "StorageReady")
    made, since = -1, 0.0

    def is_quiet() -> bool:
        nonlocal made, since
        now = len(requests(standin))
        if now != made:
            made, since = now, time.monotonic()
        return time.monotonic() - since >= 6

    wait_for("six seconds without a request", is_quiet, 20)

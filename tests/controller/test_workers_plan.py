"""How many workers are planned, and in which Jobs."""

import dataclasses
from typing import Any

import pytest

from tests.controller.observations import (
    NOW,
    OPTIONS,
    REACH,
    ago,
    job,
    observed,
    pod,
    study,
    subject,
    summary,
)
from trialfleet import names
from trialfleet.controller.build.worker_job import NO_LIMIT
from trialfleet.controller.observed import StudyObserved
from trialfleet.controller.pod_view import PodView
from trialfleet.controller.policies.workers import Workers, plan_workers
from trialfleet.kube import reasons
from trialfleet.kube.pod_status import Trouble
from trialfleet.model.ends import EndKind, WorkerEnd


def plan(seen: StudyObserved) -> Workers:
    return plan_workers(seen, OPTIONS, REACH, NOW)


def sizes(planned: Workers) -> dict[str, int]:
    return {one["metadata"]["name"]: one["spec"]["parallelism"] for one in planned.objects}


def gone(planned: Workers) -> list[str]:
    return [one.name for one in planned.removals]


THREE = tuple(pod(f"q-workers-1-{name}") for name in "abc")

CASES: list[tuple[str, dict[str, Any], dict[str, int], list[str]]] = [
    ("the first Job", {}, {"q-workers-1": 4}, []),
    ("no more than trials", {"summary": summary(complete=98)}, {"q-workers-1": 2}, []),
    ("enough", {"jobs": (job(),)}, {}, []),
    ("scaled up", {"jobs": (job(parallelism=1, active=1),)}, {"q-workers-1": 4}, []),
    ("scaled down", {"jobs": (job(parallelism=9, active=9),)}, {"q-workers-1": 4}, []),
    (
        "never smaller because the budget runs out",
        {"jobs": (job(),), "summary": summary(complete=99)},
        {},
        [],
    ),
    ("none wanted", {"jobs": (job(),), "study": study(parallelism=0)}, {}, ["q-workers-1"]),
    ("suspended by hand", {"jobs": (job(suspended=True),)}, {"q-workers-1": 4}, []),
    ("suspended by Kueue", {"jobs": (job(suspended=True, queued=True),)}, {}, []),
    ("of another contract", {"jobs": (job(contract="x"),)}, {"q-workers-2": 4}, ["q-workers-1"]),
    ("deleted by hand", {"jobs": (job(deleting=True),)}, {"q-workers-2": 4}, []),
    (
        "ended before the budget was raised",
        {"jobs": (job(complete=True, active=0),), "subject": subject(generation=2)},
        {"q-workers-2": 4},
        ["q-workers-1"],
    ),
    (
        "ends while the budget is raised",
        {
            "jobs": (job(succeeded=1, active=3),),
            "pods": THREE,
            "subject": subject(generation=2),
        },
        {"q-workers-1": 3, "q-workers-2": 1},
        [],
    ),
    (
        "ended, and a lost trial came back",
        {"jobs": (job(complete=True, active=0),), "summary": summary(complete=99, waiting=1)},
        {"q-workers-2": 1},
        ["q-workers-1"],
    ),
    (
        "one has no more work, others have",
        {"jobs": (job(succeeded=1, active=3),), "summary": summary(running=3)},
        {},
        [],
    ),
]


@pytest.mark.parametrize(
    ("changes", "wanted", "removals"), [row[1:] for row in CASES], ids=[row[0] for row in CASES]
)
def test_jobs(changes: dict[str, Any], wanted: dict[str, int], removals: list[str]) -> None:
    planned = plan(observed(**changes))
    assert sizes(planned) == wanted
    assert gone(planned) == removals
    assert planned.failed is None and not planned.stopped


def test_what_exists_keeps_its_template() -> None:
    live = job(parallelism=1, active=1)
    live.live["spec"]["template"]["spec"]["containers"][0]["image"] = "worker:0"
    (resized,) = plan(observed(jobs=(live,))).objects
    assert resized["spec"]["template"] == live.live["spec"]["template"]
    assert resized["metadata"]["labels"] == live.live["metadata"]["labels"]


def test_all_workers_say_that_there_is_no_more_work() -> None:
    planned = plan(observed(jobs=(job(complete=True, active=0),), summary=summary(complete=50)))
    assert planned.stopped
    assert planned.objects == ()


def test_an_objective_that_can_not_be_loaded_fails_the_study() -> None:
    end = WorkerEnd(EndKind.UNUSABLE, reasons.OBJECTIVE_IMPORT_FAILED, "No module named 'x'")
    planned = plan(observed(jobs=(job(failure="PodFailurePolicy"),), pods=(pod(end=end),)))
    assert planned.failed == Trouble(reasons.OBJECTIVE_IMPORT_FAILED, "No module named 'x'")


def test_packages_that_can_not_be_installed_fail_the_study() -> None:
    dead = pod("q-workers-1-z", end=WorkerEnd(EndKind.NOT_STARTED, reasons.PACKAGES_FAILED, "why"))
    failed = plan(observed(jobs=(job(failure="PodFailurePolicy"),), pods=(dead,)))
    assert failed.failed == Trouble(reasons.PACKAGES_FAILED, "why")


def test_it_is_tried_again_with_a_newer_spec() -> None:
    planned = plan(observed(jobs=(job(failure="no"),), subject=subject(generation=2)))
    assert planned.failed is None
    assert sizes(planned) == {"q-workers-2": 4}


class TestReplacement:
    """Kubernetes waits longer after each dead pod: another Job does not."""

    LOST = pod("q-workers-1-z", end=WorkerEnd(EndKind.LOST, "Evicted"), ended=ago(20))

    def seen(self, short_s: float, dead: PodView = LOST, **changes: Any) -> StudyObserved:
        current = job(active=3)
        seen = observed(
            jobs=(current,), pods=(*THREE, dead), short_since={current.uid: ago(short_s)}
        )
        return dataclasses.replace(seen, **changes)

    def test_kubernetes_gets_a_while_for_one_that_had_no_session(self) -> None:
        planned = plan(self.seen(14))
        assert planned.objects == ()
        assert planned.requeue_after is not None

    def test_then_another_job_takes_over(self) -> None:
        assert sizes(plan(self.seen(16))) == {"q-workers-1": 3, "q-workers-2": 1}

    @pytest.mark.parametrize("kind", [EndKind.LOST, EndKind.FAILED])
    def test_one_that_had_a_session_is_replaced_at_once(self, kind: EndKind) -> None:
        dead = dataclasses.replace(self.LOST, end=WorkerEnd(kind, "x"))
        planned = plan(self.seen(0, dead, served=frozenset({dead.uid})))
        assert sizes(planned) == {"q-workers-1": 3, "q-workers-2": 1}
        (retired, _) = planned.objects
        # Its workers may all die with their trials, and no other is killed for that.
        assert retired["spec"]["backoffLimit"] == NO_LIMIT

    def test_one_that_was_drained_is_replaced_at_once(self) -> None:
        dead = dataclasses.replace(self.LOST, end=WorkerEnd(EndKind.LEFT, names.REASON_KILLED))
        assert sizes(plan(self.seen(0, dead))) == {"q-workers-1": 3, "q-workers-2": 1}

    def test_one_on_a_lost_node_is_replaced_once_it_was_given_up(self) -> None:
        away = pod("q-workers-1-z", overdue=ago(20))
        assert plan(self.seen(0, away)).objects == ()
        planned = plan(self.seen(0, away, reported=frozenset({away.uid})))
        assert sizes(planned) == {"q-workers-1": 3, "q-workers-2": 1}

    def test_not_if_a_quota_is_the_reason(self) -> None:
        quota = Trouble(reasons.QUOTA_EXCEEDED, "exceeded quota")
        assert plan(self.seen(16, troubles=(quota,))).objects == ()

    def test_one_that_crashes_before_it_has_a_session_waits_as_kubernetes_does(self) -> None:
        crashed = dataclasses.replace(self.LOST, end=WorkerEnd(EndKind.FAILED, "Crashed"))
        assert plan(self.seen(16, crashed)).objects == ()

    def test_a_job_that_ended_by_crashing_trials_is_followed_by_another(self) -> None:
        crashed = dataclasses.replace(self.LOST, end=WorkerEnd(EndKind.FAILED, "Crashed"))
        seen = observed(jobs=(job(failure="BackoffLimitExceeded"),), pods=(crashed,))
        assert plan(seen).failed is not None
        planned = plan(dataclasses.replace(seen, served=frozenset({crashed.uid})))
        assert planned.failed is None
        assert sizes(planned) == {"q-workers-2": 4}

    def test_an_empty_job_is_removed(self) -> None:
        old, new = job(1, parallelism=1, active=0), job(2)
        planned = plan(observed(jobs=(old, new)))
        assert gone(planned) == ["q-workers-1"]


OLD = "q-workers-1"
NEW = "q-workers-2"


def rolling(
    parallelism: int, old: int, new: int, *, sessions: int | None = None, **changes: Any
) -> Workers:
    """Plan with so many workers that run of an old template, and of the one that is wanted."""
    template = {"spec": {"containers": [{"name": "worker", "image": "worker:0"}]}}
    jobs = [job(1, parallelism=old, active=old, of=study(template=template))]
    if new or "granted" in changes:
        size = changes.pop("granted", new)
        jobs.append(job(2, parallelism=size, active=size, generation=2))
    pods = [pod(f"{OLD}-{n}", OLD) for n in range(old)] + [
        pod(f"{NEW}-{n}", NEW, created=ago(5)) for n in range(new)
    ]
    seen = observed(
        study=study(parallelism=parallelism),
        subject=subject(generation=2),
        jobs=tuple(jobs),
        pods=tuple(pods),
        summary=summary(sessions=old + new if sessions is None else sessions),
    )
    return plan(dataclasses.replace(seen, **changes))


@pytest.mark.parametrize(
    ("parallelism", "old", "new", "wanted", "removals"),
    [
        (8, 8, 0, {OLD: 6, NEW: 2}, []),
        (8, 6, 2, {OLD: 4, NEW: 4}, []),
        (8, 4, 4, {OLD: 2, NEW: 6}, []),
        (8, 2, 6, {NEW: 8}, [OLD]),
        # Of few workers none leaves before another is at work.
        (1, 1, 0, {NEW: 1}, []),
        (1, 1, 1, {}, [OLD]),
        (3, 3, 0, {NEW: 1}, []),
        (3, 3, 1, {OLD: 2, NEW: 2}, []),
        # What the old ones don't do, the new ones do: nothing runs that would be kept.
        (8, 0, 0, {NEW: 8}, [OLD]),
    ],
)
def test_workers_follow_their_template_a_few_at_a_time(
    parallelism: int, old: int, new: int, wanted: dict[str, int], removals: list[str]
) -> None:
    planned = rolling(parallelism, old, new)
    assert sizes(planned) == wanted
    assert gone(planned) == removals
    for one in planned.objects:
        image = one["spec"]["template"]["spec"]["containers"][0]["image"]
        assert (image == "worker:0") == (one["metadata"]["name"] == OLD)
    assert len(planned.notes) == (not new) + bool(new and removals) - (not old)


@pytest.mark.parametrize(
    "changes",
    [
        {"new": 1},  # one of two does not run
        {"new": 2, "sessions": 6},  # they run, and have no session yet
    ],
)
def test_the_others_stay_until_those_before_are_at_work(changes: dict[str, Any]) -> None:
    planned = rolling(8, 6, granted=2, **changes)
    assert (sizes(planned), gone(planned)) == ({}, [])


def test_a_worker_that_has_run_for_a_minute_is_at_work_without_a_session() -> None:
    seen = [pod(f"{NEW}-{n}", NEW, created=ago(61)) for n in range(2)]
    old = [pod(f"{OLD}-{n}", OLD) for n in range(6)]
    planned = rolling(8, 6, 2, sessions=0, pods=(*seen, *old))
    assert sizes(planned) == {OLD: 4, NEW: 4}


def test_a_template_that_does_not_work_leaves_the_old_workers_and_is_told() -> None:
    end = WorkerEnd(EndKind.UNUSABLE, reasons.WORKERS_FAILED, "no such option")
    dead = pod(f"{NEW}-x", NEW, end=end)
    old = [pod(f"{OLD}-{n}", OLD) for n in range(6)]
    template = {"spec": {"containers": [{"name": "worker", "image": "worker:0"}]}}
    jobs = (
        job(1, parallelism=6, active=6, of=study(template=template)),
        job(2, parallelism=2, active=0, generation=2, failure="PodFailurePolicy"),
    )
    planned = rolling(8, 6, 2, jobs=jobs, pods=(dead, *old))
    assert planned.trouble == Trouble(reasons.WORKERS_FAILED, "no such option")
    assert (sizes(planned), gone(planned)) == ({}, [])
    assert planned.failed is None
    # Once none of the old ones is left it is the study's failure.
    alone = rolling(8, 6, 2, jobs=jobs, pods=(dead,))
    assert alone.failed == planned.trouble


def test_workers_that_can_not_reach_the_storage_any_more_are_replaced_at_once() -> None:
    old = job(1)
    (container,) = old.live["spec"]["template"]["spec"]["containers"]
    for variable in container["env"]:
        if variable["name"] == names.ENV_PROXY:
            variable["value"] = "elsewhere:13000"
    pods = tuple(pod(f"{OLD}-{n}", OLD) for n in range(4))
    other = dataclasses.replace(old, contract="x")
    planned = plan(observed(jobs=(other,), pods=pods, summary=summary(sessions=4)))
    assert (sizes(planned), gone(planned)) == ({NEW: 4}, [OLD])

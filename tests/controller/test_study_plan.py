"""What is planned for a study, for each state that it may be found in."""

import dataclasses
import datetime
from typing import Any

import pytest

from tests.controller.kube import Object
from tests.controller.observations import (
    KEYS,
    NOW,
    OPTIONS,
    PROXIES,
    ago,
    conditions,
    job,
    made,
    observed,
    pod,
    removed,
    study,
    subject,
    summary,
)
from trialfleet import names
from trialfleet.controller.ensured_study import define
from trialfleet.controller.observed import StorageView, StudyObserved
from trialfleet.controller.plan import Plan
from trialfleet.controller.study_plan import is_over, plan_study
from trialfleet.kube import reasons
from trialfleet.kube.pod_status import Trouble
from trialfleet.kube.times import timestamp
from trialfleet.model.ends import EndKind, WorkerEnd
from trialfleet.model.study import Counts, Failure


def plan(seen: StudyObserved, now: datetime.datetime = NOW) -> Plan:
    return plan_study(seen, OPTIONS, KEYS, now)


def status_of(kind: str, *, generation: int = 1, **more: Any) -> Object:
    """Return a status in which one condition is true."""
    condition = {
        "type": kind,
        "status": "True",
        "reason": "Because",
        "message": "as it was",
        "lastTransitionTime": timestamp(ago(100)),
        "observedGeneration": generation,
    }
    return {"conditions": [condition], "observedGeneration": generation, **more}


WORKER = "Job/q-workers-1"
CONFIG = "ConfigMap/q-tf-study"
IN_A_CONFIG_MAP = {"python": {"configMap": {"name": "c", "key": "k"}}}
READY = observed().storage
NOT_READY = StorageView("s", False, reasons.STARTING, "", PROXIES, tls=False)

STAGES: list[tuple[str, dict[str, Any], str, list[str], str]] = [
    (
        "no storage of that name",
        {"storage": None},
        "Stalled",
        [CONFIG],
        reasons.STORAGE_MISSING,
    ),
    ("storage starts", {"storage": NOT_READY}, "Pending", [CONFIG, WORKER], reasons.PROGRESSING),
    (
        "storage can't start",
        {
            "storage": dataclasses.replace(
                NOT_READY, reason=reasons.IMAGE_PULL_FAILED, message="no such image"
            )
        },
        "Stalled",
        [CONFIG],
        reasons.IMAGE_PULL_FAILED,
    ),
    ("storage does not know it", {"ensured": False}, "Pending", [CONFIG], reasons.PROGRESSING),
    (
        "storage refuses it",
        {"ensured": False, "blocked": Trouble(reasons.STORAGE_REFUSED, "other directions")},
        "Stalled",
        [CONFIG],
        reasons.STORAGE_REFUSED,
    ),
    ("ready to run", {}, "Running", [CONFIG, WORKER], reasons.PROGRESSING),
    (
        "runs",
        {"jobs": (job(),), "summary": summary(sessions=4, running=4)},
        "Running",
        [CONFIG],
        reasons.PROGRESSING,
    ),
    (
        "no proxy answers",
        {"jobs": (job(),), "summary": None, "subject": subject({"phase": "Running"})},
        "Running",
        [CONFIG],
        reasons.PROGRESSING,
    ),
    (
        "last trials run",
        {"jobs": (job(),), "summary": summary(names.ENDED_TRIALS, complete=98, running=2)},
        "Running",
        [CONFIG],
        reasons.PROGRESSING,
    ),
    (
        "ended",
        {"jobs": (job(),), "summary": summary(names.ENDED_TRIALS, complete=100)},
        "Complete",
        [CONFIG],
        reasons.PROGRESSING,
    ),
    (
        "too many failed",
        {"jobs": (job(),), "summary": summary(names.ENDED_FAILED_TRIALS, failed=9)},
        "Failed",
        [CONFIG],
        names.ENDED_FAILED_TRIALS,
    ),
    ("suspended", {"study": study(suspend=True)}, "Suspended", [CONFIG], reasons.PROGRESSING),
    (
        "ended while suspended",
        {"study": study(suspend=True), "summary": summary(names.ENDED_TIMEOUT, complete=3)},
        "Complete",
        [CONFIG],
        reasons.PROGRESSING,
    ),
    (
        "a pod can't be scheduled",
        {
            "jobs": (job(),),
            "pods": (pod(running=False, trouble=Trouble(reasons.UNSCHEDULABLE, "no GPU")),),
        },
        "Stalled",
        [CONFIG],
        reasons.UNSCHEDULABLE,
    ),
    (
        "a quota keeps pods away",
        {"jobs": (job(),), "troubles": (Trouble(reasons.QUOTA_EXCEEDED, "exceeded quota"),)},
        "Stalled",
        [CONFIG],
        reasons.QUOTA_EXCEEDED,
    ),
    (
        "spec refused",
        {"study": None, "refusal": "spec.sampler.name: found 'TPE'"},
        "Failed",
        [],
        reasons.INVALID_SPEC,
    ),
]


@pytest.mark.parametrize(
    ("changes", "phase", "objects", "stalled"),
    [row[1:] for row in STAGES],
    ids=[row[0] for row in STAGES],
)
def test_stages(changes: dict[str, Any], phase: str, objects: list[str], stalled: str) -> None:
    planned = plan(observed(**changes))
    assert planned.status is not None
    assert planned.status["phase"] == phase
    assert made(planned) == objects
    assert conditions(planned)["Stalled"] == (
        "False" if stalled == reasons.PROGRESSING else "True",
        stalled,
    )


def test_a_plan_is_a_fixed_point() -> None:
    first = plan(observed(jobs=(job(),), summary=summary(sessions=4, running=4)))
    again = observed(
        jobs=(job(),),
        summary=summary(sessions=4, running=4),
        subject=subject(dict(first.status)),  # type: ignore[arg-type]
    )
    second = plan(again, NOW + datetime.timedelta(seconds=30))
    assert second.status == first.status
    assert second.notes == ()


def test_a_study_without_a_storage_gets_its_own() -> None:
    template = {
        "spec": {
            "nodeSelector": {"gpu": "yes"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {}, "nodeAffinity": {"x": []}},
        }
    }
    planned = plan(observed(study=study(storage=None, template=template), storage=None))
    storage = planned.objects[0]
    assert (storage["kind"], storage["metadata"]["name"]) == ("StudyStorage", "q")
    assert storage["spec"]["proxy"] == {
        "placement": "Shared",
        "nodeSelector": {"gpu": "yes"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"x": []}},
    }


class TestPrepare:
    STUDY = study(prepare={"spec": {"containers": [{"name": "p", "image": "i"}]}})

    def seen(self, **changes: Any) -> StudyObserved:
        return observed(study=self.STUDY, **changes)

    def of(self, **changes: Any) -> Any:
        return job(component=names.COMPONENT_PREPARE, name="q-tf-prepare", **changes)

    def test_runs_before_workers(self) -> None:
        planned = plan(self.seen())
        assert made(planned) == [CONFIG, "Job/q-tf-prepare"]
        assert conditions(planned)["Prepared"] == ("False", reasons.PREPARING)

    def test_is_made_once(self) -> None:
        assert made(plan(self.seen(jobs=(self.of(),)))) == [CONFIG]

    def test_lets_workers_begin(self) -> None:
        planned = plan(self.seen(jobs=(self.of(complete=True),)))
        assert made(planned) == [CONFIG, WORKER]
        assert conditions(planned)["Prepared"] == ("True", reasons.SUCCEEDED)

    def test_does_not_run_again_when_its_job_is_deleted(self) -> None:
        planned = plan(self.seen(subject=subject(status_of("Prepared"))))
        assert made(planned) == [CONFIG, WORKER]

    def test_failed_fails_the_study_with_its_words(self) -> None:
        end = WorkerEnd(EndKind.FAILED, names.REASON_CRASHED, "no data set")
        planned = plan(
            self.seen(
                jobs=(self.of(failure="BackoffLimitExceeded"),),
                pods=(pod(job="q-tf-prepare", component=names.COMPONENT_PREPARE, end=end),),
            )
        )
        assert planned.status is not None and planned.status["phase"] == "Failed"
        assert conditions(planned)["Failed"] == ("True", reasons.PREPARE_FAILED)
        assert "no data set" in str(planned.status["conditions"])

    def test_failed_is_tried_again_with_a_newer_spec(self) -> None:
        planned = plan(self.seen(jobs=(self.of(failure="no"),), subject=subject(generation=2)))
        assert removed(planned) == ["Job/q-tf-prepare"]


class TestEnd:
    ENDED = summary(names.ENDED_TRIALS, complete=100)
    COLLATING = study(collate={"spec": {"containers": [{"name": "c", "image": "i"}]}})

    def collate(self, **changes: Any) -> Any:
        return job(component=names.COMPONENT_COLLATE, name="q-tf-collate", **changes)

    def test_removes_workers(self) -> None:
        planned = plan(observed(jobs=(job(),), summary=self.ENDED))
        assert removed(planned) == [WORKER]
        assert planned.status is not None
        assert planned.status["completionTime"] == timestamp(NOW)
        assert planned.status["ended"] == names.ENDED_TRIALS
        assert [note.reason for note in planned.notes] == ["Started", "Complete"]

    def test_collates_first(self) -> None:
        planned = plan(observed(study=self.COLLATING, jobs=(job(),), summary=self.ENDED))
        assert made(planned) == [CONFIG, "Job/q-tf-collate"]
        assert removed(planned) == [WORKER]
        assert planned.status is not None and planned.status["phase"] == "Collating"

    def test_is_complete_once_collated(self) -> None:
        planned = plan(
            observed(study=self.COLLATING, jobs=(self.collate(complete=True),), summary=self.ENDED)
        )
        assert removed(planned) == ["Job/q-tf-collate"]
        assert conditions(planned)["Collated"] == ("True", reasons.SUCCEEDED)
        assert conditions(planned)["Complete"] == ("True", names.ENDED_TRIALS)

    def test_fails_if_collate_does(self) -> None:
        planned = plan(
            observed(study=self.COLLATING, jobs=(self.collate(failure="no"),), summary=self.ENDED)
        )
        assert conditions(planned)["Failed"] == ("True", reasons.COLLATE_FAILED)

    def test_collates_again_after_the_study_went_on(self) -> None:
        running = plan(
            observed(
                study=self.COLLATING,
                jobs=(self.collate(complete=True),),
                subject=subject(status_of("Collated"), generation=2),
            )
        )
        assert "Job/q-tf-collate" in removed(running)
        assert "Collated" not in conditions(running)

    def test_stays_over_without_asking_the_storage(self) -> None:
        before = status_of("Complete", ended=names.ENDED_TRIALS, completionTime=timestamp(ago(50)))
        seen = observed(subject=subject(before), summary=None, storage=NOT_READY, ensured=False)
        assert is_over(seen)
        planned = plan(seen)
        assert planned.status is not None
        assert planned.status["phase"] == "Complete"
        assert planned.status["completionTime"] == timestamp(ago(50))
        assert planned.requeue_after is None
        assert not planned.ensure

    def test_does_not_flicker_while_a_newer_spec_is_made_known(self) -> None:
        before = status_of("Complete", ended=names.ENDED_TRIALS, completionTime=timestamp(ago(50)))
        seen = observed(subject=subject(before, generation=2), ensured=False)
        planned = plan(seen)
        assert planned.ensure
        assert planned.status is not None
        assert planned.status["phase"] == "Complete"
        assert planned.status["observedGeneration"] == 1

    def test_goes_on_with_a_larger_budget(self) -> None:
        before = status_of("Complete", ended=names.ENDED_TRIALS, completionTime=timestamp(ago(50)))
        seen = observed(subject=subject(before, generation=2), study=study(budget={"trials": 200}))
        planned = plan(dataclasses.replace(seen, summary=summary(complete=100)))
        assert made(planned) == [CONFIG, WORKER]
        assert planned.status is not None
        assert planned.status["phase"] == "Running"
        assert "completionTime" not in planned.status
        assert "ended" not in planned.status

    @pytest.mark.parametrize(("age_s", "gone"), [(59.0, False), (60.0, True)])
    def test_is_deleted_after_its_time_to_live(self, age_s: float, gone: bool) -> None:
        before = status_of("Complete", completionTime=timestamp(ago(age_s)))
        planned = plan(observed(study=study(ttlSecondsAfterFinished=60), subject=subject(before)))
        assert removed(planned) == (["Study/q"] if gone else [])
        assert planned.requeue_after == (None if gone else datetime.timedelta(seconds=1))


class TestDeadWorkers:
    def dead(self, **changes: Any) -> Plan:
        return plan(observed(jobs=(job(),), pods=(pod(**changes),)))

    @pytest.mark.parametrize(
        "kind", [kind for kind in EndKind if kind not in (EndKind.LOST, EndKind.FAILED)]
    )
    def test_who_ended_in_order_is_not_reported(self, kind: EndKind) -> None:
        assert self.dead(end=WorkerEnd(kind, "x")).dead == ()

    @pytest.mark.parametrize(("kind", "failed"), [(EndKind.LOST, False), (EndKind.FAILED, True)])
    def test_others_are(self, kind: EndKind, failed: bool) -> None:
        (worker,) = self.dead(end=WorkerEnd(kind, "Evicted", "by a drain")).dead
        assert (worker.worker, worker.reason, worker.failed) == ("q-workers-1-a", "Evicted", failed)

    def test_once(self) -> None:
        lost = pod(end=WorkerEnd(EndKind.LOST, "Evicted"))
        seen = observed(jobs=(job(),), pods=(lost,), reported=frozenset({lost.uid}))
        assert plan(seen).dead == ()

    def test_a_pod_that_does_not_go_is_on_a_lost_node(self) -> None:
        planned = self.dead(overdue=ago(21))
        assert [worker.reason for worker in planned.dead] == [reasons.NODE_LOST]
        (removal,) = planned.removals
        assert (removal.kind, removal.name, removal.force) == ("Pod", "q-workers-1-a", True)

    def test_a_pod_gets_its_grace(self) -> None:
        planned = self.dead(overdue=ago(19))
        assert not planned.dead and not planned.removals
        assert planned.requeue_after == datetime.timedelta(seconds=1)


def test_trouble_is_told_after_a_while() -> None:
    trouble = Trouble(reasons.UNSCHEDULABLE, "no node")
    young = pod(running=False, trouble=trouble, created=ago(1))
    planned = plan(observed(jobs=(job(),), pods=(young,)))
    assert conditions(planned)["Stalled"][0] == "False"
    old = dataclasses.replace(young, created=ago(20))
    planned = plan(observed(jobs=(job(),), pods=(young, old)))
    assert conditions(planned)["Stalled"] == ("True", reasons.UNSCHEDULABLE)
    assert reasons.UNSCHEDULABLE in [note.reason for note in planned.notes]


def test_numbers_alone_are_not_urgent() -> None:
    before = plan(observed(jobs=(job(),), summary=summary(sessions=4, complete=1)))
    assert before.urgent
    seen = observed(
        jobs=(job(),),
        summary=summary(sessions=4, complete=9),
        subject=subject(dict(before.status)),  # type: ignore[arg-type]
    )
    assert not plan(seen).urgent


class TestSilentWorkers:
    """A session that was given up is all that tells of a worker that hangs, or of a lost node."""

    HUNG = pod("q-workers-1-h")
    SEEN = observed(
        jobs=(job(),), pods=(HUNG,), summary=dataclasses.replace(summary(), silent=(HUNG.name,))
    )

    def test_its_pod_goes_and_the_loss_is_told(self) -> None:
        planned = plan(self.SEEN)
        assert removed(planned) == [f"Pod/{self.HUNG.name}"]
        assert [worker.worker for worker in planned.dead] == [self.HUNG.name]
        assert [note.reason for note in planned.notes] == [reasons.EVENT_WORKER_SILENT]

    def test_once(self) -> None:
        planned = plan(dataclasses.replace(self.SEEN, reported=frozenset({self.HUNG.uid})))
        assert (planned.dead, planned.notes) == ((), ())

    def test_one_on_a_lost_node_is_not_deleted_again(self) -> None:
        away = dataclasses.replace(self.HUNG, overdue=ago(-10))
        planned = plan(dataclasses.replace(self.SEEN, pods=(away,)))
        assert removed(planned) == [] and planned.dead


def test_a_budget_that_failures_used_up_has_failed() -> None:
    failure = Failure(9, names.REASON_OBJECTIVE_RAISED, "ValueError: no (o.py:3)")
    seen = dataclasses.replace(summary(names.ENDED_TRIALS, failed=10), failure=failure)
    planned = plan(observed(summary=dataclasses.replace(seen, failed_reasons={"x": 10})))
    assert conditions(planned)["Failed"] == ("True", reasons.NO_TRIAL_COMPLETED)
    assert planned.status is not None
    words = "none of 10 trials has completed (TrialsComplete); trial 9: ObjectiveRaised: ValueError"
    assert planned.status["message"].startswith(words)
    assert planned.status["failedReasons"] == {"x": 10}
    pruned = dataclasses.replace(seen, counts=Counts(failed=9, pruned=1))
    assert conditions(plan(observed(summary=pruned)))["Complete"][0] == "True"


def test_each_new_reason_of_failures_is_told_once() -> None:
    failure = Failure(3, names.REASON_OBJECTIVE_RAISED, "ValueError: no")
    seen = dataclasses.replace(
        summary(failed=1), failure=failure, failed_reasons={failure.reason: 1}
    )
    first = plan(observed(jobs=(job(),), summary=seen))
    (note,) = [one for one in first.notes if one.reason == reasons.EVENT_TRIAL_FAILED]
    assert (note.message, note.type) == ("trial 3: ObjectiveRaised: ValueError: no", "Warning")
    told = subject({"failedReasons": {failure.reason: 1}})
    again = plan(observed(jobs=(job(),), summary=seen, subject=told))
    assert reasons.EVENT_TRIAL_FAILED not in [one.reason for one in again.notes]


class TestWorkersStartWithTheirStorage:
    """Scheduled, pulled and imported while the database comes up."""

    def seen(self, **changes: Any) -> StudyObserved:
        base = {"storage": NOT_READY, "ensured": False, "summary": None}
        return observed(**{**base, **changes})

    def test_they_wait_for_the_study_by_its_definition(self) -> None:
        planned = plan(self.seen())
        assert made(planned) == [CONFIG, WORKER]
        (container,) = planned.objects[-1]["spec"]["template"]["spec"]["containers"]
        (known,) = [one for one in container["env"] if one["name"] == names.ENV_DEFINITION]
        assert known["value"] == define(study()).definition
        assert planned.status is not None
        assert planned.status["workers"] == {"desired": 4, "ready": 0}

    def test_with_the_secret_that_they_need(self) -> None:
        planned = plan(self.seen(storage=dataclasses.replace(NOT_READY, tls=True)))
        assert [obj["kind"] for obj in planned.once] == ["Secret"]

    @pytest.mark.parametrize(
        "changes",
        [
            {"storage": None},
            {"storage": dataclasses.replace(NOT_READY, message="no such image")},
            {"jobs": (job(),)},
            {"study": study(suspend=True)},
            {"study": study(parallelism=0)},
            {"study": study(prepare={"spec": {"containers": [{"name": "p", "image": "i"}]}})},
            {"study": study(objective=IN_A_CONFIG_MAP)},
            {"subject": subject({"startTime": timestamp(ago(100))})},
        ],
        ids=[
            *("no storage", "trouble", "they are there", "suspended", "none wanted"),
            *("prepare comes first", "definition not known", "an outage"),
        ],
    )
    def test_not_always(self, changes: dict[str, Any]) -> None:
        assert WORKER not in made(plan(self.seen(**changes)))

    def test_they_go_where_the_storage_has_another_study_of_that_name(self) -> None:
        blocked = Trouble(reasons.DEFINITION_DIFFERS, "another objective")
        seen = self.seen(storage=READY, blocked=blocked, jobs=(job(),))
        assert removed(plan(seen)) == [WORKER]
        # One that has run trials is left alone.
        begun = subject({"startTime": timestamp(ago(100))})
        assert removed(plan(dataclasses.replace(seen, subject=begun))) == []


def test_a_pod_that_was_deleted_with_its_node_away_is_lost_at_once() -> None:
    """Nobody can end it; a pod that ends by itself gets its grace."""
    leaving = pod(overdue=ago(-30))
    assert plan(observed(jobs=(job(),), pods=(leaving,))).dead == ()
    away = dataclasses.replace(leaving, unreachable=True)
    planned = plan(observed(jobs=(job(),), pods=(away,)))
    assert [worker.reason for worker in planned.dead] == [reasons.NODE_LOST]
    assert [one.force for one in planned.removals] == [True]


def test_workers_that_wait_for_their_storage_are_not_ready() -> None:
    seen = observed(storage=NOT_READY, ensured=False, summary=None, jobs=(job(),), pods=(pod(),))
    planned = plan(seen)
    assert planned.status is not None
    assert planned.status["workers"] == {"desired": 4, "ready": 0}
    begun = subject({"startTime": timestamp(ago(100))})
    status = plan(dataclasses.replace(seen, subject=begun)).status
    assert status is not None and status["workers"]["ready"] == 1


def test_that_workers_follow_is_told_however_short_the_last_status_is_ago() -> None:
    """An early look writes no status and tells nothing, and the next one would not know of it."""
    template = {"spec": {"containers": [{"name": "worker", "image": "worker:0"}]}}
    seen = observed(
        subject=subject(status_of(reasons.RUNNING, phase="Running")),
        jobs=(job(of=study(template=template)),),
        pods=tuple(pod(f"q-workers-1-{n}") for n in range(4)),
        summary=summary(sessions=4),
    )
    planned = plan(seen)
    assert [note.reason for note in planned.notes] == [reasons.EVENT_WORKERS_FOLLOW]
    assert planned.urgent

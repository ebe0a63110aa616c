"""The plan for a study: one pure function, put together from the policies."""

import datetime
from dataclasses import replace
from typing import Final

from trialfleet import names
from trialfleet.controller.conditions import find, settle
from trialfleet.controller.ensured_study import definition_of
from trialfleet.controller.observed import StudyObserved
from trialfleet.controller.options import OperatorOptions
from trialfleet.controller.plan import Plan, Removal
from trialfleet.controller.policies import deaths, finish, startup, troubles, workers
from trialfleet.controller.policies.expiry import plan_expiry
from trialfleet.controller.secrecy import Keys
from trialfleet.controller.status import only_failures, progress_fields, with_failure
from trialfleet.controller.study_draft import Draft, message_of, notes_of, wanted_conditions
from trialfleet.kube import reasons
from trialfleet.kube.objects import Object
from trialfleet.kube.pod_status import Trouble
from trialfleet.kube.times import timestamp

POLL: Final = datetime.timedelta(seconds=2)
"""Between two looks at the trials of a study that runs."""


_UNDER_WAY: Final = ("Pending", "Preparing", "Running", "Collating")


def plan_study(
    observed: StudyObserved, options: OperatorOptions, keys: Keys, now: datetime.datetime
) -> Plan:
    """Decide what should be there for a study, and what its status says."""
    draft = Draft()
    if observed.study is None:
        draft.phase = "Failed"
        draft.failed = Trouble(reasons.INVALID_SPEC, observed.refusal)
        draft.running = (False, reasons.INVALID_SPEC, "")
        return _finish(observed, draft, now)
    dead = deaths.plan_deaths(observed, now)
    _decide(observed, draft, options, keys, now)
    draft.remove(dead.removals)
    draft.notes += dead.notes
    draft.waits += [dead.requeue_after, troubles.soonest(observed.pods, now)]
    if draft.trouble is None and draft.phase in _UNDER_WAY:
        draft.trouble = troubles.of_study(observed, now)
    if draft.trouble is not None and draft.phase in _UNDER_WAY and not draft.running[0]:
        draft.phase = "Stalled"
    return replace(_finish(observed, draft, now), dead=() if is_over(observed) else dead.dead)


def is_over(observed: StudyObserved) -> bool:
    """Whether a study has ended, by its status, and its spec has not changed since."""
    generation = observed.subject.status.get("observedGeneration")
    return _was_over(observed) and generation == observed.subject.generation


def _was_over(observed: StudyObserved) -> bool:
    return observed.subject.has(reasons.COMPLETE) or observed.subject.has(reasons.FAILED)


def _decide(
    observed: StudyObserved,
    draft: Draft,
    options: OperatorOptions,
    keys: Keys,
    now: datetime.datetime,
) -> None:
    begun = startup.plan_startup(observed, keys, now)
    unknown = begun.stage is startup.StartStage.ENSURE or observed.summary is None
    if is_over(observed) or (_was_over(observed) and unknown and begun.trouble is None):
        # With a newer spec it may go on, but until that is known nothing is to change.
        draft.ensure = begun.stage is startup.StartStage.ENSURE and not is_over(observed)
        draft.undecided = not is_over(observed)
        if draft.undecided:
            draft.waits.append(POLL)
        _stay_over(observed, draft, begun)
        return
    draft.objects += begun.objects
    draft.once = begun.once
    draft.remove(begun.removals)
    draft.trouble, draft.failed = begun.trouble, begun.failed
    draft.ensure = begun.stage is startup.StartStage.ENSURE
    assert observed.study is not None
    if observed.study.spec.prepare is not None:
        draft.prepared = begun.prepared or observed.subject.has(reasons.PREPARED)
    known = begun.stage is startup.StartStage.READY and observed.summary is not None
    if known and observed.summary is not None and observed.summary.ended:
        _end(observed, draft, options, keys, observed.summary.ended)
    elif observed.study.spec.suspend:
        _suspend(observed, draft)
    elif begun.stage in (startup.StartStage.STORAGE, startup.StartStage.ENSURE):
        _wait_for_storage(observed, draft)
        _start_early(observed, draft, begun, options, keys)
    elif begun.failed is not None:
        draft.phase = "Failed"
        draft.running = (False, begun.failed.reason, "")
    elif begun.stage is startup.StartStage.PREPARE:
        draft.phase = "Preparing"
        draft.running = (False, reasons.PREPARING, "prepare runs")
    elif observed.summary is None:
        _wait_for_summary(observed, draft)
    else:
        _run(observed, draft, options, keys, now)


def _stay_over(observed: StudyObserved, draft: Draft, begun: startup.Startup) -> None:
    """Keep what was found out: nobody has to ask the storage again."""
    assert observed.study is not None
    complete = find(observed.subject.conditions, reasons.COMPLETE)
    failed = find(observed.subject.conditions, reasons.FAILED)
    if observed.study.spec.storage_name is None:
        draft.objects += begun.objects[:1]
    # The Jobs of a failure stay, for their logs.
    kept = {job.uid for job in observed.jobs if job.failure}
    draft.remove(one for one in finish.remove_jobs(observed) if one.uid not in kept)
    draft.prepared = True if observed.subject.has(reasons.PREPARED) else None
    draft.collated = True if observed.subject.has(reasons.COLLATED) else None
    ended = complete.reason if complete is not None and complete.status == "True" else ""
    draft.ended = str(observed.subject.status.get("ended") or ended)
    if failed is not None and failed.status == "True":
        draft.phase = "Failed"
        draft.failed = Trouble(failed.reason, failed.message)
    elif complete is not None:
        draft.phase = "Complete"
    draft.running = (False, reasons.ENDED, "")


def _wait_for_storage(observed: StudyObserved, draft: Draft) -> None:
    started = "startTime" in observed.subject.status
    draft.phase = "Running" if started and observed.workers else "Pending"
    draft.desired = _present(observed)
    draft.running = (False, reasons.WAITING_FOR_STORAGE, "")
    if draft.ensure and draft.trouble is not None:
        draft.waits.append(POLL)


def _start_early(
    observed: StudyObserved,
    draft: Draft,
    begun: startup.Startup,
    options: OperatorOptions,
    keys: Keys,
) -> None:
    """Have workers scheduled, pulled and imported while the storage comes up.

    They run no trial before the storage knows the study by its definition.
    """
    study = observed.study
    assert study is not None
    if "startTime" in observed.subject.status:
        return
    if observed.blocked is not None:
        draft.remove(workers.remove_workers(observed).removals)
        draft.desired = 0
        return
    comes = begun.stage is startup.StartStage.STORAGE and observed.storage is not None
    prepared = study.spec.prepare is None or observed.subject.has(reasons.PREPARED)
    if not (comes and prepared and study.spec.parallelism and definition_of(study)):
        return
    if begun.trouble is None and not observed.jobs_for(names.COMPONENT_WORKER):
        decided = workers.plan_first(observed, options, startup.reach_of(observed, keys))
        draft.objects += decided.objects
        draft.desired = decided.desired


def _wait_for_summary(observed: StudyObserved, draft: Draft) -> None:
    """Leave everything as it is: workers go on without the operator knowing how far they are."""
    before = str(observed.subject.status.get("phase") or "Pending")
    draft.phase = "Running" if before == "Stalled" else before
    draft.desired = _present(observed)
    draft.running = (bool(observed.workers), reasons.WAITING_FOR_STORAGE, "")
    draft.waits.append(POLL)


def _present(observed: StudyObserved) -> int:
    jobs = observed.jobs_for(names.COMPONENT_WORKER)
    return sum(job.parallelism for job in jobs if not job.finished and not job.deleting)


def _suspend(observed: StudyObserved, draft: Draft) -> None:
    draft.phase = "Suspended"
    draft.remove(workers.remove_workers(observed).removals)
    draft.running = (False, reasons.SUSPENDED, "spec.suspend is true")
    if observed.summary is not None and observed.summary.counts.running:
        draft.running = (True, reasons.DRAINING, "running trials are finished or handed back")
        draft.waits.append(POLL)


def _run(
    observed: StudyObserved,
    draft: Draft,
    options: OperatorOptions,
    keys: Keys,
    now: datetime.datetime,
) -> None:
    reach = startup.reach_of(observed, keys)
    decided = workers.plan_workers(observed, options, reach, now)
    if decided.stopped:
        _end(observed, draft, options, keys, names.ENDED_STOPPED)
        return
    # Of an earlier end: it has to run again after the next one.
    draft.remove(finish.remove_jobs(observed, names.COMPONENT_COLLATE))
    draft.phase = "Running"
    draft.desired = decided.desired
    draft.objects += decided.objects
    draft.remove(decided.removals)
    draft.notes += decided.notes
    draft.urgent = bool(decided.notes)
    draft.trouble = draft.trouble or decided.trouble
    draft.waits += [POLL, decided.requeue_after]
    summary = observed.summary
    assert summary is not None
    up = summary.sessions or sum(pod.running for pod in observed.workers)
    if decided.failed is not None:
        draft.phase = "Failed"
        draft.failed = decided.failed
        draft.running = (False, decided.failed.reason, "")
    elif not decided.desired:
        draft.running = (False, reasons.NO_WORKERS, "spec.parallelism is 0")
    elif up:
        draft.running = (True, reasons.WORKERS_RUNNING, "")
    else:
        draft.running = (False, reasons.WORKERS_STARTING, "")


def _end(
    observed: StudyObserved, draft: Draft, options: OperatorOptions, keys: Keys, reason: str
) -> None:
    decided = finish.plan_ending(observed, options, startup.reach_of(observed, keys))
    draft.objects += decided.objects
    draft.remove(decided.removals)
    if decided.stage is finish.FinishStage.DRAIN:
        draft.phase = "Running"
        draft.desired = _present(observed)
        draft.running = (True, reasons.DRAINING, f"the last trials run ({reason})")
        draft.waits.append(POLL)
        return
    draft.ended = reason
    draft.running = (False, reasons.ENDED, "")
    assert observed.study is not None
    if observed.study.spec.collate is not None:
        draft.collated = decided.collated
    if decided.failed is not None:
        draft.phase, draft.failed = "Failed", decided.failed
    elif decided.stage is finish.FinishStage.COLLATE:
        draft.phase = "Collating"
        draft.running = (False, reasons.COLLATING, "collate runs")
    elif reason == names.ENDED_FAILED_TRIALS:
        assert observed.summary is not None
        draft.phase = "Failed"
        text = f"{observed.summary.counts.failed} trials have failed"
        draft.failed = Trouble(reason, with_failure(text, observed.summary))
    elif observed.summary is not None and only_failures(observed.summary):
        text = f"none of {observed.summary.counts.failed} trials has completed ({reason})"
        draft.phase = "Failed"
        draft.failed = Trouble(reasons.NO_TRIAL_COMPLETED, with_failure(text, observed.summary))
    else:
        draft.phase = "Complete"


def _finish(observed: StudyObserved, draft: Draft, now: datetime.datetime) -> Plan:
    subject, study = observed.subject, observed.study
    status: Object = {
        "phase": draft.phase,
        "observedGeneration": (
            subject.status.get("observedGeneration") if draft.undecided else subject.generation
        ),
        "conditions": [
            one.model_dump(mode="json", by_alias=True, exclude_none=True)
            for one in settle(
                subject.conditions,
                wanted_conditions(observed, draft),
                generation=subject.generation,
                now=now,
            )
        ],
    }
    if study is not None:
        status |= progress_fields(observed, draft.desired, now)
    over = draft.phase in ("Complete", "Failed")
    if over and study is not None:
        status["workers"] = {"desired": 0, "ready": 0}
    if draft.ended:
        status["ended"] = draft.ended
    if over:
        status.setdefault("completionTime", timestamp(now))
    else:
        status.pop("completionTime", None)
    message = message_of(observed, draft)
    if message:
        status["message"] = message
    removals = list(draft.removals)
    notes = [*draft.notes, *notes_of(observed, draft, status)]
    waits = [wait for wait in draft.waits if wait is not None]
    if over and study is not None:
        ttl_s = study.spec.ttl_seconds_after_finished
        expiry = plan_expiry(ttl_s, status["completionTime"], now)
        if expiry.expired:
            me = Removal(names.API_VERSION, subject.kind, subject.name, subject.uid)
            removals.append(me)
        elif expiry.requeue_after is not None:
            waits.append(expiry.requeue_after)
    before = subject.status.get("phase")
    return Plan(
        objects=tuple(draft.objects),
        once=draft.once,
        removals=tuple(removals),
        status=status,
        notes=tuple(notes),
        ensure=draft.ensure,
        requeue_after=min(waits, default=None),
        urgent=draft.urgent or not (before == draft.phase == "Running"),
    )

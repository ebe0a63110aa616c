"""What a summary says of failed trials and of silent workers."""

import asyncio
import json

from optuna.trial import TrialState

from tests.storage.fleet import STUDY, Worker, create, give_up_silent, param, storages, write
from trialfleet import names
from trialfleet.model.study import Failure
from trialfleet.storage import Storage
from trialfleet.storage.commands import CloseSession, GiveUp


async def fail(worker: Worker, reason: str, message: str) -> int:
    trial = await worker.open()
    attrs = [(names.ATTR_REASON, json.dumps(reason)), (names.ATTR_MESSAGE, json.dumps(message))]
    await worker.tell(trial.trial_id, TrialState.FAIL, system_attrs=attrs)
    return trial.number


async def silent(storage: Storage, study_id: int) -> list[str]:
    return list((await storage.summary(study_id)).silent)


def test_the_newest_failure_and_the_reasons_of_all(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage, retries=0)
            worker = await Worker(storage, study_id).start()
            assert (await storage.summary(study_id)).failure is None
            await fail(worker, names.REASON_OBJECTIVE_RAISED, "ValueError: no (o.py:3)")
            await worker.tell((await worker.open()).trial_id)
            number = await fail(worker, names.REASON_TRIAL_TIMEOUT, "not done after 3 s")
            found = await storage.summary(study_id)
            assert found.failure == Failure(
                number, names.REASON_TRIAL_TIMEOUT, "not done after 3 s"
            )
            assert found.failed_reasons == {
                names.REASON_OBJECTIVE_RAISED: 1,
                names.REASON_TRIAL_TIMEOUT: 1,
            }
            # A lost trial has not failed; one that its objective killed has.
            await worker.open()
            await storage.apply(GiveUp("Evicted", session=worker.session))
            assert (await storage.summary(study_id)).failure == found.failure
            other = await Worker(storage, study_id).start()
            killed = await other.open()
            crash = GiveUp(names.REASON_CRASHED, "SIGSEGV", session=other.session, failed=True)
            await storage.apply(crash)
            found = await storage.summary(study_id)
            assert found.failure == Failure(killed.number, names.REASON_CRASHED, "SIGSEGV")
            assert sum(found.failed_reasons.values()) == found.counts.failed == 3

    asyncio.run(main())


def test_a_failure_of_which_nobody_said_why(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            trial = await worker.open()
            odd = [(names.ATTR_MESSAGE, "[1]"), ("x", "1")]
            await worker.tell(trial.trial_id, TrialState.FAIL, system_attrs=odd)
            assert (await storage.summary(study_id)).failure == Failure(trial.number, "", "")

    asyncio.run(main())


def test_a_summary_reads_so_many_failures_and_no_more(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            for _ in range(130):
                trial = await worker.open()
                await worker.tell(trial.trial_id, TrialState.FAIL, params=[param()])
            found = await storage.summary(study_id)
            assert found.counts.failed == 130
            assert found.failed_reasons == {"": 100}

    asyncio.run(main())


def test_who_is_silent(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            for name in ("hung", "back", "left", "dead", "lives"):
                await Worker(storage, study_id, name).start()
            assert await silent(storage, study_id) == []
            left = await Worker(storage, study_id, "gone").start()
            await storage.apply(CloseSession(left.session))
            await storage.apply(GiveUp("Evicted", worker="dead"))
            write(
                url,
                "UPDATE trialfleet_sessions SET expires_at = clock_timestamp() "
                "WHERE worker IN ('hung', 'back')",
            )
            await give_up_silent(storage)
            assert sorted(await silent(storage, study_id)) == ["back", "hung"]
            await Worker(storage, study_id, "back").start()
            assert await silent(storage, study_id) == ["hung"]
            other = await create(storage, "other")
            assert await silent(storage, other) == []
            write(
                url,
                "UPDATE trialfleet_sessions SET expires_at = expires_at - interval '1 hour', "
                "ended_at = ended_at - interval '1 hour' WHERE worker = 'hung'",
            )
            assert await silent(storage, study_id) == []

    asyncio.run(main())


def test_whether_a_worker_ever_had_a_session(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id, "w").start()
            await storage.apply(CloseSession(worker.session))
            assert (await storage.apply(GiveUp("x", worker="w"))).opened == 1
            await Worker(storage, study_id, "w").start(STUDY)
            found = await storage.apply(GiveUp("x", worker="w"))
            assert (found.sessions, found.opened) == (1, 2)
            assert (await storage.apply(GiveUp("x", worker="never"))).opened == 0

    asyncio.run(main())

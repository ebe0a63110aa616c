"""Sessions that open a trial before the one ahead of it has ended."""

import asyncio
import os

import pytest
from optuna.trial import TrialState

from tests.storage.fleet import STUDY, Worker, check, create, held, storages
from trialfleet.storage import Storage
from trialfleet.storage.records import (
    Budget,
    Counts,
    GivenUp,
    GiveUp,
    Goal,
    OpenSession,
    SessionOpened,
)

LOCK_STUDIES = "SELECT 1 FROM studies FOR UPDATE"


async def _states(storage: Storage, study_id: int) -> list[TrialState]:
    return [trial.state for trial in await storage.trials_since(study_id, -1, [])]


@pytest.mark.parametrize("failed", [False, True])
def test_only_the_trial_that_was_run_is_lost(url: str, failed: bool) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage, retries=1)
            dead = await Worker(storage, study_id, "dead").start(sequential=True)
            lives = await Worker(storage, study_id).start(sequential=True)
            told, other, run, behind = [await w.open() for w in (dead, lives, dead, dead)]
            await dead.tell(told.trial_id)
            given_up = await storage.apply(GiveUp("Evicted", worker="dead", failed=failed))
            assert given_up == (
                GivenUp(sessions=1, failed=[run.number])
                if failed
                else GivenUp(sessions=1, lost=[run.number], requeued=[behind.number + 1])
            )
            # What had not begun waits, as it was, and is the next that somebody opens.
            assert (await _states(storage, study_id))[:4] == [
                TrialState.COMPLETE,
                TrialState.RUNNING,
                TrialState.FAIL,
                TrialState.WAITING,
            ]
            await lives.tell(other.trial_id)
            assert (await lives.open()).trial_id == behind.trial_id
            await lives.tell(behind.trial_id)
            if not failed:
                await lives.tell((await lives.open()).trial_id)
            counts = (await storage.summary(study_id)).counts
            assert counts == (
                Counts(complete=3, failed=1) if failed else Counts(complete=4, lost=1)
            )

    asyncio.run(main())
    check(url)


def test_the_order_is_that_of_the_openings(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id, "w").start(sequential=True)
            early, late = await worker.open(), await worker.open()
            await worker.tell(early.trial_id, TrialState.WAITING)
            assert (await worker.open()).trial_id == early.trial_id
            given_up = await storage.apply(GiveUp("Evicted", worker="w"))
            assert given_up == GivenUp(sessions=1, lost=[late.number], requeued=[])
            assert await _states(storage, study_id) == [TrialState.WAITING, TrialState.FAIL]

    asyncio.run(main())
    check(url)


def test_what_a_worker_told_before_it_died_counts(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A study's first opening is not plain, and those that follow soon are not tried.
    monkeypatch.setattr("trialfleet.storage.committer._NOT_PLAIN_S", 0.0)

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id, "w").start(sequential=True)
            other = await Worker(storage, study_id).start()
            told, crashed = await worker.open(), await worker.open()
            async with held(url, LOCK_STUDIES) as lock:
                opening = asyncio.create_task(other.open())
                await lock.waiters(1)
                telling = asyncio.create_task(worker.tell(told.trial_id))
                await asyncio.sleep(0)
                giving_up = asyncio.create_task(
                    storage.apply(GiveUp("SegmentationFault", worker="w", failed=True))
                )
                while storage.waiting < 2:
                    await asyncio.sleep(0)
                lock.release()
                await asyncio.gather(opening, telling)
                assert await giving_up == GivenUp(sessions=1, failed=[crashed.number])
            assert (await _states(storage, study_id))[:2] == [TrialState.COMPLETE, TrialState.FAIL]

    asyncio.run(main())
    check(url)


@pytest.mark.parametrize(
    ("budget", "may"),
    [
        (Budget(trials=5, timeout_s=60.0), True),
        (Budget(failed_trials=5), False),
        (Budget(goals=[Goal(0, 0.5)]), False),
    ],
)
def test_not_if_the_end_of_a_trial_may_end_the_study(url: str, budget: Budget, may: bool) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            await create(storage, budget=budget)
            session = os.urandom(16)
            for _ in range(2):  # a repeat says the same
                opened = await storage.apply(OpenSession(session, "w", STUDY, 60.0, True))
                assert isinstance(opened, SessionOpened)
                assert opened.may_run_ahead is may
            toolbox = await storage.apply(OpenSession(os.urandom(16), "w", "", 60.0))
            assert toolbox.may_run_ahead is False

    asyncio.run(main())

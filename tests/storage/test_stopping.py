"""A study that its sampler or its objective has stopped."""

import asyncio

import pytest

from tests.storage.fleet import Worker, check, create, storages
from trialfleet import names
from trialfleet.model.budget import Budget
from trialfleet.model.errors import NotFound, StudyEnded
from trialfleet.model.trial import TrialRecord
from trialfleet.storage.commands import CreateTrial, Ended, GiveUp, StopStudy, Wait


def test_a_stopped_study_opens_no_new_trial(url: str) -> None:
    async def main() -> None:
        async with storages(url, 2) as (one, two):
            study_id = await create(one, budget=Budget(trials=10), retries=1)
            worker, other = [await Worker(s, study_id, f"{s}").start() for s in (one, two)]
            mine, lost = await worker.open(), await other.open()
            for _ in range(2):
                await two.apply(StopStudy(study_id))
            # One that runs may be lost and come back.
            assert await worker.ask() is Wait.WAIT
            with pytest.raises(StudyEnded, match=names.ENDED_STOPPED):
                await one.apply(CreateTrial(study_id, write=worker.write()))
            assert (await one.summary(study_id)).ended == ""
            await two.apply(GiveUp("NodeLost", worker=other.name))
            retried, none = await asyncio.gather(worker.ask(), worker.ask())
            if none is not Wait.WAIT:
                retried, none = none, retried
            assert none is Wait.WAIT
            assert isinstance(retried, TrialRecord)
            assert retried.number == lost.number + 1
            await worker.tell(mine.trial_id)
            await worker.tell(retried.trial_id)
            assert await worker.ask(5.0) == Ended(names.ENDED_STOPPED)
            assert (await one.summary(study_id)).ended == names.ENDED_STOPPED

    asyncio.run(main())
    check(url)


def test_the_same_definition_leaves_it_stopped_and_another_budget_goes_on(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage, budget=Budget(trials=10))
            await storage.apply(StopStudy(study_id))
            worker = await Worker(storage, study_id).start()
            await create(storage, budget=Budget(trials=10))
            assert await worker.ask() == Ended(names.ENDED_STOPPED)
            await create(storage, budget=Budget(trials=11))
            assert (await worker.open()).number == 0

    asyncio.run(main())
    check(url)


def test_a_study_that_does_not_exist_is_not_found(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            with pytest.raises(NotFound):
                await storage.apply(StopStudy(1))

    asyncio.run(main())

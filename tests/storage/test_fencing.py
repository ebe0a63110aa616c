"""A session that was given up writes nothing any more, and what was acknowledged stays."""

import asyncio
import random
from typing import Any

import pytest
from optuna.trial import TrialState

from tests.storage.fleet import Worker, check, create, held, param, query, storages, together
from trialfleet.model.errors import SessionGivenUp
from trialfleet.model.session import GivenUp
from trialfleet.model.trial import TrialRecord, TrialUpdate
from trialfleet.storage import Storage
from trialfleet.storage.commands import (
    CloseSession,
    Command,
    CreateTrial,
    GiveUp,
    KeepAlive,
    SetStudyAttribute,
    WriteTrial,
)

LOCK_TRIAL = "SELECT 1 FROM trials WHERE number = 0 FOR UPDATE"


async def only(storage: Storage, trial_id: int) -> TrialRecord:
    (trial,) = await storage.trials([trial_id])
    return trial


def test_every_late_write_is_refused_and_changes_nothing(url: str) -> None:
    async def main() -> None:
        async with storages(url, 2) as (one, two):
            study_id = await create(one, retries=1)
            worker = await Worker(one, study_id).start()
            trial = await worker.open()
            await two.apply(GiveUp("Evicted", session=worker.session))
            before = await one.trials_since(study_id, -1, [])
            late: list[Command] = [
                worker.opening(),
                worker.telling(trial.trial_id, None, params=[param()]),
                worker.telling(trial.trial_id, TrialState.COMPLETE),
                worker.telling(trial.trial_id, TrialState.WAITING),
                CreateTrial(study_id, None, worker.write()),
                CreateTrial(study_id, trial, worker.write()),
                SetStudyAttribute(study_id, "k", "1", False, worker.write()),
                WriteTrial(TrialUpdate(trial.trial_id), None, None, worker.write()),
            ]
            for storage in (one, two):
                for command in late:
                    with pytest.raises(SessionGivenUp):
                        await storage.apply(command)
                assert not await storage.apply(KeepAlive(worker.session))
                await storage.apply(CloseSession(worker.session))
                again = await storage.apply(GiveUp("Evicted", session=worker.session))
                assert again == GivenUp()
            assert await one.trials_since(study_id, -1, []) == before
            assert (await one.studies())[0].user_attrs == []

    asyncio.run(main())
    check(url)


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.WAITING, None])
def test_a_write_that_waited_for_the_giving_up_is_refused(
    url: str, state: TrialState | None
) -> None:
    async def main() -> None:
        async with storages(url, 2) as (one, two):
            study_id = await create(one)
            worker = await Worker(one, study_id).start()
            trial = await worker.open()
            async with held(url, LOCK_TRIAL) as lock:
                giving_up = asyncio.create_task(two.apply(GiveUp("Evicted", worker=worker.name)))
                await lock.waiters(1)
                telling = asyncio.create_task(worker.tell(trial.trial_id, state, params=[param()]))
                await lock.waiters(2)
                lock.release()
                assert (await giving_up).lost == [0]
                with pytest.raises(SessionGivenUp):
                    await telling
            assert (await only(one, trial.trial_id)).state == TrialState.FAIL
            assert (await only(one, trial.trial_id)).params == ()

    asyncio.run(main())
    check(url)


def test_a_write_that_waited_while_its_trial_changed_hands_is_refused(url: str) -> None:
    async def main() -> None:
        async with storages(url, 2) as (one, two):
            study_id = await create(one)
            first, second = Worker(one, study_id), Worker(two, study_id, "second")
            await first.start()
            await second.start()
            other = await first.open()
            trial = await first.open()
            handing = first.telling(trial.trial_id, TrialState.WAITING)
            reports = [first.telling(t.trial_id, None, params=[param()]) for t in (other, trial)]
            async with held(url, LOCK_TRIAL) as lock:
                # One transaction for both, which has looked at the trials when it waits for one.
                sending = asyncio.create_task(together(url, reports))
                await lock.waiters(1)
                await one.apply(handing)
                assert (await second.open()).trial_id == trial.trial_id
                lock.release()
                answers = await sending
            assert isinstance(answers[1], SessionGivenUp)
            assert (await only(one, trial.trial_id)).params == ()

    asyncio.run(main())
    check(url)


def test_a_report_that_waited_does_not_overwrite_a_newer_one(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (one,):
            study_id = await create(one)
            worker = await Worker(one, study_id).start()
            other, trial = await worker.open(), await worker.open()
            stuck = [
                worker.telling(t.trial_id, None, user_attrs=[("k", '"old"')])
                for t in (other, trial)
            ]
            async with held(url, LOCK_TRIAL) as lock:
                sending = asyncio.create_task(together(url, stuck))
                await lock.waiters(1)
                # The same once more, to another proxy, and then a newer one.
                await one.apply(stuck[1])
                await worker.tell(trial.trial_id, None, user_attrs=[("k", '"new"')])
                lock.release()
                await sending
            assert (await only(one, trial.trial_id)).user_attrs == [("k", '"new"')]

    asyncio.run(main())
    check(url)


def test_opening_and_giving_up_race(url: str) -> None:
    async def main() -> None:
        async with storages(url, 2) as pair:
            study_id = await create(pair[0], retries=100)
            for _ in range(15):
                workers = [Worker(pair[k % 2], study_id, f"w{k}") for k in range(6)]
                await asyncio.gather(*(worker.start() for worker in workers))
                opened = await asyncio.gather(
                    *(worker.ask() for worker in workers for _ in range(2)),
                    *(
                        pair[(k + 1) % 2].apply(GiveUp("Evicted", worker=worker.name))
                        for k, worker in enumerate(workers)
                    ),
                    return_exceptions=True,
                )
                for answer in opened:
                    assert isinstance(answer, TrialRecord | GivenUp | SessionGivenUp)
                assert query(url, "SELECT 1 FROM trials WHERE state = 'RUNNING'") == []

    asyncio.run(main())
    check(url)


def test_what_was_acknowledged_before_the_giving_up_is_complete(url: str) -> None:
    chance = random.Random(0)

    async def live(worker: Worker, acknowledged: dict[int, float]) -> None:
        await worker.start()
        try:
            for _ in range(6):
                trial = await worker.ask()
                assert isinstance(trial, TrialRecord)
                await worker.tell(trial.trial_id, None, params=[param()])
                value = chance.random()
                await worker.tell(trial.trial_id, values=[value])
                acknowledged[trial.trial_id] = value
        except SessionGivenUp:
            pass

    async def end(storage: Storage, worker: Worker) -> Any:
        # At a random point of the worker's life: so many commits of others first.
        for _ in range(chance.randrange(20)):
            await storage.apply(KeepAlive(worker.session))
        return await storage.apply(GiveUp("Evicted", worker=worker.name))

    async def main() -> None:
        async with storages(url, 2) as pair:
            study_id = await create(pair[0], retries=100)
            acknowledged: dict[int, float] = {}
            workers = [Worker(pair[k % 2], study_id, f"w{k}") for k in range(20)]
            given_up, *_ = await asyncio.gather(
                asyncio.gather(*(end(pair[(k + 1) % 2], w) for k, w in enumerate(workers))),
                *(live(worker, acknowledged) for worker in workers),
            )
            trials = await pair[0].trials_since(study_id, -1, [])
            complete = {t.trial_id: t.values for t in trials if t.state == TrialState.COMPLETE}
            assert complete == {trial_id: [value] for trial_id, value in acknowledged.items()}
            lost = sorted(number for answer in given_up for number in answer.lost)
            assert lost == [t.number for t in trials if t.state == TrialState.FAIL]

    asyncio.run(main())
    check(url)


def test_a_session_that_was_never_opened(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = Worker(storage, study_id)
            with pytest.raises(SessionGivenUp):
                await worker.ask()
            with pytest.raises(SessionGivenUp):
                await storage.apply(SetStudyAttribute(study_id, "k", "1", True, worker.write()))
            assert not await storage.apply(KeepAlive(worker.session))

    asyncio.run(main())


def test_only_its_own_trials(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            owner = await Worker(storage, study_id).start()
            other = await Worker(storage, study_id, "other").start()
            trial = await owner.open()
            for state in (None, TrialState.COMPLETE, TrialState.WAITING):
                with pytest.raises(SessionGivenUp):
                    await other.tell(trial.trial_id, state)
            assert await only(storage, trial.trial_id) == trial

    asyncio.run(main())


def test_a_trial_that_somebody_else_ended_is_not_acknowledged(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            trial = await worker.open()
            await storage.apply(WriteTrial(TrialUpdate(trial.trial_id), TrialState.FAIL))
            with pytest.raises(SessionGivenUp):
                await worker.tell(trial.trial_id, TrialState.COMPLETE)
            with pytest.raises(SessionGivenUp):
                await worker.tell(trial.trial_id, TrialState.WAITING)

    asyncio.run(main())
    check(url)

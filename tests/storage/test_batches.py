"""What is wrong in a batch, or comes twice, harms nobody else in it; answers are never mixed up."""

import asyncio
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from tests.storage.fleet import Worker, check, create, held, param, storages, together
from trialfleet.model.budget import Budget, Goal
from trialfleet.model.errors import InvalidInput, SessionGivenUp, StorageUnavailable
from trialfleet.model.session import GivenUp
from trialfleet.model.trial import Param, TrialRecord, TrialUpdate
from trialfleet.storage.commands import Command, Ended, GiveUp, UpdateTrial, WriteTrial
from trialfleet.storage.transaction import Transaction

LOCK_STUDIES = "SELECT 1 FROM studies FOR UPDATE"

WRONG: dict[str, dict[str, Any]] = {
    "NUL": {"user_attrs": [("k", "\0")]},
    "NUL in a key": {"user_attrs": [("\0", "1")]},
    "a lone surrogate": {"user_attrs": [("k", "\ud800")]},
    "a key that is too long": {"user_attrs": [("k" * 600, "1")]},
    "a step that is too large": {"intermediate_values": [(2**31, 0.0)]},
    "brackets in brackets": {"params": [Param("y", 0.5, '{"a":' * 100_000)]},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_can_not_be_stored(url: str, wrong: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            trials = [await worker.open() for _ in range(4)]
            *told, opened = await asyncio.gather(
                worker.tell(trials[0].trial_id, params=[param()]),
                worker.tell(trials[1].trial_id, **WRONG[wrong]),
                worker.tell(trials[2].trial_id, user_attrs=[("k", "a\\b'c\"d{e},f")]),
                worker.tell(trials[3].trial_id, None, **WRONG[wrong]),
                worker.open(),
                return_exceptions=True,
            )
            kinds = [type(answer) for answer in told]
            assert kinds == [type(None), InvalidInput, type(None), InvalidInput]
            assert isinstance(opened, TrialRecord)
            assert opened.number == 4
            (quoted,) = await storage.trials([trials[2].trial_id])
            assert list(quoted.user_attrs) == [("k", "a\\b'c\"d{e},f")]
            await worker.tell(trials[3].trial_id)

    asyncio.run(main())
    check(url)


def test_two_writes_to_one_trial_that_come_at_once(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            trials = [await worker.open() for _ in range(2)]
            batches = storage.batches
            first = [
                worker.tell(trial.trial_id, None, user_attrs=[("k", "1"), ("a", "1")])
                for trial in trials
            ]
            second = [
                worker.tell(trial.trial_id, user_attrs=[("k", "2"), ("b", "2")]) for trial in trials
            ]
            await asyncio.gather(*first, *second, worker.open())
            assert storage.batches - batches == 1
            for told in await storage.trials([trial.trial_id for trial in trials]):
                assert told.state == TrialState.COMPLETE
                assert dict(told.user_attrs) == {"k": "2", "a": "1", "b": "2"}

    asyncio.run(main())
    check(url)


def test_one_opening_that_comes_twice_at_once(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            opening = worker.opening()
            one, same, other = await asyncio.gather(
                storage.apply(opening), storage.apply(opening), worker.open()
            )
            assert one == same
            assert {one.number, other.number} == {0, 1}

    asyncio.run(main())
    check(url)


def test_what_a_worker_told_before_it_died_counts(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id, "w").start()
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
                assert await giving_up == GivenUp(sessions=1, opened=1, failed=[crashed.number])
            states = [trial.state for trial in await storage.trials_since(study_id, -1, [])]
            assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]

    asyncio.run(main())
    check(url)


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (Budget(trials=1), "TrialsComplete"),
        (Budget(failed_trials=1), "FailedTrialsExceeded"),
        (Budget(goals=[Goal(0, 0.5)]), "GoalReached"),
    ],
)
def test_an_opening_sees_the_end_that_a_tell_beside_it_makes(
    url: str, budget: Budget, reason: str
) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage, budget=budget)).start()
            trial = await worker.open()
            state = TrialState.FAIL if budget.failed_trials else TrialState.COMPLETE
            told = worker.telling(trial.trial_id, state)
            answers = await storage.apply_all([told, worker.opening()])
            assert answers == [None, Ended(reason)]

    asyncio.run(main())
    check(url)


def test_what_is_not_urgent_goes_with_what_is(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            trials = [await worker.open() for _ in range(2)]
            batches = storage.batches
            report = worker.telling(trials[0].trial_id, None, intermediate_values=[(0, 1.0)])
            reporting = asyncio.create_task(storage.apply_all([report], urgent=False))
            await asyncio.sleep(0)
            await worker.tell(trials[1].trial_id)
            assert await reporting == [None]
            assert storage.batches - batches == 1
            # Alone, it is not kept for long.
            async with asyncio.timeout(30):
                report = worker.telling(trials[0].trial_id, None, intermediate_values=[(1, 1.0)])
                assert await storage.apply_all([report], urgent=False) == [None]

    asyncio.run(main())
    check(url)


def test_an_answer_that_is_lost_after_the_commit(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = Transaction.commit

    def lose(transaction: Transaction) -> None:
        monkeypatch.setattr(Transaction, "commit", commit)
        commit(transaction)
        # As psycopg2 says it of a connection that broke before the answer came.
        raise sa.exc.DBAPIError("COMMIT", None, psycopg2.OperationalError("server closed"))

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            trial = await worker.open()
            commands: list[Command] = [worker.telling(trial.trial_id), worker.opening()]
            monkeypatch.setattr(Transaction, "commit", lose)
            answers = await storage.apply_all(commands)
            assert [type(answer) for answer in answers] == [StorageUnavailable] * 2
            told, opened = await storage.apply_all(commands)
            assert told is None
            assert opened.number == 1
            assert len(await storage.trials_since(study_id, -1, [])) == 2

    asyncio.run(main())
    check(url)


@pytest.mark.parametrize("same", [True, False])
def test_a_tell_that_came_after_another_clients_is_refused(url: str, same: bool) -> None:
    """An equal end state does not prove that the own write was applied."""

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            trial = await worker.open()
            state = TrialState.COMPLETE if same else TrialState.FAIL
            await storage.apply(WriteTrial(TrialUpdate(trial.trial_id), state, [0.5]))
            for state_told in (TrialState.COMPLETE, None):
                with pytest.raises(SessionGivenUp, match="was ended by another"):
                    await worker.tell(trial.trial_id, state_told, [9.0] if state_told else None)
            (kept,) = await storage.trials([trial.trial_id])
            assert (kept.state, kept.values) == (state, [0.5])

    asyncio.run(main())
    check(url)


def test_a_second_tell_of_one_session_is_refused_and_the_first_may_come_again(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            trial = await worker.open()
            report = worker.telling(trial.trial_id, None, intermediate_values=[(0, 1.0)])
            first = worker.telling(trial.trial_id, values=[1.0])
            second = UpdateTrial(
                worker.write(), TrialUpdate(trial.trial_id), TrialState.COMPLETE, [2.0]
            )
            for answers in (
                await together(url, [first, second, first]),
                await together(url, [second, first, report]),
            ):
                refused = [answer for answer in answers if answer is not None]
                assert [type(answer) for answer in refused] == [SessionGivenUp]
            (kept,) = await storage.trials([trial.trial_id])
            assert (kept.values, list(kept.intermediate_values)) == ([1.0], [])

    asyncio.run(main())
    check(url)

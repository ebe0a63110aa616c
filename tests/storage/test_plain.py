"""What most batches are takes one statement; what is not plain is told from it."""

import asyncio
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState

from tests.storage.fleet import Worker, check, create, noting, param, storages
from trialfleet import names
from trialfleet.model.errors import SessionGivenUp
from trialfleet.storage.batch import Writer
from trialfleet.storage.records import Budget, Ended, GiveUp, Goal, TrialRecord, Wait


class Counted:
    """A writer on a connection of its own, and the statements that it makes."""

    def __init__(self, url: str) -> None:
        self._made: list[str] = []
        noted = noting(self._made.append)
        self.writer = Writer(sa.create_engine(url, poolclass=sa.NullPool, connect_args=noted))

    async def apply(self, *commands: Any) -> tuple[int, list[Any]]:
        before = len(self._made)
        answers = await asyncio.to_thread(self.writer.apply, commands)
        return len(self._made) - before, answers


def test_a_batch_of_tells_and_openings_is_one_statement(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            ids = [await create(storage, name) for name in ("one", "two")]
            workers = [await Worker(storage, study_id).start("") for study_id in ids * 5]
            counted = Counted(url)
            for _ in range(2):  # the studies begin, and their parameters become known
                _, trials = await counted.apply(*(worker.opening() for worker in workers))
                await counted.apply(
                    *(
                        worker.telling(trial.trial_id, params=[param()])
                        for worker, trial in zip(workers, trials, strict=True)
                    )
                )
            _, trials = await counted.apply(*(worker.opening() for worker in workers))
            for number in range(3, 6):
                pairs = list(zip(workers, trials, strict=True))
                extras: dict[str, Any] = {
                    "params": [param()],
                    "user_attrs": [("k", "1")],
                    "system_attrs": [("k", "1")],
                    "intermediate_values": [(0, float("nan")), (1, float("inf"))],
                }
                reports = [
                    worker.telling(trial.trial_id, None, **extras) for worker, trial in pairs
                ]
                assert await counted.apply(*reports) == (1, [None] * 10)
                tells = [
                    worker.telling(trial.trial_id, values=[float("-inf")])
                    for worker, trial in pairs
                ]
                openings = [worker.opening() for worker in workers]
                statements, answers = await counted.apply(*tells, *openings)
                assert statements == 1
                assert answers[:10] == [None] * 10
                trials = answers[10:]
                assert sorted(trial.number for trial in trials) == sorted(
                    [*range(5 * number, 5 * number + 5)] * 2
                )
                for worker, trial in zip(workers, trials, strict=True):
                    (stored,) = await storage.trials([trial.trial_id])
                    assert stored == trial
                    assert stored.state == TrialState.RUNNING
                    studied = await storage.study_of_trial(trial.trial_id)
                    assert studied == ("one", "two")[ids.index(worker.study_id)]
            counted.writer.close()

    asyncio.run(main())
    check(url)


def test_an_opening_sees_the_end_that_a_tell_beside_it_makes(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            for name, budget, state, reason in (
                ("failed", Budget(failed_trials=2), TrialState.FAIL, names.ENDED_FAILED_TRIALS),
                ("goal", Budget(goals=[Goal(0, 0.5)]), TrialState.COMPLETE, names.ENDED_GOAL),
                ("trials", Budget(trials=2), TrialState.PRUNED, names.ENDED_TRIALS),
            ):
                study_id = await create(storage, name, budget=budget)
                worker = await Worker(storage, study_id).start("")
                counted = Counted(url)
                _, (trial,) = await counted.apply(worker.opening())
                tell = worker.telling(trial.trial_id, state, [0.75])
                _, (told, trial) = await counted.apply(tell, worker.opening())
                assert told is None
                assert isinstance(trial, TrialRecord)
                tell = worker.telling(trial.trial_id, state, [0.25])
                _, answers = await counted.apply(tell, worker.opening())
                assert answers == [None, Ended(reason)]
                counted.writer.close()

    asyncio.run(main())
    check(url)


def test_who_is_not_plain_spoils_nothing_for_the_others(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage, budget=Budget(trials=6))
            fine, dead = [await Worker(storage, study_id, name).start() for name in ("a", "b")]
            counted = Counted(url)
            _, (mine, other) = await counted.apply(fine.opening(), dead.opening())
            await storage.apply(GiveUp("Evicted", worker="b", failed=True))
            tell = fine.telling(mine.trial_id)
            opening = fine.opening()
            batch = [tell, dead.telling(other.trial_id), opening, dead.opening()]
            _, answers = await counted.apply(*batch)
            _, again = await counted.apply(*batch)
            for told, refused, opened, fenced in (answers, again):
                assert told is None
                assert isinstance(refused, SessionGivenUp)
                assert isinstance(fenced, SessionGivenUp)
                assert isinstance(opened, TrialRecord)
                assert opened.number == 2
            openings = [fine.opening() for _ in range(4)]
            _, opened = await counted.apply(*openings)
            assert [trial.number for trial in opened[:3]] == [3, 4, 5]
            assert opened[3] is Wait.WAIT
            counted.writer.close()

    asyncio.run(main())
    check(url)

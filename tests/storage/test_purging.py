"""What is left of sessions is removed a day after their end, and not before."""

import asyncio

import pytest
from optuna.trial import TrialState

from tests.storage.fleet import Worker, check, create, param, query, write
from trialfleet import names
from trialfleet.model.errors import SessionGivenUp
from trialfleet.model.study import Counts
from trialfleet.storage import Storage
from trialfleet.storage.commands import CloseSession, GiveUp

LEFT = "SELECT (SELECT count(*) FROM trialfleet_runs), (SELECT count(*) FROM trialfleet_returns), "
LEFT += "(SELECT count(*) FROM trialfleet_sessions)"


def age(url: str, worker: str, hours: float) -> None:
    """Let a worker's session have ended some time ago."""
    change = (
        "UPDATE trialfleet_sessions SET ended_at = clock_timestamp() - make_interval(secs => :s)"
    )
    write(url, f"{change} WHERE worker = :worker", s=hours * 3600, worker=worker)


async def purge_all(storage: Storage) -> int:
    total = 0
    while removed := await storage.purge():
        total += removed
    return total


def test_after_a_day(url: str) -> None:
    async def main() -> None:
        async with Storage(url) as storage:
            study_id = await create(storage, retries=1)
            old, young, alive = [
                await Worker(storage, study_id, name).start() for name in ("old", "young", "alive")
            ]
            tells, returns = {}, {}
            for worker in (old, young):
                tells[worker] = worker.telling((await worker.open()).trial_id, params=[param()])
                await storage.apply(tells[worker])
            for worker in (old, young):
                taken = await worker.open()
                returns[worker] = worker.telling(taken.trial_id, TrialState.WAITING)
                await storage.apply(returns[worker])
                assert (await alive.open()).trial_id == taken.trial_id
            lost = await old.open()
            await storage.apply(GiveUp(session=old.session, reason=names.REASON_KILLED))
            await storage.apply(CloseSession(young.session))
            before = await storage.summary(study_id)
            assert before.counts == Counts(complete=2, running=2, waiting=1, lost=1)
            assert query(url, LEFT) == [(5, 2, 3)]

            age(url, "old", 23.9)
            age(url, "young", 23.9)
            assert await storage.purge() == 0
            for sent_again in (*tells.values(), *returns.values()):
                await storage.apply(sent_again)

            age(url, "old", 24.1)
            # Its run, its return, itself: what it lost stays, for it is counted by that.
            assert await purge_all(storage) == 3
            assert query(url, LEFT) == [(4, 1, 2)]
            assert query(url, "SELECT trial_id FROM trialfleet_runs WHERE lost") == [
                (lost.trial_id,)
            ]
            for sent_again in (tells[young], returns[young]):
                await storage.apply(sent_again)
            for sent_again in (tells[old], returns[old]):
                with pytest.raises(SessionGivenUp):
                    await storage.apply(sent_again)
            with pytest.raises(SessionGivenUp):
                await old.ask()
            assert (await storage.summary(study_id)) == before
            for trial_id in query(url, "SELECT trial_id FROM trials WHERE state = 'RUNNING'"):
                await alive.tell(trial_id[0])

    asyncio.run(main())
    check(url)


def test_little_by_little(url: str) -> None:
    async def main() -> None:
        async with Storage(url) as storage:
            study_id = await create(storage)
            for name in ("a", "b"):
                worker = await Worker(storage, study_id, name).start()
                opened = await asyncio.gather(*(worker.open() for _ in range(1200)))
                await storage.apply_all([worker.telling(trial.trial_id) for trial in opened])
                await storage.apply(CloseSession(worker.session))
                age(url, name, 48)
            others = await Worker(storage, study_id, "c").start()
            await others.open()
            steps = []
            while removed := await storage.purge():
                steps.append(removed)
            assert steps == [1000, 1000, 402]
            assert query(url, LEFT) == [(1, 0, 1)]

    asyncio.run(main())
    check(url)


def test_one_after_the_other(url: str) -> None:
    async def main() -> None:
        async with Storage(url) as storage, Storage(url) as other:
            study_id = await create(storage)
            for number in range(150):
                worker = await Worker(storage, study_id, f"w{number}").start()
                await worker.tell((await worker.open()).trial_id)
                await storage.apply(CloseSession(worker.session))
                age(url, f"w{number}", 48)
            # Two proxies at once: none waits for the other, nothing is removed twice.
            removed = await asyncio.gather(purge_all(storage), purge_all(other))
            assert sum(removed) == 300
            assert query(url, LEFT) == [(0, 0, 0)]

    asyncio.run(main())
    check(url)

"""Plain writes are committed from the event loop; a thread is there for all that is not plain."""

import asyncio
from typing import Any, cast

import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from tests.storage.express import (
    CANCEL_WAITING,
    CUT_WAITING,
    LOCK_STUDIES,
    back,
    fixture_by_thread,  # noqa: F401
    fixture_openings_are_always_tried,  # noqa: F401
    start,
    steady,
)
from tests.storage.fleet import Worker, check, create, database, held, param, query, storages
from trialfleet import names
from trialfleet.model.errors import StorageUnavailable
from trialfleet.storage.params import Distributions
from trialfleet.storage.plain import PlainWrites
from trialfleet.storage.records import (
    Budget,
    Command,
    Ended,
    Goal,
    KeepAlive,
    TrialRecord,
    TrialUpdate,
    UpdateTrial,
    Wait,
    WriteId,
)

# -- which way a write takes -----------------------------------------------------------------


def test_what_workers_do_most_of_the_time_needs_no_thread(
    url: str, by_thread: list[Command]
) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage, budget=Budget(trials=100))
            workers = [await Worker(storage, study_id).start() for _ in range(4)]
            await steady(workers[0])
            by_thread.clear()

            async def work(worker: Worker) -> None:
                trial = await worker.open()
                for _ in range(10):
                    await worker.tell(trial.trial_id, None, params=[param()])
                    told, trial = await storage.apply_all(
                        [worker.telling(trial.trial_id), worker.opening()]
                    )
                    assert told is None
                    assert isinstance(trial, TrialRecord)
                await worker.tell(trial.trial_id, TrialState.PRUNED)

            batches, commands = storage.batches, storage.commands
            await asyncio.gather(*map(work, workers))
            assert storage.commands - commands == 4 * 32
            assert storage.batches - batches <= 4 * 22
            assert by_thread == []
            trials = await storage.trials_since(study_id, -1, [])
            assert [trial.number for trial in trials] == list(range(3 + 4 * 11))

    asyncio.run(main())
    check(url)


def test_no_commands_have_no_answers(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            assert await storage.apply_all([]) == []

    asyncio.run(main())


def test_openings_are_tried_again_after_one_that_was_not_plain(
    url: str, by_thread: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialfleet.storage.committer._NOT_PLAIN_S", 0.2)

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            trial = await worker.open()
            await worker.tell(trial.trial_id, TrialState.WAITING)
            opening = worker.opening()
            await storage.apply(opening)
            assert by_thread[-1] == opening
            await back(worker, by_thread)

    asyncio.run(main())


def test_the_end_of_a_number_of_trials_is_plain(url: str, by_thread: list[Command]) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            ids = [await create(storage, name, budget=Budget(trials=5)) for name in "ab"]
            one, two = [await start(storage, study_id) for study_id in ids]
            by_thread.clear()
            first, second, other, *refused = await asyncio.gather(
                *(worker.ask() for worker in (one, one, two, one, one))
            )
            assert [trial.number for trial in (first, second, other)] == [3, 4, 3]
            assert refused == [Wait.WAIT] * 2
            told = one.telling(first.trial_id)
            assert await storage.apply_all((told, one.opening())) == [None, Wait.WAIT]
            parked = asyncio.create_task(one.ask(60.0))
            told = one.telling(second.trial_id, TrialState.FAIL)
            ended = Ended(names.ENDED_TRIALS)
            assert await storage.apply_all((told, one.opening())) == [None, ended]
            commands = storage.commands
            assert await parked == ended
            # Who was parked hears of the end without another write.
            assert storage.commands == commands
            assert await one.ask(60.0) == ended
            assert (await two.open()).number == 4
            assert await two.ask() is Wait.WAIT
            assert by_thread == []

    asyncio.run(main())
    check(url)


def test_a_parameter_is_known_after_its_first_use(url: str, by_thread: list[Command]) -> None:
    async def main() -> None:
        async with storages(url, 2) as pair:
            study_id = await create(pair[0])
            for storage in pair:
                worker = await Worker(storage, study_id).start()
                for new in ("a", "b"):
                    handed_over = []
                    for _ in range(5):
                        trial = await worker.open()
                        by_thread.clear()
                        await worker.tell(trial.trial_id, params=[param("x"), param(new)])
                        handed_over.append(bool(by_thread))
                    assert handed_over == [True, False, False, False, False]

    asyncio.run(main())
    check(url)


def test_a_trial_that_another_storage_opened(url: str, by_thread: list[Command]) -> None:
    async def main() -> None:
        async with storages(url, 2) as (storage, other):
            worker = await Worker(storage, await create(storage)).start()
            await steady(worker)
            trial = await worker.open()
            worker.storage = other
            by_thread.clear()
            for number in range(3):
                await worker.tell(trial.trial_id, None, params=[param(value=number / 4)])
            assert len(by_thread) == 1
            await worker.tell(trial.trial_id, params=[param(value=0.75)])
            assert len(by_thread) == 1
            (told,) = await storage.trials([trial.trial_id])
            assert told.params == [param(value=0.75)]

    asyncio.run(main())
    check(url)


def test_a_trial_that_the_thread_forgets_while_the_loop_looks_at_it() -> None:
    class Fleeting(dict[int, int]):
        def __contains__(self, trial_id: object) -> bool:
            return self.pop(cast(int, trial_id), None) is not None

    plain = PlainWrites(Distributions())
    plain._studies = Fleeting({7: 1})
    update = TrialUpdate(7, params=[param()])
    assert not plain.fit([UpdateTrial(WriteId(bytes(16), 1), update)])


def test_a_study_with_a_goal(url: str, by_thread: list[Command]) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage, budget=Budget(goals=[Goal(0, 0.5)]))
            workers = [await Worker(storage, study_id).start() for _ in range(4)]
            trials = [await worker.open() for worker in workers]
            for value in (0.9, 0.8, 0.7):
                by_thread.clear()
                answers = await asyncio.gather(
                    *(
                        storage.apply_all(
                            [worker.telling(trial.trial_id, values=[value]), worker.opening()]
                        )
                        for worker, trial in zip(workers, trials, strict=True)
                    )
                )
                assert [told for told, _ in answers] == [None] * 4
                trials = [opened for _, opened in answers]
                # The tells were applied by the loop.
                assert {type(command).__name__ for command in by_thread} == {"OpenTrial"}
            assert sorted(trial.number for trial in trials) == [12, 13, 14, 15]
            told, ended = await storage.apply_all(
                [workers[0].telling(trials[0].trial_id, values=[0.5]), workers[0].opening()]
            )
            assert told is None
            assert ended == Ended(names.ENDED_GOAL)
            await workers[1].tell(trials[1].trial_id, values=[0.9])
            assert await workers[1].ask() == Ended(names.ENDED_GOAL)
            summary = await storage.summary(study_id)
            assert summary.ended == names.ENDED_GOAL
            assert summary.counts.complete == 14

    asyncio.run(main())
    check(url)


def test_two_writes_to_one_trial_that_come_at_once(url: str, by_thread: list[Command]) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            await steady(worker)
            trials = [await worker.open() for _ in range(2)]
            by_thread.clear()
            batches = storage.batches
            first = [
                worker.tell(trial.trial_id, None, user_attrs=[("k", "1"), ("a", "1")])
                for trial in trials
            ]
            second = [
                worker.tell(trial.trial_id, user_attrs=[("k", "2"), ("b", "2")]) for trial in trials
            ]
            await asyncio.gather(*first, *second, worker.open())
            assert storage.batches - batches == 2
            assert by_thread == []
            for told in await storage.trials([trial.trial_id for trial in trials]):
                assert told.state == TrialState.COMPLETE
                assert dict(told.user_attrs) == {"k": "2", "a": "1", "b": "2"}

    asyncio.run(main())
    check(url)


def test_one_opening_that_comes_twice_at_once(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            await steady(worker)
            opening = worker.opening()
            one, same, other = await asyncio.gather(
                storage.apply(opening), storage.apply(opening), worker.open()
            )
            assert one == same
            assert {one.number, other.number} == {3, 4}

    asyncio.run(main())
    check(url)


def test_a_large_statement(url: str, by_thread: list[Command]) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            await steady(worker)
            trials = [await worker.open() for _ in range(5)]
            by_thread.clear()
            loop = asyncio.get_running_loop()
            waited: list[str] = []
            add_writer, remove_writer = loop.add_writer, loop.remove_writer

            def add(fd: int, *callback: Any) -> None:
                waited.append("add")
                add_writer(fd, *callback)

            def remove(fd: int) -> bool:
                waited.append("remove")
                return remove_writer(fd)

            texts = [letter * (4 << 20) for letter in "abcd"]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(loop, "add_writer", add)
                patch.setattr(loop, "remove_writer", remove)
                large = [
                    worker.tell(trial.trial_id, None, user_attrs=[("k", text)])
                    for trial, text in zip(trials, texts, strict=False)
                ]
                await asyncio.gather(*large, worker.tell(trials[4].trial_id))
                # The socket took it in parts, and what waited for it does so no more.
                assert waited == ["add", "remove"]
            assert by_thread == []
            found = await storage.trials([trial.trial_id for trial in trials])
            assert [dict(trial.user_attrs)["k"] for trial in found[:4]] == texts
            assert found[4].state == TrialState.COMPLETE

    asyncio.run(main())
    check(url)


# -- the end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [False, True])
def test_what_waits_at_the_end_is_applied(url: str, by_thread: list[Command], cut: bool) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            await steady(worker)
            by_thread.clear()
            async with held(url, LOCK_STUDIES) as lock:
                opening = [asyncio.create_task(worker.open())]
                await lock.waiters(1)
                opening += [asyncio.create_task(worker.open()) for _ in range(50)]
                while storage.waiting < 50:
                    await asyncio.sleep(0)
                closing = asyncio.create_task(storage.__aexit__())
                await asyncio.sleep(0)
                with pytest.raises(StorageUnavailable, match="the proxy is stopping"):
                    await worker.open()
                if cut:
                    assert query(url, CUT_WAITING) == [(True,)]
                    while not by_thread:
                        await asyncio.sleep(0)
                    await lock.waiters(1)
                assert not closing.done()
                lock.release()
                await closing
            numbers = sorted([(await opened).number for opened in opening])
            assert numbers == list(range(3, 54))
            assert bool(by_thread) == cut

    asyncio.run(main())
    check(url)


def test_the_thread_does_not_end_before_the_last_statement(
    url: str, by_thread: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            other = await Worker(storage, worker.study_id).start()
            await steady(worker)
            # With batches that are full the thread looks once more than there is something for it.
            monkeypatch.setattr("trialfleet.storage.committer._MAX_BATCH", 1)
            session = sa.text("SELECT 1 FROM trialfleet_sessions WHERE session_id = :s FOR UPDATE")
            async with held(url, LOCK_STUDIES) as lock, held(url) as second:
                second._connection.execute(session, {"s": other.session})
                opening = asyncio.create_task(worker.open())
                await lock.waiters(1)
                by_thread.clear()
                keeping = asyncio.create_task(storage.apply(KeepAlive(other.session)))
                await lock.waiters(2)
                closing = asyncio.create_task(storage.__aexit__())
                await asyncio.sleep(0)
                second.release()
                assert await keeping
                # It has found nothing by now, or does so while this connection is made.
                with database(url):
                    pass
                assert query(url, CANCEL_WAITING) == [(True,)]
                async with asyncio.timeout(60):
                    await lock.waiters(1)
                    lock.release()
                    assert (await opening).number == 3
                    await closing
            assert len(by_thread) == 2

    asyncio.run(main())
    check(url)

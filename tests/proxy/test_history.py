"""A study's history: fresh, each trial once, and shared."""

import asyncio
import os
import random
from collections.abc import Sequence
from time import monotonic
from typing import Any

import pytest
from optuna.trial import TrialState

from tests.proxy.histories import (
    ALL,
    MAX_BYTES,
    NONE,
    CountingStorage,
    Reader,
    add,
    add_study,
    opened,
    params,
)
from tests.proxy.running import trials_of
from trialfleet.model.errors import StorageUnavailable
from trialfleet.model.session import WriteId
from trialfleet.model.trial import TrialRecord, TrialUpdate
from trialfleet.proxy.history import Bound, Cursor, Histories
from trialfleet.storage import Storage
from trialfleet.storage.commands import OpenSession, OpenTrial, UpdateTrial, WriteTrial
from trialfleet.wire.v1 import trialfleet_pb2 as pb


def test_each_finished_trial_is_read_once(database_url: str) -> None:
    async def scenario() -> None:
        async with opened(database_url) as (storage, histories, study):
            reader = Reader()

            async def read() -> None:
                view = await histories.view(study)
                reader.read(list(view.news(reader.cursor, ALL)))

            await read()
            assert reader.restarts == 1 and not reader.finished
            done = [await add(storage, study, TrialState.COMPLETE) for _ in range(3)]
            running = [await add(storage, study, TrialState.RUNNING) for _ in range(2)]
            done.append(await add(storage, study, TrialState.PRUNED))
            await read()
            assert (reader.finished, reader.unfinished) == (done, running)
            await storage.apply(WriteTrial(TrialUpdate(running[0]), TrialState.COMPLETE, [1]))
            await read()
            await read()
            assert reader.finished == [*done, running[0]]
            assert reader.unfinished == [running[1]]
            assert reader.restarts == 1
            counted = [trial_id for ids in storage.reads for trial_id in ids]
            assert [counted.count(trial_id) for trial_id in done] == [1] * len(done)

    asyncio.run(scenario())


def test_definitions_travel_once_and_in_time(database_url: str) -> None:
    async def scenario() -> None:
        async with opened(database_url) as (storage, histories, study):
            expected = [["a"], ["b", "a"], [], ["c"], ["a", "d"]]
            for names in expected:
                await add(storage, study, TrialState.COMPLETE, params=params(*names))
            view = await histories.view(study)
            for trials in (1, 2, 100):
                reader = Reader()
                reader.read(list(view.news(NONE, Bound(trials, 1 << 20))))
                assert reader.named == expected
                assert reader.definitions == ["a", "b", "c", "d"]

    asyncio.run(scenario())


def test_the_size_of_a_part_is_bounded(database_url: str) -> None:
    async def scenario() -> None:
        async with opened(database_url) as (storage, histories, study):
            text = '"' + "x" * 10_000 + '"'
            for _ in range(7):
                await add(storage, study, TrialState.COMPLETE, user_attrs=[("k", text)])
            view = await histories.view(study)
            parts = list(view.news(NONE, Bound(100, 25_000)))
            assert [len(pb.News.FromString(p).finished.trials) for p in parts] == [2, 2, 2, 1]
            # A trial that is larger than the bound goes alone.
            assert len(list(view.news(NONE, Bound(100, 10)))) == 7

    asyncio.run(scenario())


def test_readers_share_a_refresh_that_starts_after_they_came(database_url: str) -> None:
    async def scenario() -> None:
        async with opened(database_url) as (storage, histories, study):
            await histories.view(study)
            storage.reads.clear()
            storage.hold = asyncio.Event()
            first = asyncio.create_task(histories.view(study))
            while not storage.reads:
                await asyncio.sleep(0.01)
            # The query under way has read already: it can't know of this trial.
            trial_id = await add(storage, study, TrialState.COMPLETE)
            late = [asyncio.create_task(histories.view(study)) for _ in range(50)]
            await asyncio.sleep(0)
            storage.hold.set()
            assert (await first).end == 0
            assert {view.end for view in await asyncio.gather(*late)} == {1}
            assert storage.reads == [[], [trial_id]]

    asyncio.run(scenario())


def test_unfinished_trials_come_to_who_wants_them(database_url: str) -> None:
    async def main() -> None:
        async with opened(database_url) as (storage, histories, study_id):
            attrs = [("k", "1")]
            done = await add(storage, study_id, TrialState.COMPLETE, user_attrs=attrs)
            runs = await add(storage, study_id, TrialState.RUNNING, user_attrs=attrs)
            finished_only = Cursor(0, 0, 0, finished_only=True)
            bare, whole = await asyncio.gather(
                histories.view(study_id, finished_only=True), histories.view(study_id)
            )
            (encoded,) = bare.news(finished_only, ALL)
            news = pb.News.FromString(encoded)
            assert [trial.trial_id for trial in trials_of(news.finished)] == [done]
            assert not news.HasField("unfinished")
            (encoded,) = whole.news(NONE, ALL)
            news = pb.News.FromString(encoded)
            assert [trial.trial_id for trial in trials_of(news.finished)] == [done]
            (running,) = trials_of(news.unfinished)
            assert (running.trial_id, len(running.user_attrs)) == (runs, 1)
            update = WriteTrial(TrialUpdate(runs), TrialState.COMPLETE, [2.0])
            assert await storage.apply(update) is True
            bare = await histories.view(study_id, finished_only=True)
            (encoded,) = bare.news(finished_only, ALL)
            finished = trials_of(pb.News.FromString(encoded).finished)
            assert [len(trial.user_attrs) for trial in finished] == [1, 1]

    asyncio.run(main())


def test_a_reader_that_gives_up_does_not_stop_the_refresh(database_url: str) -> None:
    async def scenario() -> None:
        async with opened(database_url) as (storage, histories, study):
            await add(storage, study, TrialState.COMPLETE)
            storage.hold = asyncio.Event()
            impatient = asyncio.create_task(histories.view(study))
            patient = asyncio.create_task(histories.view(study))
            while not storage.reads:
                await asyncio.sleep(0.01)
            impatient.cancel()
            storage.hold.set()
            assert (await patient).end == 1
            with pytest.raises(asyncio.CancelledError):
                await impatient

    asyncio.run(scenario())


def test_a_view_for_one_session_is_read_when_a_trial_of_its_own_ended(database_url: str) -> None:
    async def scenario() -> None:
        async with opened(database_url) as (storage, histories, study):

            async def finished(told_at: float) -> int:
                view = await histories.view(study, finished_only=True, late_s=60, told_at=told_at)
                return view.end

            assert await finished(0.0) == 0
            await add(storage, study, TrialState.COMPLETE)
            assert await finished(0.0) == 0
            assert await finished(monotonic()) == 1
            assert len(storage.reads) == 2

    asyncio.run(scenario())


def test_a_view_that_may_be_late_is_read_when_a_trial_ended_here(database_url: str) -> None:
    async def scenario() -> None:
        async with (
            opened(database_url) as (storage, histories, study),
            Storage(database_url) as far,
        ):

            async def finished(late_s: float = 60) -> tuple[int, int]:
                view = await histories.view(study, finished_only=True, late_s=late_s)
                return view.end, len(storage.reads)

            await add(storage, study, TrialState.COMPLETE)
            assert await finished() == (1, 1)
            assert await finished() == (1, 1)
            await add(storage, study, TrialState.COMPLETE)
            assert await finished() == (2, 2)
            # Elsewhere: seen when the time is over, and by who wants no view that is late.
            await add(far, study, TrialState.COMPLETE)
            assert await finished() == (2, 2)
            assert await finished(0) == (3, 3)
            await add(far, study, TrialState.COMPLETE)
            assert await finished(1e-9) == (4, 4)
            assert (await histories.view(study, late_s=60)).unfinished is not None
            assert len(storage.reads) == 5
            # What ends no trial changes nothing.
            session = os.urandom(16)
            await storage.apply(OpenSession(session, "w", "s", 60.0))
            await finished()
            reads = len(storage.reads)
            opened_trial = await storage.apply(OpenTrial(study, WriteId(session, 1)))
            update = TrialUpdate(opened_trial.trial_id, intermediate_values=[(0, 1.0)])
            await storage.apply(UpdateTrial(WriteId(session, 2), update))
            await finished()
            assert len(storage.reads) == reads
            told = UpdateTrial(WriteId(session, 3), update, TrialState.COMPLETE, [1.0])
            await storage.apply(told)
            assert await finished() == (5, reads + 1)

    asyncio.run(scenario())


def test_a_failed_refresh_is_told_and_repeated(database_url: str) -> None:
    class FailingStorage(CountingStorage):
        away = False

        async def trials_since(self, *args: Any, **named: Any) -> Sequence[TrialRecord]:
            if self.away:
                raise StorageUnavailable("the database is away")
            return await super().trials_since(*args, **named)

    async def scenario() -> None:
        async with FailingStorage(database_url) as storage:
            histories = Histories(storage, max_bytes=MAX_BYTES, idle_s=60)
            study = await add_study(storage, "s")
            await add(storage, study, TrialState.COMPLETE)
            for before in (0, 1):
                storage.away = True
                results = await asyncio.gather(
                    *(histories.view(study) for _ in range(3)), return_exceptions=True
                )
                assert [type(result) for result in results] == [StorageUnavailable] * 3
                storage.away = False
                assert (await histories.view(study)).end == before + 1
                await add(storage, study, TrialState.COMPLETE)

    asyncio.run(scenario())


def test_many_trials_are_read_in_pages(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trialfleet.proxy.scanning._READ_TRIALS", 4)
    monkeypatch.setattr("trialfleet.proxy.scanning._ENCODE_TRIALS", 3)

    async def scenario() -> None:
        async with opened(database_url) as (storage, histories, study):
            chance = random.Random(1)
            finished: set[int] = set()
            unfinished: set[int] = set()
            reader = Reader()
            for _ in range(8):
                for _ in range(chance.randrange(12)):
                    state = chance.choice((TrialState.COMPLETE, TrialState.RUNNING))
                    trial_id = await add(storage, study, state)
                    (finished if state.is_finished() else unfinished).add(trial_id)
                for trial_id in chance.sample(sorted(unfinished), len(unfinished) // 2):
                    await storage.apply(WriteTrial(TrialUpdate(trial_id), TrialState.FAIL))
                    unfinished.remove(trial_id)
                    finished.add(trial_id)
                view = await histories.view(study)
                reader.read(list(view.news(reader.cursor, ALL)))
                assert len(reader.finished) == len(set(reader.finished))
                assert set(reader.finished) == finished
                assert reader.unfinished == sorted(unfinished)
            assert max(map(len, storage.reads)) == 4

    asyncio.run(scenario())

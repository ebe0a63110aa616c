"""Every write may be sent twice, in any way, and is applied once."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from optuna.trial import TrialState

from tests.storage.fleet import (
    MAXIMIZE,
    STUDY,
    Worker,
    check,
    counts_of,
    create,
    held,
    param,
    query,
    storages,
    together,
)
from trialfleet.model.errors import InvalidInput, NotFound, StudyExists
from trialfleet.model.trial import TrialRecord, TrialUpdate
from trialfleet.storage import Storage
from trialfleet.storage.commands import (
    CloseSession,
    Command,
    CreateStudy,
    CreateTrial,
    DeleteStudy,
    OpenSession,
    SetStudyAttribute,
    WriteTrial,
)

TEMPLATE = TrialRecord(0, 0, TrialState.COMPLETE, [0.5], params=[param()], user_attrs=[("k", "1")])


@dataclass
class Scene:
    name: str
    study_id: int
    worker: Worker
    running: TrialRecord
    """Of the worker."""
    waiting: int


async def scene(storage: Storage, name: str = STUDY) -> Scene:
    study_id = await create(storage, name, enqueue=['{"x": 0.25}'])
    worker = await Worker(storage, study_id).start(name)
    created = await storage.apply(CreateTrial(study_id, TrialRecord(0, 0, TrialState.WAITING)))
    return Scene(name, study_id, worker, await worker.open(), created.trial_id)


UPDATE: dict[str, Any] = {
    "params": [param()],
    "user_attrs": [("u", "1")],
    "system_attrs": [("s", "1")],
    "intermediate_values": [(0, 1.0), (1, 2.0)],
}

COMMANDS: dict[str, Callable[[Scene], Command]] = {
    "open trial": lambda s: s.worker.opening(),
    "create trial": lambda s: CreateTrial(s.study_id, None, s.worker.write()),
    "create from template": lambda s: CreateTrial(s.study_id, TEMPLATE, s.worker.write()),
    "report": lambda s: s.worker.telling(s.running.trial_id, None, **UPDATE),
    "tell": lambda s: s.worker.telling(s.running.trial_id, TrialState.COMPLETE, [1.0], **UPDATE),
    "tell pruned": lambda s: s.worker.telling(s.running.trial_id, TrialState.PRUNED, **UPDATE),
    "tell failed": lambda s: s.worker.telling(s.running.trial_id, TrialState.FAIL),
    "hand back": lambda s: s.worker.telling(s.running.trial_id, TrialState.WAITING, **UPDATE),
    "create study": lambda s: CreateStudy(f"new {s.name}", [MAXIMIZE], s.worker.write()),
    "study attribute": lambda s: SetStudyAttribute(s.study_id, "k", "1", True, s.worker.write()),
    "delete study": lambda s: DeleteStudy(s.study_id, s.worker.write()),
    "start waiting trial": lambda s: WriteTrial(
        TrialUpdate(s.waiting, **UPDATE), TrialState.RUNNING, None, s.worker.write()
    ),
    "write trial": lambda s: WriteTrial(TrialUpdate(s.waiting, **UPDATE), write=s.worker.write()),
    "end trial": lambda s: WriteTrial(
        TrialUpdate(s.waiting, **UPDATE), TrialState.FAIL, None, s.worker.write()
    ),
    "refused start": lambda s: WriteTrial(
        TrialUpdate(s.running.trial_id), TrialState.RUNNING, None, s.worker.write()
    ),
    "open session": lambda s: OpenSession(os.urandom(16), "w", s.name, 60.0),
    "close session": lambda s: CloseSession(s.worker.session),
}

Twice = Callable[[str, Sequence[Storage], Command], Awaitable[Sequence[Any]]]


async def in_sequence(url: str, proxies: Sequence[Storage], command: Command) -> Sequence[Any]:
    first = await proxies[0].apply(command)
    found = counts_of(url), await proxies[0].studies()
    again = [await proxy.apply(command) for proxy in (proxies[0], proxies[1])]
    assert (counts_of(url), await proxies[0].studies()) == found
    return [first, *again]


async def in_one_batch(url: str, proxies: Sequence[Storage], command: Command) -> Sequence[Any]:
    return await together(url, [command, command])


async def through_two(url: str, proxies: Sequence[Storage], command: Command) -> Sequence[Any]:
    """Both wait for the same lock, and go on at once."""
    tables = ("trialfleet_sessions", "studies", "trials", "trialfleet_studies")
    async with held(url, *(f"SELECT 1 FROM {table} FOR UPDATE" for table in tables)) as lock:
        sending = asyncio.gather(*(proxy.apply(command) for proxy in proxies))
        await lock.waiters(2)
        lock.release()
        return await sending


_WRITTEN = {
    "trial_params": 1,
    "trial_user_attributes": 1,
    "trial_system_attributes": 1,
    "trial_intermediate_values": 2,
    "trialfleet_params": 1,
}
GROWN: dict[str, dict[str, int]] = {
    "open trial": {"trialfleet_runs": 1},
    "create trial": {"trials": 1, "trialfleet_runs": 1},
    "create from template": {
        "trials": 1,
        "trial_params": 1,
        "trial_user_attributes": 1,
        "trial_values": 1,
        "trialfleet_best": 1,
        "trialfleet_params": 1,
    },
    "report": _WRITTEN,
    "tell": {**_WRITTEN, "trial_values": 1, "trialfleet_best": 1},
    "tell pruned": _WRITTEN,
    "hand back": {**_WRITTEN, "trial_intermediate_values": 0, "trialfleet_returns": 1},
    "create study": {"studies": 1, "study_directions": 1},
    "study attribute": {"study_system_attributes": 1},
    "delete study": {
        "studies": -1,
        "study_directions": -1,
        "trials": -2,
        "trial_system_attributes": -1,
        "trialfleet_studies": -1,
        "trialfleet_runs": -1,
    },
    "start waiting trial": _WRITTEN,
    "write trial": _WRITTEN,
    "end trial": _WRITTEN,
    "open session": {"trialfleet_sessions": 1},
}
"""Rows that a command adds when it is applied once."""


@pytest.mark.parametrize("twice", [in_sequence, in_one_batch, through_two])
@pytest.mark.parametrize("name", COMMANDS)
def test_twice_is_once(shared_url: str, name: str, twice: Twice) -> None:
    url = shared_url

    async def main() -> int:
        async with storages(url, 2) as proxies:
            s = await scene(proxies[0], f"{name} {twice.__name__}")
            before = counts_of(url)
            answers = await twice(url, proxies, COMMANDS[name](s))
            assert not any(isinstance(answer, Exception) for answer in answers)
            assert all(answer == answers[0] for answer in answers)
            after = counts_of(url)
            grown = {
                table: after[table] - before[table]
                for table in after
                # How many rows a count is spread over depends on who wrote it.
                if table != "trialfleet_counts" and after[table] != before[table]
            }
            expected = GROWN.get(name, {})
            assert grown == {table: rows for table, rows in expected.items() if rows}

            return s.study_id

    check(url, asyncio.run(main()))


def test_an_older_report_that_arrives_late_does_not_overwrite_a_newer_one(url: str) -> None:
    async def main() -> None:
        async with storages(url, 2) as (one, two):
            s = await scene(one)
            old, new = (
                s.worker.telling(
                    s.running.trial_id,
                    None,
                    params=[param("x", value)],
                    user_attrs=[("k", str(value))],
                    intermediate_values=[(1, value)],
                )
                for value in (0.1, 0.9)
            )
            await one.apply(new)
            (written,) = await one.trials([s.running.trial_id])
            for storage in (one, two):
                assert await storage.apply(old) is None
            assert await together(url, [new, old]) == [None, None]
            (trial,) = await one.trials([s.running.trial_id])
            assert trial == written
            assert trial.params == [param("x", 0.9)]
            await s.worker.tell(s.running.trial_id, TrialState.COMPLETE, [1.0])
            assert await two.apply(old) is None
            (trial,) = await one.trials([s.running.trial_id])
            assert trial.params == [param("x", 0.9)]

    asyncio.run(main())


def test_an_older_write_that_arrives_late_is_not_answered_with_another_ones_answer(
    url: str,
) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            s = await scene(storage)
            old, new = s.worker.write(), s.worker.write()
            await storage.apply(CreateStudy("new", [MAXIMIZE], new))
            with pytest.raises(InvalidInput) as caught:
                await storage.apply(CreateStudy("old", [MAXIMIZE], old))
            assert str(caught.value) == (
                f"write.sequence: found {old.sequence} after {new.sequence} of the same session, "
                "accepted: numbers that grow"
            )
            assert [study.name for study in await storage.studies()] == [STUDY, "new"]

    asyncio.run(main())


def test_what_was_handed_back_stays_so_when_old_writes_arrive_again(url: str) -> None:
    async def main() -> None:
        async with storages(url, 2) as (one, two):
            study_id = await create(one)
            first = await Worker(one, study_id).start()
            opening = first.opening()
            trial = await one.apply(opening)
            handing = first.telling(trial.trial_id, TrialState.WAITING)
            # Of two threads of a worker one may be late with what it numbered first.
            await first.tell(trial.trial_id, None)
            await one.apply(handing)
            assert (await one.trials([trial.trial_id]))[0].state == TrialState.WAITING
            # Sent again while it waits, runs elsewhere, and runs in the same session again.
            second = await Worker(two, study_id, "second").start()
            for worker in (None, second, first):
                if worker is not None:
                    assert (await worker.open()).trial_id == trial.trial_id
                for storage in (one, two):
                    found = query(url, "SELECT * FROM trials")
                    assert (await storage.apply(opening)).trial_id == trial.trial_id
                    assert await storage.apply(handing) is None
                    assert query(url, "SELECT * FROM trials") == found
                if worker is not None:
                    await worker.tell(trial.trial_id, TrialState.WAITING)

    asyncio.run(main())
    check(url)


def test_a_write_that_failed_may_be_made_again(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            s = await scene(storage)
            command = CreateStudy(STUDY, [MAXIMIZE], s.worker.write())
            for _ in range(2):
                with pytest.raises(StudyExists):
                    await storage.apply(command)
            await storage.apply(DeleteStudy(s.study_id, None))
            assert await storage.apply(command) == await storage.apply(command)

    asyncio.run(main())


def test_a_number_that_is_used_for_two_writes(url: str) -> None:
    async def main() -> None:
        async with Storage(url) as storage:
            here = await scene(storage)
            write = here.worker.write()
            await storage.apply(SetStudyAttribute(here.study_id, "k", "1", False, write))
            update = TrialUpdate(here.waiting)
            for other in (
                CreateStudy("other", [MAXIMIZE], write),
                CreateTrial(here.study_id, TEMPLATE, write),
                WriteTrial(update, TrialState.FAIL, write=write),
            ):
                with pytest.raises(InvalidInput, match=r"^write\.sequence: found that of a write"):
                    await storage.apply(other)
            write = here.worker.write()
            other_study = await storage.apply(CreateStudy("other", [MAXIMIZE], write))
            with pytest.raises(NotFound, match="no trial has the id"):
                await storage.apply(CreateTrial(other_study, TEMPLATE, write))

    asyncio.run(main())
    check(url)


def test_the_study_of_a_repeated_write_may_be_gone(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            s = await scene(storage)
            opening = s.worker.opening()
            creating = CreateTrial(s.study_id, TEMPLATE, s.worker.write())
            await storage.apply(opening)
            await storage.apply(creating)
            await storage.apply(DeleteStudy(s.study_id, None))
            for command in (opening, creating):
                with pytest.raises(NotFound):
                    await storage.apply(command)
            await storage.apply(CloseSession(s.worker.session))

    asyncio.run(main())
    check(url)

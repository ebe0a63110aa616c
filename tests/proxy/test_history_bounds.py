"""The logs of studies are bounded in memory and in time unused, and go with their study."""

import asyncio
from typing import Any

import pytest
from optuna.trial import TrialState

from tests.proxy.histories import (
    ALL,
    NONE,
    Reader,
    add,
    add_study,
    opened,
    params,
)
from trialfleet.model.errors import NotFound
from trialfleet.storage.commands import (
    DeleteStudy,
)


def test_evicted_logs_start_anew(database_url: str) -> None:
    async def scenario() -> None:
        async with opened(database_url, max_bytes=1000) as (storage, histories, study):
            other = await add_study(storage, "other")
            for study_id in (study, other):
                for _ in range(10):
                    await add(storage, study_id, TrialState.COMPLETE)
            reader = Reader()
            reader.read(list((await histories.view(study)).news(NONE, ALL)))
            await histories.view(other)
            assert len(histories) == 1
            reader.read(list((await histories.view(study)).news(reader.cursor, ALL)))
            assert reader.restarts == 2
            assert len(reader.finished) == 10
            # The log in use stays, however large.
            reader.read(list((await histories.view(study)).news(reader.cursor, ALL)))
            assert reader.restarts == 2

    asyncio.run(scenario())


def test_idle_logs_are_dropped(database_url: str) -> None:
    now = 0.0

    async def scenario() -> None:
        nonlocal now
        timing: dict[str, Any] = {"idle_s": 10, "clock": lambda: now}
        async with opened(database_url, **timing) as (storage, histories, study):
            other = await add_study(storage, "other")
            first = await histories.view(study)
            now = 8
            await histories.view(other)
            histories.drop_idle()
            assert len(histories) == 2
            now = 11
            histories.drop_idle()
            assert len(histories) == 1
            assert (await histories.view(study)).epoch != first.epoch

    asyncio.run(scenario())


def test_a_log_is_small(database_url: str) -> None:
    async def scenario() -> None:
        async with opened(database_url) as (storage, histories, study):
            names = [f"a parameter with a long name {place}" for place in range(10)]
            await add(storage, study, TrialState.COMPLETE, params=params(*names))
            await histories.view(study)
            before = histories.size
            await asyncio.gather(
                *(
                    add(storage, study, TrialState.COMPLETE, params=params(*names))
                    for _ in range(100)
                )
            )
            await histories.view(study)
            assert (histories.size - before) / 100 < 250

    asyncio.run(scenario())


def test_a_deleted_study_is_forgotten(database_url: str) -> None:
    async def scenario() -> None:
        async with opened(database_url) as (storage, histories, study):
            await add(storage, study, TrialState.COMPLETE)
            await histories.view(study)
            await storage.apply(DeleteStudy(study))
            with pytest.raises(NotFound):
                await histories.view(study)
            assert len(histories) == 0

    asyncio.run(scenario())

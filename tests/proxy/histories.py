"""Histories on a storage that keeps what was read, and a reader of theirs."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from optuna.distributions import FloatDistribution, distribution_to_json
from optuna.study import StudyDirection
from optuna.trial import TrialState

from tests.proxy.running import trials_of
from trialfleet.model.trial import Param, TrialRecord
from trialfleet.proxy.history import Bound, Cursor, Histories
from trialfleet.storage import Storage
from trialfleet.storage.commands import CreateStudy, CreateTrial, TrialCreated
from trialfleet.wire.v1 import trialfleet_pb2 as pb

NONE = Cursor(0, 0, 0)
ALL = Bound(trials=1_000_000, size=1 << 30)
MAX_BYTES = 1 << 26


class CountingStorage(Storage):
    """Keeps the ids of the trials that were read, query by query, and can hold a query up."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reads: list[list[int]] = []
        self.hold: asyncio.Event | None = None

    async def trials_since(self, *args: Any, **named: Any) -> Sequence[TrialRecord]:
        records = await super().trials_since(*args, **named)
        self.reads.append([record.trial_id for record in records])
        if self.hold is not None:
            await self.hold.wait()
        return records


@asynccontextmanager
async def opened(
    url: str, *, max_bytes: int = MAX_BYTES, **options: Any
) -> AsyncIterator[tuple[CountingStorage, Histories, int]]:
    """Yield a storage, its histories and the id of a study."""
    async with CountingStorage(url) as storage:
        histories = Histories(storage, max_bytes=max_bytes, **{"idle_s": 60, **options})
        yield storage, histories, await add_study(storage, "s")
        await histories.close()


async def add_study(storage: Storage, name: str) -> int:
    study_id = await storage.apply(CreateStudy(name, [StudyDirection.MINIMIZE]))
    assert isinstance(study_id, int)
    return study_id


async def add(storage: Storage, study_id: int, state: TrialState, **fields: Any) -> int:
    finished = state.is_finished()
    template = TrialRecord(0, 0, state, values=[1.0] if finished else None, **fields)
    created = await storage.apply(CreateTrial(study_id, template))
    assert isinstance(created, TrialCreated)
    return created.trial_id


def params(*names: str, high: float = 1) -> list[Param]:
    text = distribution_to_json(FloatDistribution(0, high))
    return [Param(name, 0.5, text) for name in names]


class Reader:
    """What a client makes of the news it gets."""

    def __init__(self) -> None:
        self.cursor = NONE
        self.definitions: list[str] = []
        self.finished: list[int] = []
        self.named: list[list[str]] = []
        self.unfinished: list[int] = []
        self.restarts = 0

    def take(self, encoded: bytes) -> pb.News:
        news = pb.News.FromString(encoded)
        if news.restarted:
            self.restarts += 1
            self.definitions, self.finished, self.named = [], [], []
        assert news.finished.first_definition == len(self.definitions)
        self.definitions += [definition.name for definition in news.finished.definitions]
        for trial in trials_of(news.finished):
            self.finished.append(trial.trial_id)
            self.named.append([self.definitions[index] for index in trial.definitions])
        self.unfinished = [trial.trial_id for trial in trials_of(news.unfinished)]
        self.cursor = Cursor(news.cursor.epoch, news.cursor.trials, news.cursor.definitions)
        return news

    def read(self, parts: Sequence[bytes]) -> None:
        *first, last = [self.take(part) for part in parts]
        assert all(news.more and not news.HasField("unfinished") for news in first)
        assert not last.more

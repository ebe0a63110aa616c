"""Whatever meets whatever, at several proxies and in several studies: everybody gets an answer."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import optuna
from optuna.trial import TrialState

from tests.storage.fleet import (
    MINIMIZE,
    Worker,
    check,
    create,
    give_up_silent,
    param,
    query,
    stock,
    storages,
)
from trialfleet.model.budget import Budget
from trialfleet.model.errors import NotFound, SessionGivenUp, StudyExists, TrialFinished
from trialfleet.model.trial import TrialRecord, TrialUpdate
from trialfleet.storage import Storage
from trialfleet.storage.commands import (
    CloseSession,
    CreateStudy,
    CreateTrial,
    DeleteStudy,
    Ended,
    GiveUp,
    KeepAlive,
    SetStudyAttribute,
    Wait,
    WriteTrial,
)

STUDIES = ("a", "b", "c")
EXPECTED = (SessionGivenUp, TrialFinished)
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


async def live(worker: Worker, chance: random.Random, steps: int, answers: Counter[str]) -> None:
    """Do what workers do, in a random study each time, for so many steps."""
    storage, ids = worker.storage, list(range(1, len(STUDIES) + 1))
    await worker.start(chance.choice(STUDIES))
    running: list[TrialRecord] = []
    for _ in range(steps):
        worker.study_id = chance.choice(ids)
        try:
            if running and chance.random() < 0.6:
                trial = running.pop(chance.randrange(len(running)))
                names_ = chance.sample("uvwxyz", 3)
                state = chance.choice([None, *TrialState])
                if state in (None, TrialState.RUNNING):
                    await worker.tell(trial.trial_id, None, params=[param(n) for n in names_])
                    running.append(trial)
                else:
                    values = [chance.random()] if state == TrialState.COMPLETE else None
                    await worker.tell(trial.trial_id, state, values)
            else:
                opened = await worker.ask()
                if isinstance(opened, TrialRecord):
                    running.append(opened)
                else:
                    assert isinstance(opened, Wait | Ended)
            answers["done"] += 1
        except SessionGivenUp:
            answers["given up"] += 1
            running.clear()
            worker = await Worker(storage, worker.study_id, worker.name).start(STUDIES[0])


def test_everything_at_once(url: str) -> None:
    chance = random.Random(5)
    answers: Counter[str] = Counter()

    def rare(storage: Storage, worker: Worker) -> Sequence[Callable[[], Awaitable[Any]]]:
        study_id = chance.randrange(len(STUDIES)) + 1
        name = STUDIES[study_id - 1]
        template = TrialRecord(0, 0, TrialState.COMPLETE, [chance.random()], params=[param("x")])
        waiting = TrialRecord(0, 0, TrialState.WAITING)
        update = TrialUpdate(chance.randrange(1, 50), user_attrs=[("k", "1")])
        return (
            lambda: storage.apply(GiveUp("Evicted", worker=f"w{chance.randrange(12)}")),
            lambda: give_up_silent(storage),
            lambda: create(storage, name, budget=Budget(trials=500), retries=2),
            lambda: storage.apply(SetStudyAttribute(study_id, "k", "1", True, worker.write())),
            lambda: storage.apply(CreateTrial(study_id, template, worker.write())),
            lambda: storage.apply(CreateTrial(study_id, waiting, None)),
            lambda: storage.apply(WriteTrial(update, write=worker.write())),
            lambda: storage.apply(WriteTrial(update)),
            lambda: storage.apply(KeepAlive(worker.session)),
            lambda: storage.summary(study_id, 3),
        )

    async def meddle(storage: Storage, worker: Worker, steps: int) -> None:
        await worker.start("")
        for _ in range(steps):
            try:
                await chance.choice(rare(storage, worker))()
                answers["done"] += 1
            except EXPECTED as error:
                answers[type(error).__name__] += 1
            except NotFound:
                answers["not there yet"] += 1
        await storage.apply(CloseSession(worker.session))

    def stock_writer(seed: int) -> None:
        mine = random.Random(seed)
        with stock(url) as storage:
            for _ in range(10):
                study = optuna.load_study(study_name=mine.choice(STUDIES), storage=storage)
                trial = study.ask()
                trial.suggest_float(mine.choice("uvwxyz"), 0, 1)
                study.tell(trial, mine.random())

    async def main() -> None:
        async with storages(url, 2) as pair:
            for name in STUDIES:
                await create(pair[0], name, budget=Budget(trials=500), retries=2)
            loop = asyncio.get_running_loop()
            with ThreadPoolExecutor(2) as pool:
                await asyncio.gather(
                    *(
                        live(Worker(pair[k % 2], 1, f"w{k}"), chance, 25, answers)
                        for k in range(12)
                    ),
                    *(meddle(pair[k % 2], Worker(pair[k % 2], 1, f"m{k}"), 20) for k in range(4)),
                    *(loop.run_in_executor(pool, stock_writer, seed) for seed in range(2)),
                )

    asyncio.run(main())
    assert sum(answers.values()) == 12 * 25 + 4 * 20
    assert answers["done"] > 200
    check(url)
    assert query(url, DEADLOCKS) == [(0,)]


def test_studies_come_and_go_under_their_workers(url: str) -> None:
    chance = random.Random(6)
    outcomes: Counter[str] = Counter()

    async def work(storage: Storage, name: str, me: str) -> None:
        for _ in range(10):
            try:
                worker = await Worker(storage, await create(storage, name), me).start(name)
                trials = await asyncio.gather(*(worker.ask() for _ in range(3)))
                await asyncio.gather(
                    *(worker.tell(t.trial_id, params=[param()]) for t in trials),
                    storage.summary(worker.study_id),
                    storage.trials_since(worker.study_id, -1, []),
                )
                await storage.apply(GiveUp("Evicted", worker=me))
            except NotFound:
                outcomes["deleted"] += 1
            else:
                outcomes["lived"] += 1

    async def delete(storage: Storage) -> None:
        for _ in range(15):
            for study in chance.sample(list(await storage.studies()), k=1):
                try:
                    await storage.apply(DeleteStudy(study.study_id))
                    await storage.apply(CreateStudy(study.name, [MINIMIZE]))
                except (NotFound, StudyExists):
                    pass

    async def main() -> None:
        async with storages(url, 2) as pair:
            for name in STUDIES:
                await create(pair[0], name)
            await asyncio.gather(
                *(work(pair[k % 2], STUDIES[k // 2], f"w{k}") for k in range(6)),
                *(delete(storage) for storage in pair),
            )

    asyncio.run(main())
    check(url)

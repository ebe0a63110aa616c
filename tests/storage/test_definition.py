"""Whose trials they are: a study goes on with trials of its own definition only."""

import asyncio
from typing import Any

import optuna
import pytest

from tests.storage.fleet import MINIMIZE, STUDY, Worker, check, create, stock, storages
from trialfleet.model.budget import Budget
from trialfleet.model.errors import NotFound
from trialfleet.storage import Storage
from trialfleet.storage.commands import EnsureStudy, OpenSession, StudyEnsured

FIRST = "objectives=1 objective=1 searchSpace=1"
SECOND = "objectives=1 objective=2 searchSpace=1"


async def ensure(storage: Storage, definition: str, **more: Any) -> StudyEnsured:
    command = EnsureStudy(STUDY, [MINIMIZE], Budget(trials=9), definition=definition, **more)
    ensured = await storage.apply(command)
    assert isinstance(ensured, StudyEnsured)
    return ensured


def test_trials_of_the_same_definition_go_on(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            assert (await ensure(storage, "a")).created
            worker = await Worker(storage, await create(storage)).start()
            await worker.tell((await worker.open()).trial_id)
            again = await ensure(storage, "a")
            assert (again.differs, again.trials) == (False, 1)

    asyncio.run(main())
    check(url)


def test_those_of_another_are_taken_over_only_when_that_is_said(url: str) -> None:
    """A refusal changes nothing: the budget of the earlier one stays."""

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = (await ensure(storage, "a")).study_id
            worker = await Worker(storage, study_id).start()
            trial = await worker.open()
            refused = await storage.apply(
                EnsureStudy(STUDY, [MINIMIZE], Budget(trials=1), definition="b")
            )
            assert refused == StudyEnsured(study_id, False, True, 1, "a")
            await worker.tell(trial.trial_id)
            assert (await ensure(storage, "b")).differs
            await worker.open()
            # Who does not tell a definition compares none, and leaves what is there.
            assert not (await ensure(storage, "")).differs
            assert (await ensure(storage, "b")).definition == "a"
            assert not (await ensure(storage, "b", adopt=True)).differs
            assert not (await ensure(storage, "b")).differs
            assert (await ensure(storage, "a")).differs

    asyncio.run(main())
    check(url)


def test_without_trials_the_definition_may_be_another(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            await ensure(storage, "a")
            assert not (await ensure(storage, "b")).differs
            assert (await ensure(storage, "b")).definition == "b"

    asyncio.run(main())


def test_trials_that_nobody_defined_are_those_of_another(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            with stock(url) as theirs:
                study = optuna.create_study(storage=theirs, study_name=STUDY)
                assert not (await ensure(storage, "a")).differs
                study.optimize(lambda trial: 0.0, n_trials=1)
            assert not (await ensure(storage, "a")).differs
            refused = await ensure(storage, "b")
            assert (refused.differs, refused.trials, refused.definition) == (True, 1, "a")

    asyncio.run(main())


def test_a_study_of_stock_optuna_has_no_definition(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            with stock(url) as theirs:
                study = optuna.create_study(storage=theirs, study_name=STUDY)
                study.optimize(lambda trial: 0.0, n_trials=2)
            refused = await ensure(storage, "a")
            assert (refused.differs, refused.trials, refused.definition) == (True, 2, "")

    asyncio.run(main())


def test_a_session_for_one_definition_waits_for_it(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            opening = OpenSession(bytes(16), "w", STUDY, 60.0, definition=FIRST)
            with pytest.raises(NotFound, match="no study"):
                await storage.apply(opening)
            await ensure(storage, SECOND)
            with pytest.raises(NotFound, match="another objective"):
                await storage.apply(opening)
            await ensure(storage, FIRST, adopt=True)
            assert (await storage.apply(opening)).ordinal == 0

    asyncio.run(main())


def test_a_session_for_one_definition_is_for_no_study_that_never_said(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            await create(storage)
            with pytest.raises(NotFound, match="not known"):
                await storage.apply(OpenSession(bytes(16), "w", STUDY, 60.0, definition=FIRST))
            await storage.apply(OpenSession(bytes(16), "w", STUDY, 60.0))

    asyncio.run(main())


def test_a_study_has_the_owner_that_it_was_told_last(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            await ensure(storage, "a")
            assert [study.owner for study in await storage.studies()] == [""]
            assert await storage.studies(owner="s/") == []
            await ensure(storage, "a", owner="s/1")
            await ensure(storage, "a")
            (study,) = await storage.studies(owner="s/")
            assert (study.name, study.owner) == (STUDY, "s/1")
            await ensure(storage, "a", owner="t/2")
            assert await storage.studies(owner="s/") == []
            assert [study.owner for study in await storage.studies(owner="t/2")] == ["t/2"]
            worker = await Worker(storage, study.study_id).start()
            await worker.tell((await worker.open()).trial_id)
            refused = await ensure(storage, "b", owner="u/3")
            assert refused.differs
            assert await storage.studies(owner="u/") == []

    asyncio.run(main())

"""A parameter keeps the kind of distribution that it had first in its study."""

import asyncio
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import TrialState

from tests.storage.fleet import (
    FLOAT,
    Worker,
    create,
    database,
    held,
    param,
    query,
    stock,
    storages,
    together,
)
from trialfleet.model.errors import InvalidInput, NotFound, SessionGivenUp
from trialfleet.model.trial import Param, TrialRecord
from trialfleet.storage.commands import CreateTrial, GiveUp
from trialfleet.storage.writer import Writer

INT = distribution_to_json(IntDistribution(0, 9))
WIDE = distribution_to_json(FloatDistribution(-9, 9))
KINDS = distribution_to_json(CategoricalDistribution(("a", "b")))
OTHER_KINDS = distribution_to_json(CategoricalDistribution(("a", "c")))

INCOMPATIBLE = "parameter 'x': Cannot set different distribution kind to the same parameter name."


def template(*params: Param) -> TrialRecord:
    return TrialRecord(0, 0, TrialState.WAITING, params=params)


def test_an_incompatible_distribution_is_refused_and_nothing_of_its_write_is_kept(url: str) -> None:
    async def main() -> None:
        async with storages(url, 2) as (one, two):
            study_id = await create(one)
            worker = await Worker(one, study_id).start()
            trial = await worker.open()
            await worker.tell(trial.trial_id, None, params=[param("x")])
            for storage in (one, two):
                wrong = worker.telling(
                    trial.trial_id,
                    params=[param("y"), Param("x", 1.0, INT)],
                    user_attrs=[("k", "1")],
                )
                with pytest.raises(InvalidInput) as caught:
                    await storage.apply(wrong)
                assert str(caught.value) == INCOMPATIBLE
                with pytest.raises(InvalidInput, match="parameter 'x': Cannot set"):
                    await storage.apply(CreateTrial(study_id, template(Param("x", 1.0, INT))))
            (found,) = await one.trials([trial.trial_id])
            assert found.state == TrialState.RUNNING
            assert found.params == [param("x")]
            assert found.user_attrs == ()
            # Another range is no other kind, and another study has names of its own.
            await worker.tell(trial.trial_id, None, params=[Param("x", 5.0, WIDE)])
            other = await create(one, "other")
            await two.apply(CreateTrial(other, template(Param("x", 1.0, INT))))

    asyncio.run(main())


def test_categories_may_not_change(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            await storage.apply(CreateTrial(study_id, template(Param("x", 1.0, KINDS))))
            with pytest.raises(InvalidInput, match="does not support dynamic value space"):
                await storage.apply(CreateTrial(study_id, template(Param("x", 1.0, OTHER_KINDS))))

    asyncio.run(main())


def test_two_that_come_first_in_one_batch(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            trials = [await worker.open() for _ in range(3)]
            texts = (FLOAT, INT, WIDE)
            answers = await together(
                url,
                [
                    worker.telling(trial.trial_id, params=[Param("x", 1.0, text)])
                    for trial, text in zip(trials, texts, strict=True)
                ],
            )
            assert [str(answer or "") for answer in answers] == ["", INCOMPATIBLE, ""]

    asyncio.run(main())


def test_two_that_come_first_at_two_proxies(url: str) -> None:
    async def main() -> None:
        async with storages(url, 3) as proxies:
            study_id = await create(proxies[0])
            workers = [await Worker(proxy, study_id).start() for proxy in proxies]
            trials = [await worker.open() for worker in workers]
            async with held(url, "LOCK TABLE trialfleet_params IN SHARE MODE") as lock:
                telling = asyncio.gather(
                    *(
                        worker.tell(trial.trial_id, None, params=[Param("x", 1.0, text)])
                        for worker, trial, text in zip(
                            workers, trials, (FLOAT, INT, KINDS), strict=True
                        )
                    ),
                    return_exceptions=True,
                )
                await lock.waiters(3)
                lock.release()
                answers = await telling
            assert sum(isinstance(answer, InvalidInput) for answer in answers) == 2
            stored = "SELECT DISTINCT distribution_json FROM trial_params"
            assert len(query(url, stored)) == 1

    asyncio.run(main())


def test_what_a_stock_client_wrote_first_counts(url: str) -> None:
    with stock(url) as storage:
        study = optuna.create_study(storage=storage, study_name="s")
        study.ask().suggest_float("x", 0, 1)

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            with pytest.raises(InvalidInput, match="parameter 'x': Cannot set"):
                await storage.apply(CreateTrial(study._study_id, template(Param("x", 1.0, INT))))
            await storage.apply(CreateTrial(study._study_id, template(Param("x", 1.0, WIDE))))

    asyncio.run(main())


def test_a_write_that_comes_too_late_does_not_define_a_parameter(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            trial = await worker.open()
            await storage.apply(GiveUp("Evicted", session=worker.session))
            with pytest.raises(SessionGivenUp):
                await worker.tell(trial.trial_id, None, params=[Param("x", 1.0, INT)])
            assert query(url, "SELECT 1 FROM trialfleet_params") == []

    asyncio.run(main())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "no JSON"),
        (1.0, "null"),
        (1.0, "[]"),
        (1.0, '{"name": "FloatDistribution"}'),
        (1.0, '{"name": "NoDistribution", "attributes": {}}'),
        (2.0, KINDS),
        (float("nan"), KINDS),
        (float("nan"), INT),
        (float("inf"), INT),
    ],
)
def test_what_no_worker_could_read_back_is_refused(
    shared_url: str, value: float, text: str
) -> None:
    async def main() -> None:
        async with storages(shared_url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            trial = await worker.open()
            params = [Param("x", value, text)]
            for command in (
                worker.telling(trial.trial_id, params=params),
                CreateTrial(study_id, template(*params)),
            ):
                with pytest.raises(InvalidInput) as caught:
                    await storage.apply(command)
                expected = f"parameter 'x': found {value} of {text!r}, accepted: a value of a "
                assert str(caught.value).startswith(expected)

    asyncio.run(main())


def test_a_template_for_a_study_that_does_not_exist(shared_url: str) -> None:
    async def main() -> None:
        async with storages(shared_url, 1) as (storage,):
            with pytest.raises(NotFound, match="no study has the id 123456"):
                await storage.apply(CreateTrial(123456, template(param())))

    asyncio.run(main())


def test_many_new_names_take_few_statements(url: str) -> None:
    async def main() -> list[Any]:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            trials = [await worker.open() for _ in range(20)]
            return [
                worker.telling(trial.trial_id, params=[param(f"x{k}") for k in range(20)])
                for trial in trials
            ]

    commands = asyncio.run(main())
    statements: list[str] = []
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    writer = Writer(engine)
    assert writer.apply(commands) == [None] * 20
    writer.close()
    assert len(statements) < 20
    with database(url) as connection:
        found = connection.execute(sa.text("SELECT count(*) FROM trialfleet_params")).scalar()
    assert found == 20

"""Making a database ready: a new one, one of stock Optuna's, one that must be left alone."""

import asyncio
import math

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from tests.storage.fleet import check, counts_of, held, query, recount, stock, write
from trialfleet.model.errors import InvalidInput, SchemaMismatch, StorageUnavailable
from trialfleet.model.study import Counts
from trialfleet.storage import Storage, schema
from trialfleet.storage.schema import _PREPARE_LOCK

HEAD = "v3.2.0.a"


def everything(url: str) -> tuple[dict[str, int], list[object]]:
    """Tables with their rows, and all other objects with the files that they lie in."""
    objects = query(
        url,
        """
        SELECT relname::text, relfilenode::text FROM pg_class
        WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT tgname, oid::text FROM pg_trigger
        UNION ALL SELECT proname, oid::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        ORDER BY 1, 2
        """,
    )
    return counts_of(url), list(objects)


def prepare(url: str) -> None:
    async def main() -> None:
        async with Storage(url) as storage:
            assert await storage.ready()

    asyncio.run(main())


def test_a_new_database(database_url: str) -> None:
    prepare(database_url)
    counts = counts_of(database_url)
    assert {"studies", "trials", "alembic_version", "trialfleet_runs"} <= set(counts)
    assert query(database_url, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    with stock(database_url) as storage:
        assert storage.get_all_studies() == []


def test_preparing_again_changes_nothing(database_url: str) -> None:
    prepare(database_url)
    before = everything(database_url)
    prepare(database_url)
    assert everything(database_url) == before


def test_many_prepare_at_once(database_url: str) -> None:
    async def main() -> None:
        proxies = [Storage(database_url) for _ in range(4)]
        await asyncio.gather(*(proxy.__aenter__() for proxy in proxies))
        assert await asyncio.gather(*(proxy.ready() for proxy in proxies)) == [True] * 4
        for proxy in proxies:
            await proxy.__aexit__()

    asyncio.run(main())
    version = query(database_url, "SELECT version FROM trialfleet_schema")
    assert version == [(schema.SCHEMA_VERSION,)]


def test_who_comes_second_waits_as_long_as_it_takes(database_url: str) -> None:
    impatient = {"options": "-c lock_timeout=1ms"}
    engine = sa.create_engine(database_url, poolclass=sa.NullPool, connect_args=impatient)

    async def main() -> None:
        async with held(database_url, f"SELECT pg_advisory_lock({_PREPARE_LOCK})") as lock:
            preparing = asyncio.create_task(asyncio.to_thread(schema.prepare, engine))
            await lock.waiters(1)
        await preparing

    asyncio.run(main())
    prepare(database_url)


def test_a_table_in_use_is_not_waited_for_for_ever(database_url: str) -> None:
    fill_with_stock_optuna(database_url)
    before = everything(database_url)
    impatient = {"options": "-c lock_timeout=1ms"}
    engine = sa.create_engine(database_url, poolclass=sa.NullPool, connect_args=impatient)

    async def main() -> None:
        async with held(database_url, "LOCK TABLE trials IN ROW EXCLUSIVE MODE"):
            with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
                await asyncio.to_thread(schema.prepare, engine)

    asyncio.run(main())
    assert everything(database_url) == before
    prepare(database_url)
    check(database_url)


def fill_with_stock_optuna(url: str) -> None:
    with stock(url) as storage:
        one = optuna.create_study(storage=storage, study_name="one", direction="maximize")
        distributions: dict[str, BaseDistribution] = {"x": FloatDistribution(0, 1)}
        for value, violation in [(1.0, -1.0), (5.0, 0.0), (7.0, 0.5), (5.0, 0.0), (math.inf, 1.0)]:
            one.add_trial(
                create_trial(
                    params={"x": 0.5},
                    distributions=distributions,
                    value=value,
                    system_attrs={"constraints": [-1.0, violation]},
                )
            )
        one.add_trial(create_trial(state=TrialState.FAIL))
        one.add_trial(create_trial(state=TrialState.PRUNED, value=9.0))
        one.enqueue_trial({"x": 0.25})
        one.ask()
        one.enqueue_trial({"x": 0.75})
        two = optuna.create_study(
            storage=storage, study_name="two", directions=["minimize", "maximize"]
        )
        for values in [(1, 1), (2, 2), (2, 1), (1, 1), (3, math.inf), (-math.inf, 0), (3, 5)]:
            two.add_trial(create_trial(values=values))
        two.add_trial(create_trial(values=(-9, 9), system_attrs={"constraints:c": 1.0}))
        optuna.create_study(storage=storage, study_name="empty")


def test_a_database_of_stock_optuna_is_taken_over_as_it_is(database_url: str) -> None:
    fill_with_stock_optuna(database_url)
    before = counts_of(database_url)

    async def main() -> None:
        async with Storage(database_url) as storage:
            (one,) = await storage.studies(name="one")
            summary = await storage.summary(one.study_id, 9)
            assert summary.counts == Counts(complete=5, failed=1, pruned=1, running=1, waiting=1)
            assert [(trial.number, trial.values) for trial in summary.best] == [(1, [5.0])]
            assert summary.front == 1
            assert (summary.ended, summary.sessions, summary.lost_reasons) == ("", 0, {})
            (two,) = await storage.studies(name="two")
            summary = await storage.summary(two.study_id, 99)
            assert summary.counts == Counts(complete=8)
            assert sorted(trial.number for trial in summary.best) == [0, 1, 3, 4, 5]
            (empty,) = await storage.studies(name="empty")
            assert (await storage.summary(empty.study_id)).counts == Counts()

    asyncio.run(main())
    after = counts_of(database_url)
    assert {table: after[table] for table in before} == before
    check(database_url)
    assert recount(database_url, 1).running == 1
    first = query(database_url, "SELECT study_id, param_name FROM trialfleet_params")
    assert first == [(1, "x")]


def test_stock_optuna_goes_on_in_a_database_that_was_taken_over(database_url: str) -> None:
    fill_with_stock_optuna(database_url)
    prepare(database_url)
    with stock(database_url) as storage:
        one = optuna.load_study(storage=storage, study_name="one")
        one.optimize(lambda trial: trial.suggest_float("x", 0, 1) + 10, n_trials=3)
        one.add_trial(create_trial(value=20.0))
        two = optuna.load_study(storage=storage, study_name="two")
        two.optimize(lambda trial: (trial.suggest_float("x", -9, 9), trial.number), n_trials=9)
        optuna.delete_study(storage=storage, study_name="empty")
    check(database_url)


@pytest.mark.parametrize(
    ("revision", "found", "remedy"),
    [
        ("v9.9.9.z", "v9.9.9.z", "install the Optuna that made it"),
        ("v3.0.0.d", "v3.0.0.d", "upgrade it with `trialfleet storage upgrade --storage URL`"),
        (None, "none", "upgrade it with `trialfleet storage upgrade --storage URL`"),
    ],
)
@pytest.mark.parametrize("ours", [False, True])
def test_another_revision_of_optuna_is_left_alone(
    database_url: str, revision: str | None, found: str, remedy: str, ours: bool
) -> None:
    fill_with_stock_optuna(database_url)
    if ours:
        prepare(database_url)
    write(database_url, "DELETE FROM alembic_version")
    if revision:
        write(database_url, "INSERT INTO alembic_version VALUES (:revision)", revision=revision)
    before = everything(database_url)
    with pytest.raises(SchemaMismatch) as caught:
        prepare(database_url)
    assert str(caught.value) == (
        f"the database has revision {found} of Optuna's schema, the installed Optuna "
        f"{optuna.__version__} works with {HEAD}: {remedy}"
    )
    assert everything(database_url) == before


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (0, "accepted: 6 to {ours}: use the Trialfleet that made them"),
        (5, "accepted: 6 to {ours}: use the Trialfleet that made them"),
        (
            1000,
            "this Trialfleet works with version {ours}: use the Trialfleet that made them, or a "
            "newer one",
        ),
    ],
)
def test_another_version_of_ours_is_left_alone(database_url: str, version: int, said: str) -> None:
    prepare(database_url)
    write(database_url, "UPDATE trialfleet_schema SET version = :v, oldest = :v", v=version)
    before = everything(database_url)
    with pytest.raises(SchemaMismatch) as caught:
        prepare(database_url)
    assert str(caught.value) == (
        f"the database has version {version} of the trialfleet_ tables, "
        + said.format(ours=schema.SCHEMA_VERSION)
    )
    assert everything(database_url) == before


def test_a_newer_version_that_works_with_ours_is_used_as_it_is(database_url: str) -> None:
    prepare(database_url)
    write(database_url, "UPDATE trialfleet_schema SET version = version + 1")
    before = everything(database_url)
    prepare(database_url)
    assert everything(database_url) == before


def test_a_step_of_another_build_is_noticed(database_url: str) -> None:
    prepare(database_url)
    write(database_url, "UPDATE trialfleet_migrations SET checksum = 'x' WHERE version = 7")
    with pytest.raises(SchemaMismatch, match="had another step to version 7 of the trialfleet_"):
        prepare(database_url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("no url", "storage: found a text that is no URL, accepted: a URL like "),
        ("sqlite:///x.db", "storage: found a sqlite database, accepted: a URL like "),
    ],
)
def test_a_url_of_something_else(url: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Storage(url)
    accepted = "postgresql+psycopg2://USER:PASSWORD@HOST:5432/DATABASE"
    assert str(caught.value) == message + accepted


def test_a_plain_url_means_our_driver(database_url: str) -> None:
    prepare(database_url.replace("postgresql+psycopg2:", "postgresql:"))


def test_a_database_that_does_not_exist(database_url: str) -> None:
    with pytest.raises(StorageUnavailable, match=r'database "test_[0-9a-f]*_" does not exist'):
        prepare(database_url.replace("?", "_?"))

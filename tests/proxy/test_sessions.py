"""Sessions that are not kept alive are given up, but not for the storage's own absence."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.study import StudyDirection

from tests.proxy.running import Running, Session, eventually
from trialfleet import names
from trialfleet.model.budget import Budget
from trialfleet.model.session import WriteId
from trialfleet.proxy.health import Health
from trialfleet.proxy.history import Histories
from trialfleet.proxy.monitor import Monitor, SweepTimer
from trialfleet.storage import Storage
from trialfleet.storage.commands import Command, EnsureStudy, KeepAlive, OpenSession, OpenTrial
from trialfleet.wire.v1 import trialfleet_pb2 as pb


def test_the_first_sweep_waits_for_the_grace() -> None:
    timer = SweepTimer(grace_s=60, interval_s=5)
    assert [timer.due(reachable=True, now_s=now) for now in (0, 1, 59.9)] == [False] * 3
    assert timer.due(reachable=True, now_s=60)
    assert not timer.due(reachable=True, now_s=64.9)
    assert timer.due(reachable=True, now_s=65)


def test_the_grace_begins_anew_after_an_outage() -> None:
    timer = SweepTimer(grace_s=60, interval_s=5)
    timer.due(reachable=True, now_s=0)
    assert timer.due(reachable=True, now_s=100)
    assert not timer.due(reachable=False, now_s=101)
    assert not timer.due(reachable=True, now_s=102)
    assert not timer.due(reachable=True, now_s=161.9)
    assert timer.due(reachable=True, now_s=162)


def test_a_sweep_is_about_the_moment_at_which_it_was_decided(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with Storage(database_url) as storage:
            histories = Histories(storage, max_bytes=1, idle_s=1.0)
            timer = SweepTimer(grace_s=0.0, interval_s=0.0)
            monitor = Monitor(storage, Health(), histories, timer, 0.0)
            apply, decided = storage.apply, asyncio.Event()
            study = EnsureStudy("s", [StudyDirection.MINIMIZE], Budget())
            study_id = (await apply(study)).study_id
            await apply(OpenSession(b"s" * 16, "w", "s", 60.0))
            await storage.open_trial(OpenTrial(study_id, WriteId(b"s" * 16, 1)), 0.0)

            async def late(command: Command) -> Any:
                # As if the database had stood still for longer than the session's life.
                engine = sa.create_engine(database_url, poolclass=sa.NullPool)
                with engine.begin() as connection:
                    connection.execute(
                        sa.text("UPDATE trialfleet_sessions SET expires_at = clock_timestamp()")
                    )
                decided.set()
                return await apply(command)

            monkeypatch.setattr(storage, "apply", late)
            await monitor._sweep()
            assert decided.is_set()
            assert await apply(KeepAlive(b"s" * 16))
            assert (await storage.summary(study_id)).counts.lost == 0

    asyncio.run(main())


def ensure(proxy: Running) -> None:
    request = pb.EnsureStudyRequest(name="s", directions=[pb.MINIMIZE], retries=1)
    proxy.stub.EnsureStudy(request)


def test_an_expired_session_is_given_up(
    start_proxy: Callable[..., Running], database_url: str
) -> None:
    proxy = start_proxy(
        database_url, session_grace_s=0.1, sweep_interval_s=0.1, check_interval_s=0.05
    )
    ensure(proxy)
    dead, alive = Session(proxy.stub, "s", ttl_s=0.2), Session(proxy.stub, "s")
    dead.open_trial()
    alive.open_trial()

    def counts() -> pb.Counts:
        return proxy.stub.Summary(pb.SummaryRequest(study_id=dead.study_id)).counts

    eventually(lambda: counts() == pb.Counts(running=1, waiting=1, lost=1))
    assert dead.ask().fenced
    retry = alive.open_trial()
    attributes = {a.key: a.value_json for a in retry.system_attrs}
    assert attributes[names.ATTR_RETRY_HISTORY] == "[0]"
    lost = proxy.stub.GetTrials(pb.GetTrialsRequest(study_id=dead.study_id, numbers=[0]))
    (trial,) = (pb.Trial.FromString(encoded) for encoded in lost.trials.trials)
    reasons = {a.key: a.value_json for a in trial.system_attrs}
    assert reasons[names.ATTR_REASON] == f'"{names.REASON_KEEP_ALIVE}"'


def test_a_session_outlives_a_restart_of_all_proxies(
    start_proxy: Callable[..., Running], database_url: str
) -> None:
    first = start_proxy(database_url)
    ensure(first)
    session = Session(first.stub, "s", ttl_s=0.1)
    session.open_trial()
    first.stop()
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)

    def expired() -> bool:
        query = sa.text("SELECT bool_and(expires_at < clock_timestamp()) FROM trialfleet_sessions")
        with engine.connect() as connection:
            return bool(connection.execute(query).scalar())

    eventually(expired)
    second = start_proxy(database_url, sweep_interval_s=0.05, check_interval_s=0.05)
    assert second.stub.KeepAlive(pb.KeepAliveRequest(session=session.name)).alive


def test_what_ended_long_ago_is_removed(
    start_proxy: Callable[..., Running], database_url: str
) -> None:
    first = start_proxy(database_url)
    ensure(first)
    gone, late = Session(first.stub, "s"), Session(first.stub, "s")
    for session in (gone, late):
        session.open_trial()
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)
    ended = sa.text(
        "UPDATE trialfleet_sessions SET ended_at = clock_timestamp() - make_interval(hours => :h) "
        "WHERE session_id = :session"
    )
    with engine.begin() as connection:
        connection.execute(ended, {"h": 48, "session": gone.name})
        connection.execute(ended, {"h": 1, "session": late.name})
    start_proxy(database_url, check_interval_s=0.05)
    left = sa.text("SELECT session_id FROM trialfleet_sessions")

    def sessions() -> list[bytes]:
        with engine.connect() as connection:
            return [bytes(found) for found in connection.execute(left).scalars()]

    eventually(lambda: sessions() == [late.name])

"""Sessions that are not kept alive are given up, but not for the storage's own absence."""

import datetime
from collections.abc import Callable, Iterable
from time import monotonic

import sqlalchemy as sa

from tests.proxy.running import Running, Session, eventually
from trialfleet import names
from trialfleet.model.session import SilentSession
from trialfleet.proxy.silence import Silence
from trialfleet.wire.v1 import trialfleet_pb2 as pb


def session(name: bytes = b"s", stamp_s: float = 0.0, ttl_s: float = 60.0) -> SilentSession:
    return SilentSession(name, datetime.datetime.fromtimestamp(stamp_s, datetime.UTC), ttl_s)


def watch(silence: Silence, seen: Iterable[tuple[float, list[SilentSession]]]) -> list[int]:
    """Look at times, in seconds; return how many sessions are to be given up at each."""
    found = []
    for now_s, sessions in seen:
        assert silence.due(reachable=True, now_s=now_s)
        found.append(len(silence.look(sessions, now_s)))
    return found


def test_a_session_whose_stamp_stays_is_given_up() -> None:
    silence = Silence(grace_s=0, interval_s=5)
    # A quarter of its life is over when it is seen to be silent.
    times = (100, 110, 120, 130, 139, 145)
    assert watch(silence, [(t, [session()]) for t in times]) == [0, 0, 0, 0, 0, 1]


def test_a_session_that_is_heard_begins_anew_whatever_the_databases_clock_says() -> None:
    silence = Silence(grace_s=0, interval_s=5)
    stamps = (7200.0, 10800.0, 3600.0, 0.0, 9.0)
    looks = [(10.0 * n, [session(stamp_s=stamps[n // 4])]) for n in range(20)]
    assert watch(silence, looks) == [0] * 20
    assert watch(silence, [(200, []), (240, [session(stamp_s=9.0)])]) == [0, 0]


def test_a_proxy_that_stood_still_heard_nobody() -> None:
    silence = Silence(grace_s=0, interval_s=5)
    looks = [(0, [session()]), (3600, [session()]), (3610, [session()]), (3630, [session()])]
    assert watch(silence, looks) == [0, 0, 0, 0]
    assert watch(silence, [(3640, [session()])]) == [1]


def test_looks_have_an_interval_and_the_first_give_up_waits_for_the_grace() -> None:
    silence = Silence(grace_s=60, interval_s=5)
    silent = [session(ttl_s=0.0)]
    due = [now for now in range(62) if silence.due(reachable=True, now_s=now)]
    assert due == list(range(0, 62, 5))
    assert not silence.look(silent, 59.9)
    assert silence.look(silent, 60)


def test_the_grace_begins_anew_after_an_outage() -> None:
    silence = Silence(grace_s=60, interval_s=5)
    silent = [session(ttl_s=0.0)]
    assert watch(silence, [(0, silent), (100, silent)]) == [0, 1]
    assert not silence.due(reachable=False, now_s=101)
    assert watch(silence, [(102, silent), (161.9, silent), (167, silent)]) == [0, 0, 1]


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


def set_clock(url: str, ahead: str) -> None:
    """Set a database's clock; its functions and statements name it without a schema."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    define = "CREATE OR REPLACE FUNCTION public.{0}() RETURNS timestamptz LANGUAGE sql AS $$ {1} $$"
    with engine.begin() as connection:
        for name in ("clock_timestamp", "statement_timestamp", "now"):
            moment = f"SELECT pg_catalog.{name}() + interval '{ahead}'"
            connection.execute(sa.text(define.format(name, moment)))


def test_a_clock_that_jumps_takes_nobodys_session(
    start_proxy: Callable[..., Running], database_url: str
) -> None:
    name = sa.make_url(database_url).database
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text(f"ALTER DATABASE {name} SET search_path = public, pg_catalog"))
    set_clock(database_url, "0")
    proxy = start_proxy(
        database_url, session_grace_s=0.1, sweep_interval_s=0.1, check_interval_s=0.05
    )
    proxy.stub.EnsureStudy(pb.EnsureStudyRequest(name="s", directions=[pb.MINIMIZE]))
    asks, says = Session(proxy.stub, "s", ttl_s=3), Session(proxy.stub, "s", ttl_s=3)
    for number, ahead in enumerate(("1 hour", "-1 hour"), start=1):
        dead = Session(proxy.stub, "s", ttl_s=1)
        dead.open_trial()
        set_clock(database_url, ahead)

        def dead_is_noticed(lost: int = number) -> bool:
            # Alive by their trials alone, and by their word alone.
            asks.tell(asks.open_trial().trial_id, 1.0)
            assert proxy.stub.KeepAlive(pb.KeepAliveRequest(session=says.name)).alive
            summary = proxy.stub.Summary(pb.SummaryRequest(study_id=asks.study_id))
            return summary.counts.lost == lost

        eventually(dead_is_noticed)
    ends_at = monotonic() + 2 * 3
    while monotonic() < ends_at:
        asks.tell(asks.open_trial().trial_id, 1.0)
    summary = proxy.stub.Summary(pb.SummaryRequest(study_id=asks.study_id))
    assert list(summary.silent) == []

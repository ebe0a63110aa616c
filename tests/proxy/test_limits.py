"""What a proxy refuses, so that one caller can't take it from all others."""

import resource
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
import psutil
import pytest
import sqlalchemy as sa

from tests.proxy.running import LOCALHOST, TIMEOUT_S, Process, Running, Session, eventually
from trialfleet import names
from trialfleet.wire.v1 import trialfleet_pb2 as pb

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def figure(proxy: Running, name: str) -> float:
    address = proxy.proxy.metrics_address
    with urllib.request.urlopen(f"http://{address}/metrics") as page:
        for line in page.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    raise AssertionError(name)


def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    code: grpc.StatusCode = caught.value.code()
    return code


def test_a_message_that_is_too_large(proxy: Running, session: Session) -> None:
    trial = session.open_trial()

    def report(size: int) -> None:
        text = f'"{"x" * size}"'
        update = pb.TrialUpdate(
            trial_id=trial.trial_id, user_attrs=[pb.Attribute(key="k", value_json=text)]
        )
        proxy.stub.Report(pb.ReportRequest(write=session.write(), update=update))

    report(1024 * 1024)
    assert code_of(lambda: report(names.MAX_MESSAGE_BYTES)) == EXHAUSTED


def test_too_many_trials_in_one_call(proxy: Running) -> None:
    many = pb.GetTrialsRequest(trial_ids=range(1, 2000))
    assert code_of(lambda: proxy.stub.GetTrials(many)) == grpc.StatusCode.INVALID_ARGUMENT


def test_too_many_calls_at_once(start_proxy: Callable[..., Running], database_url: str) -> None:
    proxy = start_proxy(database_url, max_calls=2, metrics=LOCALHOST)
    ensure = pb.EnsureStudyRequest(name="s", directions=[pb.MINIMIZE], budget=pb.Budget(trials=1))
    proxy.stub.EnsureStudy(ensure)
    session = Session(proxy.stub, "s")
    trial = session.open_trial()
    parked = [
        proxy.stub.Ask.future(
            pb.AskRequest(write=session.write(), study_id=session.study_id, wait_ms=60_000)
        )
        for _ in range(2)
    ]
    eventually(lambda: figure(proxy, "trialfleet_proxy_waiting_calls") == 2)
    assert code_of(lambda: proxy.stub.ListStudies(pb.ListStudiesRequest())) == EXHAUSTED
    parked[0].cancel()
    eventually(lambda: figure(proxy, "trialfleet_proxy_waiting_calls") == 1)
    eventually(lambda: not session.tell(trial.trial_id, 1).fenced)
    assert parked[1].result(TIMEOUT_S).ended.reason == names.ENDED_TRIALS


def test_too_many_writes_that_wait(start_proxy: Callable[..., Running], database_url: str) -> None:
    proxy = start_proxy(database_url, max_waiting=2, metrics=LOCALHOST)
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)

    def ensure(name: str) -> Any:
        request = pb.EnsureStudyRequest(name=name, directions=[pb.MINIMIZE])
        return proxy.stub.EnsureStudy.future(request)

    with engine.connect() as connection:
        connection.execute(sa.text("LOCK TABLE studies IN ACCESS EXCLUSIVE MODE"))
        calls = [ensure("committing")]
        eventually(lambda: figure(proxy, "trialfleet_proxy_waiting_calls") == 1)
        eventually(lambda: figure(proxy, "trialfleet_proxy_waiting_commands") == 0)
        calls += [ensure("waiting"), ensure("waiting too")]
        eventually(lambda: figure(proxy, "trialfleet_proxy_waiting_commands") == 2)
        assert code_of(ensure("too many").result) == EXHAUSTED
        connection.rollback()
        assert all(call.result(TIMEOUT_S).created for call in calls)


def test_a_call_without_a_deadline(start_proxy: Callable[..., Running], database_url: str) -> None:
    proxy = start_proxy(database_url, call_limit_s=0.2)
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)
    request = pb.EnsureStudyRequest(name="s", directions=[pb.MINIMIZE])
    with engine.connect() as connection:
        connection.execute(sa.text("LOCK TABLE studies IN ACCESS EXCLUSIVE MODE"))
        with_deadline = proxy.stub.EnsureStudy.future(request, timeout=TIMEOUT_S)
        with pytest.raises(grpc.RpcError) as caught:
            proxy.stub.EnsureStudy(request)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert (
            caught.value.details() == "trialfleet.v1.TrialFleet.EnsureStudy: not done within 0.2 s"
        )
        connection.rollback()
        with_deadline.result(TIMEOUT_S)


def test_an_ask_is_not_held_for_ever(
    start_proxy: Callable[..., Running], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialfleet.proxy.service.MAX_WAIT_S", 0.1)
    proxy = start_proxy(database_url)
    ensure = pb.EnsureStudyRequest(name="s", directions=[pb.MINIMIZE], budget=pb.Budget(trials=1))
    proxy.stub.EnsureStudy(ensure)
    session = Session(proxy.stub, "s")
    session.open_trial()
    assert session.ask(wait_ms=4_000_000_000).WhichOneof("outcome") == "wait"


def test_as_many_connections_as_the_system_grants(
    start_process: Callable[..., Process], database_url: str
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))  # as a shell may have it
    try:
        process = start_process("--storage", database_url, "--listen", "127.0.0.1:0")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    process.listening()
    granted = psutil.Process(process.popen.pid).rlimit(psutil.RLIMIT_NOFILE)
    assert granted == (hard, hard)

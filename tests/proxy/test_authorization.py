"""Who may call what, for every call of the service."""

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa

from tests.proxy.mixed import MIXED
from tests.proxy.running import TIMEOUT_S, Running, Session, eventually, trials_of
from tests.proxy.world import CALLS, KEY, REQUESTS, WORK, Caller, Side
from trialfleet.model import errors
from trialfleet.proxy import authorization
from trialfleet.wire import tokens
from trialfleet.wire.v1 import trialfleet_pb2 as pb

OPERATORS = {"EnsureStudy", "CreateStudy", "DeleteStudy", "GiveUp"}
"""Calls that a study's token does not make, not even about its own study."""


@pytest.fixture(scope="module")
def guarded(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A proxy that asks for tokens, for all tests of this module."""
    name = f"test_{uuid.uuid4().hex}"
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_text(KEY)
    url = sa.make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    running = Running(url, token_key=key)
    try:
        assert running.connected.wait(TIMEOUT_S)
        yield running
    finally:
        running.stop()
        with engine.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def mine(guarded: Running) -> Side:
    return Side(guarded.stub)


@pytest.fixture
def other(guarded: Running) -> Side:
    return Side(guarded.stub)


def refusal(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code(), error.details()


def test_every_call_has_a_request() -> None:
    assert sorted(REQUESTS) == CALLS


def test_every_call_has_a_rule() -> None:
    # Of a call over the stream of a worker the rule is that of its own method.
    assert sorted({*authorization._RULES, *WORK}) == CALLS


@pytest.mark.parametrize("name", CALLS)
def test_a_caller_without_a_token(guarded: Running, mine: Side, name: str) -> None:
    stranger = Caller(guarded.stub, None)
    code, details = refusal(lambda: getattr(stranger, name)(REQUESTS[name](mine)))
    assert code == grpc.StatusCode.UNAUTHENTICATED
    assert details == "found no token, accepted: metadata 'authorization: Bearer TOKEN'"


@pytest.mark.parametrize("name", CALLS)
def test_a_token_that_is_unknown(guarded: Running, mine: Side, name: str) -> None:
    stranger = Caller(guarded.stub, tokens.for_study("x" * 32, mine.study))
    code, details = refusal(lambda: getattr(stranger, name)(REQUESTS[name](mine)))
    assert code == grpc.StatusCode.UNAUTHENTICATED
    assert details == "found a token that is unknown here, accepted: a study's own"


@pytest.mark.parametrize("name", CALLS)
def test_a_token_of_another_study(mine: Side, other: Side, name: str) -> None:
    before = mine.trial()
    code, details = refusal(lambda: getattr(other.caller, name)(REQUESTS[name](mine)))
    assert code == grpc.StatusCode.PERMISSION_DENIED
    assert details.startswith(f"the token opens the study '{other.study}'")
    assert mine.study not in details
    assert mine.trial() == before
    (study,) = mine.admin.ListStudies(pb.ListStudiesRequest(study_id=mine.study_id)).studies
    assert not study.user_attrs
    # The worker of the study has noticed nothing.
    assert mine.caller.KeepAlive(pb.KeepAliveRequest(session=mine.session.name)).alive


@pytest.mark.parametrize("name", CALLS)
def test_a_studys_own_token(mine: Side, name: str) -> None:
    def call() -> Any:
        return getattr(mine.caller, name)(REQUESTS[name](mine))

    if name in OPERATORS:
        code, details = refusal(call)
        assert code == grpc.StatusCode.PERMISSION_DENIED
        assert (
            details == f"the token opens the study '{mine.study}'; this call takes the operator's"
        )
    else:
        assert call() is not None


@pytest.mark.parametrize("name", CALLS)
def test_the_operators_token(mine: Side, name: str) -> None:
    assert getattr(mine.admin, name)(REQUESTS[name](mine)) is not None


@pytest.mark.parametrize("what", MIXED)
def test_what_is_only_half_ones_own(mine: Side, other: Side, what: str) -> None:
    name, request = MIXED[what](mine, other)
    code, _ = refusal(lambda: getattr(mine.caller, name)(request))
    assert code == grpc.StatusCode.PERMISSION_DENIED
    assert other.trial().state == pb.RUNNING
    counts = other.admin.Summary(pb.SummaryRequest(study_id=other.study_id)).counts
    assert counts == pb.Counts(running=1)


def test_a_session_does_not_write_to_a_trial_that_another_runs(mine: Side, other: Side) -> None:
    before = other.trial()
    update = pb.TrialUpdate(
        trial_id=other.trial_id, user_attrs=[pb.Attribute(key="by", value_json="1")]
    )
    assert mine.caller.Report(pb.ReportRequest(write=mine.write(), update=update)).fenced
    told = pb.TellRequest(write=mine.write(), update=update, state=pb.COMPLETE, values=[1.0])
    assert mine.caller.Tell(told).fenced
    assert other.trial() == before


def test_a_study_is_all_that_its_token_lists(mine: Side, other: Side) -> None:
    listed = mine.caller.ListStudies(pb.ListStudiesRequest()).studies
    assert [study.name for study in listed] == [mine.study]
    everything = mine.admin.ListStudies(pb.ListStudiesRequest()).studies
    assert {mine.study, other.study} <= {study.name for study in everything}


def test_a_session_without_a_study_is_of_the_tokens(mine: Side) -> None:
    assert Session(mine.caller).study_id == mine.study_id


def test_a_session_of_the_operator_is_nobody_elses(mine: Side) -> None:
    unbound = Session(mine.admin)
    request = pb.KeepAliveRequest(session=unbound.name)
    assert refusal(lambda: mine.caller.KeepAlive(request))[0] == grpc.StatusCode.PERMISSION_DENIED
    assert mine.admin.KeepAlive(request).alive


def test_what_does_not_exist(mine: Side) -> None:
    nobody = pb.KeepAliveRequest(session=os.urandom(16))
    assert not mine.caller.KeepAlive(nobody).alive
    ask = pb.AskRequest(write=pb.WriteId(session=os.urandom(16), sequence=1))
    ask.study_id = mine.study_id
    assert mine.caller.Ask(ask).fenced
    missing = 2**31 - 1
    for name, request in (
        ("Summary", pb.SummaryRequest(study_id=missing)),
        ("Summary", pb.SummaryRequest(study_id=-1)),
        ("GetTrials", pb.GetTrialsRequest(trial_ids=[missing])),
        ("GetTrials", pb.GetTrialsRequest(trial_ids=[2**40])),
        (
            "WriteTrial",
            pb.WriteTrialRequest(write=mine.write(), update=pb.TrialUpdate(trial_id=missing)),
        ),
    ):
        code, _ = refusal(lambda: getattr(mine.caller, name)(request))  # noqa: B023
        assert code == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "metadata",
    [
        (("authorization", "Basic dTpw"),),
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", tokens.for_admin(KEY)),),
        (("authorization-bin", b"Bearer"),),
        (("authorization", "Basic dTpw"), tokens.metadata(tokens.for_admin(KEY))),
    ],
)
def test_authorization_of_another_kind(
    guarded: Running, metadata: Sequence[tuple[str, str | bytes]]
) -> None:
    request = pb.ListStudiesRequest()
    code, _ = refusal(lambda: guarded.stub.ListStudies(request, metadata=tuple(metadata)))
    assert code == grpc.StatusCode.UNAUTHENTICATED


def test_the_kind_of_authorization_has_no_case(guarded: Running) -> None:
    metadata = (("authorization", f"bearer {tokens.for_admin(KEY)}"),)
    guarded.stub.ListStudies(pb.ListStudiesRequest(), metadata=metadata)


def test_too_many_trials_are_refused_before_they_are_looked_up(mine: Side) -> None:
    request = pb.GetTrialsRequest(trial_ids=[mine.trial_id] * 1001)
    code, details = refusal(lambda: mine.caller.GetTrials(request))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details == "trial_ids, numbers: found 1001, accepted: 1000 at most"


def _statements(guarded: Running, call: Callable[[], object]) -> int:
    engine = guarded.proxy._storage._reading_engine
    found = []

    def note(*arguments: Any) -> None:
        # The monitor looks whether it is there; whose a study is, is asked every two seconds.
        if not any(text in arguments[2] for text in ("trialfleet_schema", "bare_tokens_owner")):
            found.append(arguments[2])

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        call()
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
    return len(found)


def test_a_workers_loop_costs_no_query_more(guarded: Running, mine: Side) -> None:
    def loop() -> None:
        trial = mine.session.open_trial()
        report = pb.ReportRequest(
            write=mine.write(),
            update=pb.TrialUpdate(trial_id=trial.trial_id),
            history=pb.Cursor(epoch=1),
            study_id=mine.study_id,
        )
        mine.session.stub.Report(report)
        mine.session.tell(trial.trial_id, 1.0)

    loop()
    with_study = _statements(guarded, loop)
    mine.session.stub = mine.admin
    assert _statements(guarded, loop) == with_study > 0


def test_what_was_forgotten_is_looked_up_again(
    guarded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered = guarded.proxy._authorization
    assert remembered is not None
    for side in [Side(guarded.stub) for _ in range(2)]:
        side.caller.Ask(REQUESTS["Ask"](side))
    before = len(remembered._studies), len(remembered._sessions)
    monkeypatch.setattr(authorization, "_REMEMBERED", 2)
    sides = [Side(guarded.stub) for _ in range(4)]
    for _ in range(2):
        for side in sides:
            assert side.caller.Ask(REQUESTS["Ask"](side)).WhichOneof("outcome") == "trial"
            assert trials_of(side.caller.GetTrials(REQUESTS["GetTrials"](side)).trials)
    # What there was before stays; nothing more is added without a loss.
    assert (len(remembered._studies), len(remembered._sessions)) == before


def test_the_optuna_service_is_not_there(guarded: Running, mine: Side) -> None:
    from optuna.storages._grpc.auto_generated import api_pb2

    metadata = (tokens.metadata(tokens.for_admin(KEY)),)
    request = api_pb2.GetAllStudiesRequest()
    code, _ = refusal(lambda: guarded.optuna.GetAllStudies(request, metadata=metadata))
    assert code == grpc.StatusCode.UNIMPLEMENTED


def _accepts(running: Running, key: str) -> bool:
    try:
        Caller(running.stub, tokens.for_admin(key)).ListStudies(pb.ListStudiesRequest())
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        assert code == grpc.StatusCode.UNAUTHENTICATED
        return False
    return True


def test_keys_are_changed_while_it_runs(
    start_proxy: Callable[..., Running],
    database_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def told() -> bool:
        assert _accepts(running, KEY)
        return "files unusable" in caplog.text

    key, new = tmp_path / "key", "n" * 32
    key.write_text(KEY)
    running = start_proxy(database_url, token_key=key)
    assert _accepts(running, KEY) and not _accepts(running, new)
    key.write_text(f"{new}\n{KEY}\n")
    eventually(lambda: _accepts(running, new))
    assert _accepts(running, KEY)
    for unusable in ("", "short", "\n"):
        key.write_text(unusable)
        eventually(told)
        caplog.clear()
        assert _accepts(running, new) and _accepts(running, KEY)
    key.unlink()
    eventually(told)
    key.write_text(new)
    eventually(lambda: not _accepts(running, KEY))
    assert _accepts(running, new)


def test_a_key_file_that_can_not_be_used(database_url: str, tmp_path: Path) -> None:
    missing = tmp_path / "none"
    with pytest.raises(errors.InvalidInput, match=f"^token-key: {missing}: No such file"):
        Running(database_url, token_key=missing)
    missing.write_bytes(b"\xff" * 40)
    with pytest.raises(errors.InvalidInput, match="token-key: found bytes that are no text"):
        Running(database_url, token_key=missing)


def _owned(guarded: Running, study: str, uid: str, **more: Any) -> Any:
    """Make a study one of a Study object, or the next one's; return who has its token."""
    admin: Any = Caller(guarded.stub, tokens.for_admin(KEY))
    owner = f"uid-of-storage/{uid}"
    admin.EnsureStudy(
        pb.EnsureStudyRequest(name=study, directions=[pb.MINIMIZE], owner=owner, **more)
    )
    return Caller(guarded.stub, tokens.for_study(KEY, study, uid))


def _opens(caller: Any) -> bool:
    try:
        caller.ListStudies(pb.ListStudiesRequest())
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.PERMISSION_DENIED
        return False
    return True


def test_a_study_made_anew_is_not_opened_by_the_token_of_the_one_before(
    guarded: Running, mine: Side
) -> None:
    old = _owned(guarded, mine.study, "first")
    assert _opens(old)
    before = mine.trial()
    new = _owned(guarded, mine.study, "second")
    # What was found out of a token is believed for two seconds.
    eventually(lambda: not _opens(old))
    status = grpc.StatusCode
    allowed = [name for name in CALLS if name not in OPERATORS]
    for name in allowed:
        code, details = refusal(lambda: getattr(old, name)(REQUESTS[name](mine)))  # noqa: B023
        opening = name in ("OpenSession", "Work.open_session")
        assert code == (status.NOT_FOUND if opening else status.PERMISSION_DENIED)
        assert details == (
            f"the token is not of the Study {mine.study!r} that the storage has, but of one that "
            "was deleted or that it is not told of yet; accepted: the token in that Study's Secret"
        )
    assert mine.trial() == before
    assert _opens(new)
    assert new.KeepAlive(REQUESTS["KeepAlive"](mine)).alive


def test_a_token_works_at_once_when_the_storage_is_told_of_its_study(
    guarded: Running, mine: Side
) -> None:
    early = Caller(guarded.stub, tokens.for_study(KEY, mine.study, "second"))
    _owned(guarded, mine.study, "first")
    assert not _opens(early)
    _owned(guarded, mine.study, "second")
    assert _opens(early)


def test_a_token_without_a_uid_opens_the_study_that_it_was_given_to(
    guarded: Running, mine: Side
) -> None:
    # Nobody's, as those of a proxy that is run by hand.
    assert _opens(mine.caller)
    _owned(guarded, mine.study, "first", bare_tokens=True)
    # It stays so for this owner, whatever its next token is.
    new = _owned(guarded, mine.study, "first")
    assert _opens(mine.caller) and _opens(new)
    _owned(guarded, mine.study, "second")
    eventually(lambda: not _opens(mine.caller))

"""A study's history as the calls of the service carry it."""

from collections.abc import Callable

import grpc
import pytest

from tests.proxy.running import Running, Session, trials_of
from trialfleet.proxy.history import Bound
from trialfleet.wire.v1 import trialfleet_pb2 as pb
from trialfleet.wire.v1.trialfleet_pb2_grpc import TrialFleetStub


def history(stub: TrialFleetStub, study_id: int, cursor: pb.Cursor) -> list[pb.News]:
    request = pb.HistoryRequest(study_id=study_id, cursor=cursor)
    return [part.news for part in stub.History(request)]


def test_history_comes_with_ask_and_report(stub: TrialFleetStub, session: Session) -> None:
    assert not session.ask().HasField("news")
    reply = session.ask(history=pb.Cursor())
    assert reply.news.restarted and not reply.news.more
    assert len(reply.news.unfinished.trials) == 2
    (opened_trial,) = trials_of(reply.trial)
    session.tell(opened_trial.trial_id, 1)
    other = session.open_trial()
    report = stub.Report(
        pb.ReportRequest(
            write=session.write(),
            update=pb.TrialUpdate(trial_id=other.trial_id, steps=[1], intermediate_values=[2]),
            history=reply.news.cursor,
            study_id=session.study_id,
        )
    )
    assert not report.news.restarted
    assert [trial.trial_id for trial in trials_of(report.news.finished)] == [opened_trial.trial_id]
    mine = {t.trial_id: list(t.intermediate_values) for t in trials_of(report.news.unfinished)}
    assert mine[other.trial_id] == [2]
    (news,) = history(stub, session.study_id, report.news.cursor)
    assert not news.finished.trials and news.cursor == report.news.cursor


def test_a_large_history_is_a_stream_of_parts(
    start_proxy: Callable[..., Running], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialfleet.proxy.service._PART", Bound(10, 1 << 20))
    monkeypatch.setattr("trialfleet.proxy.service._BESIDE", Bound(15, 1 << 20))
    stub = start_proxy(database_url).stub
    stub.EnsureStudy(pb.EnsureStudyRequest(name="s", directions=[pb.MINIMIZE]))
    session = Session(stub, "s")
    for value in range(25):
        session.tell(session.open_trial().trial_id, value)
    parts = history(stub, session.study_id, pb.Cursor())
    assert [len(news.finished.trials) for news in parts] == [10, 10, 5]
    assert [news.restarted for news in parts] == [True, False, False]
    assert [news.more for news in parts] == [True, True, False]
    numbers = [t.number for news in parts for t in trials_of(news.finished)]
    assert numbers == list(range(25))
    # An Ask carries the first part only, and where to go on.
    beside = session.ask(history=pb.Cursor()).news
    assert len(beside.finished.trials) == 15 and beside.more
    (rest,) = history(stub, session.study_id, beside.cursor)
    assert len(rest.finished.trials) == 10 and not rest.restarted


def test_history_of_a_study_that_is_not_there(stub: TrialFleetStub, session: Session) -> None:
    history(stub, session.study_id, pb.Cursor())
    delete = pb.DeleteStudyRequest(write=Session(stub).write(), study_id=session.study_id)
    stub.DeleteStudy(delete)
    with pytest.raises(grpc.RpcError) as caught:
        history(stub, session.study_id, pb.Cursor())
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND

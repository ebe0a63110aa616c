"""``trialfleet.v1`` call by call, through a real proxy on a real database."""

import datetime
import json
import math

import grpc
import pytest
from optuna.distributions import FloatDistribution, IntDistribution, distribution_to_json

from tests.proxy.running import Session, trials_of
from trialfleet import names
from trialfleet.wire.v1 import trialfleet_pb2 as pb
from trialfleet.wire.v1.trialfleet_pb2_grpc import TrialFleetStub

FLOAT = distribution_to_json(FloatDistribution(0, 1))
INT = distribution_to_json(IntDistribution(1, 9))


def only(batch: pb.TrialBatch) -> pb.Trial:
    (trial,) = trials_of(batch)
    return trial


def test_a_trial_from_ask_to_summary(stub: TrialFleetStub, session: Session) -> None:
    assert session.opened.ordinal == 0
    assert session.opened.max_message_bytes == names.MAX_MESSAGE_BYTES
    before = datetime.datetime.now(datetime.UTC).timestamp() * 1e6
    trial = session.open_trial()
    assert (trial.number, trial.state) == (0, pb.RUNNING)
    assert before - 1e6 < trial.started_us < before + 30e6
    assert not trial.HasField("completed_us")
    report = stub.Report(
        pb.ReportRequest(
            write=session.write(),
            update=pb.TrialUpdate(
                trial_id=trial.trial_id,
                params=[pb.Param(name="x", value=0.25, distribution_json=FLOAT)],
                steps=[0, 7],
                intermediate_values=[math.nan, -math.inf],
            ),
        )
    )
    assert not report.fenced and not report.HasField("news")
    told = session.tell(
        trial.trial_id, 1.5, user_attrs=[pb.Attribute(key="ключ", value_json='{"a": [1]}')]
    )
    assert not told.fenced

    stored = stub.GetTrials(pb.GetTrialsRequest(trial_ids=[trial.trial_id])).trials
    assert list(stored.definitions) == [pb.Definition(name="x", distribution_json=FLOAT)]
    found = only(stored)
    assert (found.state, list(found.values)) == (pb.COMPLETE, [1.5])
    assert (list(found.definitions), list(found.params)) == ([0], [0.25])
    assert list(found.steps) == [0, 7]
    assert math.isnan(found.intermediate_values[0]) and found.intermediate_values[1] == -math.inf
    assert list(found.user_attrs) == [pb.Attribute(key="ключ", value_json='{"a": [1]}')]
    assert found.completed_us >= found.started_us

    summary = stub.Summary(pb.SummaryRequest(study_id=session.study_id, best=1))
    assert summary.counts == pb.Counts(complete=1)
    assert only(summary.best).trial_id == trial.trial_id
    assert (summary.front, summary.sessions, summary.ended) == (1, 1, "")


def test_the_budget_ends_a_study(stub: TrialFleetStub) -> None:
    stub.EnsureStudy(
        pb.EnsureStudyRequest(name="s", directions=[pb.MAXIMIZE], budget=pb.Budget(trials=1))
    )
    session = Session(stub, "s")
    trial = session.open_trial()
    assert session.ask().WhichOneof("outcome") == "wait"
    session.tell(trial.trial_id, 1)
    reply = session.ask()
    assert (reply.WhichOneof("outcome"), reply.ended.reason) == ("ended", names.ENDED_TRIALS)
    with pytest.raises(grpc.RpcError) as caught:
        stub.CreateTrial(pb.CreateTrialRequest(write=session.write(), study_id=session.study_id))
    assert caught.value.code() == grpc.StatusCode.OUT_OF_RANGE


def test_a_tell_brings_the_next_trial_once(stub: TrialFleetStub) -> None:
    stub.EnsureStudy(
        pb.EnsureStudyRequest(name="s", directions=[pb.MINIMIZE], budget=pb.Budget(trials=3))
    )
    session = Session(stub, "s")

    def telling(trial_id: int) -> pb.TellRequest:
        return pb.TellRequest(
            write=session.write(),
            update=pb.TrialUpdate(trial_id=trial_id),
            state=pb.COMPLETE,
            values=[1.0],
            next=pb.AskRequest(
                write=session.write(), study_id=session.study_id, history=pb.Cursor()
            ),
        )

    request = telling(session.open_trial().trial_id)
    first = stub.Tell(request)
    again = stub.Tell(request)
    second = only(first.next.trial)
    assert (second.number, only(again.next.trial)) == (1, second)
    (finished,) = first.next.news.finished.trials
    assert pb.Trial.FromString(finished).number == 0
    third = session.open_trial()
    reply = stub.Tell(telling(second.trial_id))
    assert reply.next.WhichOneof("outcome") == "wait"
    last = telling(third.trial_id)
    assert stub.Tell(last).next.ended.reason == names.ENDED_TRIALS
    stub.GiveUp(pb.GiveUpRequest(session=session.name, reason="Evicted"))
    reply = stub.Tell(last)
    assert (reply.fenced, reply.next.fenced) == (False, True)
    counts = stub.Summary(pb.SummaryRequest(study_id=session.study_id)).counts
    assert counts == pb.Counts(complete=3)


def test_an_ask_waits_for_a_trial_that_comes_back(stub: TrialFleetStub) -> None:
    stub.EnsureStudy(
        pb.EnsureStudyRequest(name="s", directions=[pb.MINIMIZE], budget=pb.Budget(trials=1))
    )
    first, second = Session(stub, "s"), Session(stub, "s")
    trial = first.open_trial()
    request = pb.AskRequest(write=second.write(), study_id=second.study_id, wait_ms=60_000)
    waiting = stub.Ask.future(request)
    stub.Tell(
        pb.TellRequest(
            write=first.write(),
            update=pb.TrialUpdate(trial_id=trial.trial_id),
            state=pb.WAITING,
        )
    )
    assert only(waiting.result(30).trial).trial_id == trial.trial_id


def test_a_session_that_is_given_up_is_fenced(stub: TrialFleetStub, session: Session) -> None:
    trial = session.open_trial()
    request = pb.GiveUpRequest(worker="worker", reason="Evicted", message="node drained")
    given_up = stub.GiveUp(request)
    assert (given_up.sessions, list(given_up.lost), list(given_up.requeued)) == (1, [0], [])
    assert not stub.KeepAlive(pb.KeepAliveRequest(session=session.name)).alive
    assert session.ask().fenced
    assert session.tell(trial.trial_id, 1).fenced
    report = pb.ReportRequest(
        write=session.write(), update=pb.TrialUpdate(trial_id=trial.trial_id), history=pb.Cursor()
    )
    assert stub.Report(report).fenced
    with pytest.raises(grpc.RpcError) as caught:
        stub.CreateTrial(pb.CreateTrialRequest(write=session.write(), study_id=session.study_id))
    assert caught.value.code() == grpc.StatusCode.ABORTED
    summary = stub.Summary(pb.SummaryRequest(study_id=session.study_id))
    assert summary.counts == pb.Counts(lost=1)
    assert dict(summary.lost_reasons) == {"Evicted": 1}


def test_a_session_is_kept_alive_and_closed(stub: TrialFleetStub, session: Session) -> None:
    assert stub.KeepAlive(pb.KeepAliveRequest(session=session.name)).alive
    trial = session.open_trial()
    stub.CloseSession(pb.CloseSessionRequest(session=session.name))
    assert not stub.KeepAlive(pb.KeepAliveRequest(session=session.name)).alive
    another = Session(stub, "study")
    assert another.opened.ordinal == 1
    assert another.open_trial().trial_id == trial.trial_id


def test_a_trial_of_a_template_is_read_back(stub: TrialFleetStub, session: Session) -> None:
    template = pb.Trial(
        state=pb.PRUNED,
        values=[3.5],
        started_us=1_700_000_000_000_001,
        completed_us=1_700_000_001_000_002,
        definitions=[1, 0],
        params=[0.5, 3],
        user_attrs=[pb.Attribute(key="u", value_json="1")],
        system_attrs=[pb.Attribute(key="s", value_json="null")],
        steps=[-1],
        intermediate_values=[2.5],
    )
    definitions = [
        pb.Definition(name="n", distribution_json=INT),
        pb.Definition(name="x", distribution_json=FLOAT),
    ]
    created = stub.CreateTrial(
        pb.CreateTrialRequest(
            write=session.write(),
            study_id=session.study_id,
            template=pb.TrialBatch(definitions=definitions, trials=[template.SerializeToString()]),
        )
    )
    reply = stub.GetTrials(
        pb.GetTrialsRequest(study_id=session.study_id, numbers=[created.number])
    ).trials
    found = only(reply)
    params = {
        reply.definitions[index].name: value
        for index, value in zip(found.definitions, found.params, strict=True)
    }
    assert params == {"n": 3, "x": 0.5}
    for field in (
        *("state", "values", "started_us", "completed_us", "user_attrs", "system_attrs"),
        *("steps", "intermediate_values"),
    ):
        assert getattr(found, field) == getattr(template, field)


def test_a_write_by_somebody_else(stub: TrialFleetStub, session: Session) -> None:
    trial = session.open_trial()
    tool = Session(stub)
    update = pb.TrialUpdate(
        trial_id=trial.trial_id, user_attrs=[pb.Attribute(key="k", value_json='"v"')]
    )
    assert stub.WriteTrial(pb.WriteTrialRequest(write=tool.write(), update=update)).updated
    running = pb.WriteTrialRequest(write=tool.write(), update=update, state=pb.RUNNING)
    assert not stub.WriteTrial(running).updated
    session.tell(trial.trial_id, 1)
    with pytest.raises(grpc.RpcError) as caught:
        stub.WriteTrial(pb.WriteTrialRequest(write=tool.write(), update=update))
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_studies_are_listed_with_their_attributes(stub: TrialFleetStub) -> None:
    session = Session(stub)
    created = stub.CreateStudy(
        pb.CreateStudyRequest(
            write=session.write(), name="a", directions=[pb.MINIMIZE, pb.MAXIMIZE]
        )
    )
    other = stub.EnsureStudy(
        pb.EnsureStudyRequest(
            name="b", directions=[pb.MAXIMIZE], metric_names=["m"], enqueue_json=['{"x": 0.5}']
        )
    )
    assert other.created
    for system in (False, True):
        stub.SetStudyAttribute(
            pb.SetStudyAttributeRequest(
                write=session.write(),
                study_id=created.study_id,
                system=system,
                attribute=pb.Attribute(key="k", value_json=json.dumps(system)),
            )
        )
    study = pb.Study(
        study_id=created.study_id,
        name="a",
        directions=[pb.MINIMIZE, pb.MAXIMIZE],
        user_attrs=[pb.Attribute(key="k", value_json="false")],
        system_attrs=[pb.Attribute(key="k", value_json="true")],
    )
    assert list(stub.ListStudies(pb.ListStudiesRequest(name="a")).studies) == [study]
    by_id = pb.ListStudiesRequest(study_id=created.study_id)
    assert list(stub.ListStudies(by_id).studies) == [study]
    assert [s.name for s in stub.ListStudies(pb.ListStudiesRequest()).studies] == ["a", "b"]
    assert not stub.ListStudies(pb.ListStudiesRequest(name="c")).studies
    stub.DeleteStudy(pb.DeleteStudyRequest(write=session.write(), study_id=created.study_id))
    assert not stub.ListStudies(by_id).studies
    waiting = Session(stub, "b").open_trial()
    assert dict((a.key, a.value_json) for a in waiting.system_attrs) == {
        names.ATTR_FIXED_PARAMS: '{"x": 0.5}'
    }

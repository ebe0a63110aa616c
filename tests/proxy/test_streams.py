"""A worker's calls over one stream: each answered as alone, until one fails or it is to end."""

import itertools
import signal
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from optuna.distributions import FloatDistribution, distribution_to_json

from tests.proxy.running import TIMEOUT_S, Process, Running, Session, eventually
from trialfleet.client import calls
from trialfleet.client.credentials import Credentials
from trialfleet.client.stream import Stream
from trialfleet.wire.v1 import trialfleet_pb2 as pb
from trialfleet.wire.v1.trialfleet_pb2_grpc import TrialFleetStub


class Conversation:
    """One stream, from the caller's side."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._sent = itertools.count(1)
        self._answered = itertools.count(1)
        self.call = call(iter(self._requests.get, None), timeout=TIMEOUT_S)

    def ask(self, **request: Any) -> Any:
        """Make the call that a field of the request names."""
        ((field, _),) = request.items()
        self.send(**request)
        return self.answer(field)

    def send(self, **request: Any) -> None:
        """Make a call and wait for nothing."""
        self._requests.put(pb.WorkRequest(**request, number=next(self._sent)))

    def answer(self, field: str) -> Any:
        """Return the next answer, which is one to the call that a field names."""
        reply = next(self.call)
        assert reply.WhichOneof("answer") == field
        assert reply.number == next(self._answered)
        return getattr(reply, field)

    def end(self) -> None:
        self._requests.put(None)


@pytest.fixture
def working(proxy: Running) -> Iterator[Conversation]:
    conversation = Conversation(proxy.stub.Work)
    yield conversation
    conversation.end()


def _tell(session: Session, trial_id: int, *, more: bool = False) -> pb.TellRequest:
    asking = pb.AskRequest(write=session.write(), study_id=session.study_id) if more else None
    return pb.TellRequest(
        write=session.write(),
        update=pb.TrialUpdate(trial_id=trial_id),
        state=pb.COMPLETE,
        values=[1.0],
        next=asking,
    )


def _trial_id(reply: pb.TellReply) -> int:
    return pb.Trial.FromString(reply.next.trial.trials[0]).trial_id


def test_one_tell_after_the_other(session: Session, working: Conversation) -> None:
    trial_id = session.open_trial().trial_id
    for _ in range(5):
        trial_id = _trial_id(working.ask(tell=_tell(session, trial_id, more=True)))
    working.ask(tell=_tell(session, trial_id))
    working.end()
    assert list(working.call) == []
    assert working.call.code() == grpc.StatusCode.OK
    counts = session.stub.Summary(pb.SummaryRequest(study_id=session.study_id)).counts
    assert counts == pb.Counts(complete=6)


def test_a_repeated_write_is_answered_as_the_first(session: Session, working: Conversation) -> None:
    told = _tell(session, session.open_trial().trial_id, more=True)
    assert _trial_id(working.ask(tell=told)) == _trial_id(working.ask(tell=told))


def test_reports(session: Session, working: Conversation) -> None:
    trial_id = session.open_trial().trial_id
    for step in range(3):
        update = pb.TrialUpdate(trial_id=trial_id, steps=[step], intermediate_values=[step / 2])
        reply = working.ask(
            report=pb.ReportRequest(
                write=session.write(),
                update=update,
                history=pb.Cursor(),
                study_id=session.study_id,
            )
        )
        (batch,) = reply.news.unfinished.trials
        assert list(pb.Trial.FromString(batch).steps) == list(range(step + 1))


def test_a_request_that_fails_ends_the_stream(session: Session, working: Conversation) -> None:
    trial_id = session.open_trial().trial_id
    refused = _tell(session, trial_id)
    refused.state = pb.RUNNING
    with pytest.raises(grpc.RpcError) as caught:
        working.ask(tell=refused)
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("state: found RUNNING, accepted: ")


def test_what_is_sent_ahead_is_answered_in_its_order(
    session: Session, working: Conversation
) -> None:
    trials = [session.open_trial().trial_id for _ in range(50)]
    # A parameter that is new takes longer than what comes behind it.
    param = pb.Param(
        name="x", value=0.5, distribution_json=distribution_to_json(FloatDistribution(0, 1))
    )
    slow = _tell(session, session.open_trial().trial_id, more=True)
    slow.update.params.append(param)
    working.send(tell=slow)
    for trial_id in trials:
        working.send(tell=_tell(session, trial_id, more=True))
    working.send(keep_alive=pb.KeepAliveRequest(session=session.name))
    opened = [_trial_id(working.answer("tell")) for _ in (slow, *trials)]
    assert working.answer("keep_alive").alive
    assert len({*trials, *opened}) == 101
    assert _trial_id(session.stub.Tell(slow)) == opened[0]
    counts = session.stub.Summary(pb.SummaryRequest(study_id=session.study_id)).counts
    assert counts == pb.Counts(complete=51, running=51)


def test_every_answer_is_that_to_its_own_request(session: Session, working: Conversation) -> None:
    asks = [pb.AskRequest(write=session.write(), study_id=session.study_id) for _ in range(40)]
    for ask in asks:
        working.send(ask=ask)
    opened = [working.answer("ask") for _ in asks]
    assert opened == [session.stub.Ask(ask) for ask in asks]


def test_the_first_that_fails_ends_the_stream_after_those_before_it(
    session: Session, working: Conversation
) -> None:
    trials = [session.open_trial().trial_id for _ in range(3)]
    tells = [_tell(session, trial_id) for trial_id in trials]
    tells[1].state = pb.RUNNING
    for tell in tells:
        working.send(tell=tell)
    working.answer("tell")
    with pytest.raises(grpc.RpcError) as caught:
        working.answer("tell")
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    # What was behind it may have been applied, and can be sent again.
    assert session.stub.Tell(tells[2]) == pb.TellReply()
    counts = session.stub.Summary(pb.SummaryRequest(study_id=session.study_id)).counts
    assert counts == pb.Counts(complete=2, running=1)


def test_what_a_worker_sent_before_it_died_is_applied(proxy: Running, session: Session) -> None:
    trials = [session.open_trial().trial_id for _ in range(8)]
    credentials = Credentials("", "", "")
    stream = Stream(credentials.target(proxy.target), None)
    for trial_id in trials:
        stream.begin(calls.TELL, _tell(session, trial_id).SerializeToString(), TIMEOUT_S)
    stream.close()

    def complete() -> int:
        request = pb.SummaryRequest(study_id=session.study_id)
        return int(session.stub.Summary(request).counts.complete)

    eventually(lambda: complete() == len(trials))


def test_it_is_counted_by_its_calls(
    proxy: Running, session: Session, working: Conversation
) -> None:

    def counted() -> float:
        labels = {"method": "trialfleet.v1.TrialFleet.Tell", "code": "OK"}
        registry = proxy.proxy._metrics.registry
        return registry.get_sample_value("trialfleet_proxy_requests_total", labels) or 0.0

    before = counted()
    trial_id = session.open_trial().trial_id
    trial_id = _trial_id(working.ask(tell=_tell(session, trial_id, more=True)))
    working.ask(tell=_tell(session, trial_id))
    assert counted() == before + 2


def test_a_proxy_that_stops_ends_idle_streams(
    start_process: Callable[..., Process], database_url: str
) -> None:
    process = start_process(
        *("--storage", database_url, "--listen", "127.0.0.1:0", "--grace", str(10 * TIMEOUT_S))
    )
    with grpc.insecure_channel(process.listening()) as channel:
        stub = TrialFleetStub(channel)
        stub.EnsureStudy(pb.EnsureStudyRequest(name="s", directions=[pb.MINIMIZE]))
        session = Session(stub, "s")
        working = Conversation(stub.Work)
        working.ask(tell=_tell(session, session.open_trial().trial_id))
        process.popen.send_signal(signal.SIGTERM)
        eventually(working.call.done)
        assert working.call.code() == grpc.StatusCode.UNAVAILABLE
        assert working.call.details() == "the proxy is stopping"
        working.end()
        code, _, _ = process.result()
    assert code == 0


def test_a_worker_lives_over_one_stream(session: Session, working: Conversation) -> None:
    name = bytes(range(16))
    opening = pb.OpenSessionRequest(session=name, worker="w", study="study", time_to_live_s=60)
    opened = working.ask(open_session=opening)
    assert opened == working.ask(open_session=opening)
    assert opened.study_id == session.study_id
    assert list(opened.directions) == [pb.MINIMIZE]
    write = pb.WriteId(session=name, sequence=1)
    asked = working.ask(ask=pb.AskRequest(write=write, study_id=opened.study_id))
    trial = pb.Trial.FromString(asked.trial.trials[0])
    assert working.ask(keep_alive=pb.KeepAliveRequest(session=name)).alive
    assert working.ask(close_session=pb.CloseSessionRequest(session=name)) == pb.Applied()
    assert not working.ask(keep_alive=pb.KeepAliveRequest(session=name)).alive
    # Its trial went back to waiting: the other session gets it.
    assert session.open_trial().trial_id == trial.trial_id


def test_a_request_that_holds_none(proxy: Running) -> None:
    call = proxy.stub.Work(iter([pb.WorkRequest()]), timeout=TIMEOUT_S)
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "call: found none"


def test_an_opening_brings_the_parameters_that_the_study_has(session: Session) -> None:
    def definitions() -> list[pb.Definition]:
        request = pb.AskRequest(write=session.write(), study_id=session.study_id, definitions=True)
        return list(session.stub.Ask(request).definitions)

    assert definitions() == []
    text = distribution_to_json(FloatDistribution(0, 1))
    param = pb.Param(name="x", value=0.5, distribution_json=text)
    for _ in range(2):  # the first is new, the second is read back
        session.tell(session.open_trial().trial_id, 1.0, params=[param])
    assert definitions() == [pb.Definition(name="x", distribution_json=text)]
    assert not session.ask().definitions

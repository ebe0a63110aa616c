"""A worker's calls over one stream: each is answered as alone."""

import itertools
import signal
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from optuna.distributions import FloatDistribution, distribution_to_json

from tests.proxy.running import TIMEOUT_S, Process, Running, Session, eventually
from trialfleet import names
from trialfleet.wire.v1 import trialfleet_pb2 as pb
from trialfleet.wire.v1.trialfleet_pb2_grpc import TrialFleetStub


class Conversation:
    """One stream, from the caller's side."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._sent = itertools.count(1)
        self.call = call(iter(self._requests.get, None), timeout=TIMEOUT_S)

    def ask(self, **request: Any) -> Any:
        """Make the call that a field of the request names."""
        number = self.send(**request)
        return self.answers(1)[number]

    def send(self, **request: Any) -> int:
        """Make a call, wait for nothing, and return its number."""
        number = next(self._sent)
        self._requests.put(pb.WorkRequest(**request, number=number))
        return number

    def answers(self, number: int) -> dict[int, Any]:
        """Return the next answers by their numbers."""
        replies = [next(self.call) for _ in range(number)]
        return {r.number: getattr(r, r.WhichOneof("answer") or "") for r in replies}

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


def test_a_request_that_fails_is_refused_and_the_stream_goes_on(
    session: Session, working: Conversation
) -> None:
    trial_id = session.open_trial().trial_id
    refused = _tell(session, trial_id)
    refused.state = pb.RUNNING
    refusal = working.ask(tell=refused)
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert refusal.details.startswith("state: found RUNNING, accepted: ")
    assert working.ask(tell=_tell(session, trial_id)) == pb.TellReply()


def test_a_request_that_waits_holds_no_other_up(stub: TrialFleetStub) -> None:
    budget = pb.Budget(trials=1)
    stub.EnsureStudy(pb.EnsureStudyRequest(name="s", directions=[pb.MINIMIZE], budget=budget))
    session = Session(stub, "s")
    trial_id = session.open_trial().trial_id
    working = Conversation(stub.Work)
    asking = pb.AskRequest(write=session.write(), study_id=session.study_id, wait_ms=9000)
    asked = working.send(ask=asking)
    assert working.ask(keep_alive=pb.KeepAliveRequest(session=session.name)).alive
    told = working.send(tell=_tell(session, trial_id))
    answers = working.answers(2)
    assert list(answers) == [told, asked]
    assert answers[asked].ended.reason == names.ENDED_TRIALS
    working.end()


def test_every_answer_is_that_to_its_own_request(session: Session, working: Conversation) -> None:
    asks = [pb.AskRequest(write=session.write(), study_id=session.study_id) for _ in range(100)]
    numbers = [working.send(ask=ask) for ask in asks]
    answers = working.answers(len(asks))
    assert [answers[number] for number in numbers] == [session.stub.Ask(ask) for ask in asks]


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


def test_a_request_that_holds_none(working: Conversation) -> None:
    refusal = working.ask()
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert refusal.details == "call: found none"


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

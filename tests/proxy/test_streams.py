"""Reports and tells over a stream: each answered as alone, until one fails or the proxy stops."""

import signal
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from tests.proxy.running import TIMEOUT_S, Process, Running, Session, eventually
from trialfleet import names
from trialfleet.v1 import trialfleet_pb2 as pb
from trialfleet.v1.trialfleet_pb2_grpc import TrialFleetStub


class Conversation:
    """One stream, from the caller's side."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self.call = call(iter(self._requests.get, None), timeout=TIMEOUT_S)

    def ask(self, request: Any) -> Any:
        self._requests.put(request)
        return next(self.call)

    def end(self) -> None:
        self._requests.put(None)


@pytest.fixture
def telling(proxy: Running) -> Iterator[Conversation]:
    conversation = Conversation(proxy.stub.TellStream)
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


def test_one_tell_after_the_other(session: Session, telling: Conversation) -> None:
    trial_id = session.open_trial().trial_id
    for _ in range(5):
        trial_id = _trial_id(telling.ask(_tell(session, trial_id, more=True)))
    telling.ask(_tell(session, trial_id))
    telling.end()
    assert list(telling.call) == []
    assert telling.call.code() == grpc.StatusCode.OK
    counts = session.stub.Summary(pb.SummaryRequest(study_id=session.study_id)).counts
    assert counts == pb.Counts(complete=6)


def test_a_repeated_write_is_answered_as_the_first(session: Session, telling: Conversation) -> None:
    told = _tell(session, session.open_trial().trial_id, more=True)
    assert _trial_id(telling.ask(told)) == _trial_id(telling.ask(told))


def test_reports(proxy: Running, session: Session) -> None:
    reporting = Conversation(proxy.stub.ReportStream)
    trial_id = session.open_trial().trial_id
    for step in range(3):
        update = pb.TrialUpdate(trial_id=trial_id, steps=[step], intermediate_values=[step / 2])
        reply = reporting.ask(
            pb.ReportRequest(
                write=session.write(),
                update=update,
                history=pb.Cursor(),
                study_id=session.study_id,
            )
        )
        (batch,) = reply.news.unfinished.trials
        assert list(pb.Trial.FromString(batch).steps) == list(range(step + 1))
    reporting.end()


def test_a_request_that_fails_ends_the_stream(session: Session, telling: Conversation) -> None:
    trial_id = session.open_trial().trial_id
    refused = _tell(session, trial_id)
    refused.state = pb.RUNNING
    with pytest.raises(grpc.RpcError) as caught:
        telling.ask(refused)
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("state: found RUNNING, accepted: ")


def test_it_is_counted_by_its_calls(
    proxy: Running, session: Session, telling: Conversation
) -> None:

    def counted() -> float:
        labels = {"method": "trialfleet.v1.TrialFleet.Tell", "code": "OK"}
        registry = proxy.proxy._metrics.registry
        return registry.get_sample_value("trialfleet_proxy_requests_total", labels) or 0.0

    before = counted()
    trial_id = session.open_trial().trial_id
    trial_id = _trial_id(telling.ask(_tell(session, trial_id, more=True)))
    telling.ask(_tell(session, trial_id))
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
        telling = Conversation(stub.TellStream)
        telling.ask(_tell(session, session.open_trial().trial_id))
        process.popen.send_signal(signal.SIGTERM)
        eventually(telling.call.done)
        assert telling.call.code() == grpc.StatusCode.UNAVAILABLE
        assert telling.call.details() == "the proxy is stopping"
        telling.end()
        code, _, _ = process.result()
    assert code == 0


def test_the_environment_of_a_proxy_is_known_to_its_grpc(
    start_process: Callable[..., Process], database_url: str
) -> None:
    process = start_process(
        *("--storage", database_url, "--listen", "127.0.0.1:0"), **names.PROXY_ENVIRONMENT
    )
    with grpc.insecure_channel(process.listening()) as channel:
        TrialFleetStub(channel).ListStudies(pb.ListStudiesRequest(), timeout=TIMEOUT_S)
    process.popen.send_signal(signal.SIGTERM)
    code, _, log = process.result()
    assert code == 0
    assert "experiment" not in log

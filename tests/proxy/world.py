"""Two studies with a worker each, and for every call a request that is about one of them."""

import functools
import os
import uuid
from collections.abc import Callable
from typing import Any, cast

import grpc

from tests.proxy.running import Session
from trialfleet.wire import tokens
from trialfleet.wire.v1 import trialfleet_pb2 as pb
from trialfleet.wire.v1.trialfleet_pb2_grpc import TrialFleetStub

KEY = "k" * 32
SERVICE = pb.DESCRIPTOR.services_by_name["TrialFleet"]
WORK = {
    f"Work.{field.name}": next(
        method.name for method in SERVICE.methods if method.input_type == field.message_type
    )
    for field in pb.WorkRequest.DESCRIPTOR.oneofs_by_name["call"].fields
}
"""The calls that are made over the stream of a worker, and each one's own method."""
CALLS = sorted({*SERVICE.methods_by_name, *WORK} - {"Work"})


class Refusal(grpc.RpcError):
    """A refusal over a stream, as gRPC's own errors look."""

    def __init__(self, refusal: pb.Refusal) -> None:
        super().__init__(refusal)
        self._refusal = refusal

    def code(self) -> grpc.StatusCode:
        return next(c for c in grpc.StatusCode if c.value[0] == self._refusal.code)

    def details(self) -> str:
        return self._refusal.details


class Caller:
    """A stub that shows a token with every call, or none; a stream of answers is read to its end.

    A call that is made over a stream is the only one on it.
    """

    def __init__(self, stub: Any, token: str | None) -> None:
        self._stub = stub
        self._metadata = None if token is None else (tokens.metadata(token),)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        name, _, field = name.partition(".")
        call = functools.partial(getattr(self._stub, name), metadata=self._metadata, timeout=20)
        if field:

            def work(request: Any) -> Any:
                reply = next(call(iter((pb.WorkRequest(**{field: request}),))))
                if reply.HasField("refusal"):
                    raise Refusal(reply.refusal)
                return getattr(reply, field)

            return work
        if SERVICE.methods_by_name[name].server_streaming:
            return lambda request: list(call(request))
        return call


class Side:
    """A study, its token, and a worker that runs a trial of it."""

    def __init__(self, stub: Any, key: str = KEY) -> None:
        self.study = f"study-{uuid.uuid4().hex}"
        self.admin: Any = Caller(stub, tokens.for_admin(key))
        self.caller: Any = Caller(stub, tokens.for_study(key, self.study))
        self.admin.EnsureStudy(pb.EnsureStudyRequest(name=self.study, directions=[pb.MINIMIZE]))
        self.session = Session(cast(TrialFleetStub, self.caller), self.study)
        self.study_id = self.session.study_id
        self.trial_id = self.session.open_trial().trial_id

    def write(self) -> pb.WriteId:
        return self.session.write()

    def trial(self) -> pb.Trial:
        reply = self.admin.GetTrials(pb.GetTrialsRequest(trial_ids=[self.trial_id]))
        return pb.Trial.FromString(reply.trials.trials[0])


def _update(side: Side) -> pb.TrialUpdate:
    return pb.TrialUpdate(
        trial_id=side.trial_id, user_attrs=[pb.Attribute(key="by", value_json='"stranger"')]
    )


REQUESTS: dict[str, Callable[[Side], Any]] = {
    "EnsureStudy": lambda of: pb.EnsureStudyRequest(name=of.study, directions=[pb.MINIMIZE]),
    "CreateStudy": lambda of: pb.CreateStudyRequest(
        write=of.write(), name=f"{of.study}-2", directions=[pb.MINIMIZE]
    ),
    "StopStudy": lambda of: pb.StopStudyRequest(study_id=of.study_id),
    "DeleteStudy": lambda of: pb.DeleteStudyRequest(write=of.write(), study_id=of.study_id),
    "SetStudyAttribute": lambda of: pb.SetStudyAttributeRequest(
        write=of.write(),
        study_id=of.study_id,
        attribute=pb.Attribute(key="by", value_json='"stranger"'),
    ),
    "ListStudies": lambda of: pb.ListStudiesRequest(study_id=of.study_id),
    "OpenSession": lambda of: pb.OpenSessionRequest(
        session=os.urandom(16), worker="w", study=of.study, time_to_live_s=60
    ),
    "KeepAlive": lambda of: pb.KeepAliveRequest(session=of.session.name),
    "CloseSession": lambda of: pb.CloseSessionRequest(session=of.session.name),
    "GiveUp": lambda of: pb.GiveUpRequest(session=of.session.name, reason="Evicted"),
    "Ask": lambda of: pb.AskRequest(write=of.write(), study_id=of.study_id),
    "Report": lambda of: pb.ReportRequest(write=of.write(), update=_update(of)),
    "Tell": lambda of: pb.TellRequest(
        write=of.write(), update=_update(of), state=pb.COMPLETE, values=[1.0]
    ),
    "CreateTrial": lambda of: pb.CreateTrialRequest(write=of.write(), study_id=of.study_id),
    "WriteTrial": lambda of: pb.WriteTrialRequest(write=of.write(), update=_update(of)),
    "GetTrials": lambda of: pb.GetTrialsRequest(trial_ids=[of.trial_id]),
    "History": lambda of: pb.HistoryRequest(study_id=of.study_id),
    "Summary": lambda of: pb.SummaryRequest(study_id=of.study_id),
}
REQUESTS |= {call: REQUESTS[name] for call, name in WORK.items()}
"""For each call a request about a study: a new call needs one here, and a rule."""

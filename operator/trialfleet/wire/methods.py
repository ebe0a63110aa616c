"""The methods of ``trialfleet.v1``: the path of each, and how its reply is read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

from trialfleet.wire.fields import encode_field, tag
from trialfleet.wire.v1 import trialfleet_pb2 as pb

Reply = TypeVar("Reply")
_M = TypeVar("_M", bound=Message)

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["TrialFleet"]
_WORK_TAGS: Final = {
    field.name: tag(pb.WorkRequest, field.name)
    for field in pb.WorkRequest.DESCRIPTOR.oneofs_by_name["call"].fields
}


@dataclass(frozen=True, eq=False, slots=True)
class Method(Generic[Reply]):
    """One method: requests are bytes, so that what is sent again is the same to the last bit."""

    path: str
    decode: Callable[[bytes], Reply]
    work: str = ""
    """The field that holds it in messages of ``Work``; empty: it does not go over that stream."""

    def wrap(self, request: bytes, number: int) -> bytes:
        """Return the message of ``Work`` that holds a request and its number."""
        numbered = pb.WorkRequest(number=number).SerializeToString()
        return encode_field(_WORK_TAGS[self.work], request) + numbered


def _path(name: str) -> str:
    return f"/{_SERVICE.full_name}/{_SERVICE.methods_by_name[name].name}"


def _method(name: str, reply: type[_M], work: str = "") -> Method[_M]:
    return Method(_path(name), reply.FromString, work)


WORK: Final = _path("Work")
"""Path of the stream over which the calls of a worker's life go."""

ENSURE_STUDY: Final = _method("EnsureStudy", pb.EnsureStudyReply)
CREATE_STUDY: Final = _method("CreateStudy", pb.CreateStudyReply)
STOP_STUDY: Final = _method("StopStudy", pb.Applied)
DELETE_STUDY: Final = _method("DeleteStudy", pb.Applied)
SET_STUDY_ATTRIBUTE: Final = _method("SetStudyAttribute", pb.Applied)
LIST_STUDIES: Final = _method("ListStudies", pb.ListStudiesReply)
OPEN_SESSION: Final = _method("OpenSession", pb.OpenSessionReply, "open_session")
KEEP_ALIVE: Final = _method("KeepAlive", pb.KeepAliveReply, "keep_alive")
CLOSE_SESSION: Final = _method("CloseSession", pb.Applied, "close_session")
GIVE_UP: Final = _method("GiveUp", pb.GiveUpReply)
ASK: Final = _method("Ask", pb.AskReply, "ask")
REPORT: Final = _method("Report", pb.ReportReply, "report")
TELL: Final = _method("Tell", pb.TellReply, "tell")
CREATE_TRIAL: Final = _method("CreateTrial", pb.CreateTrialReply)
WRITE_TRIAL: Final = _method("WriteTrial", pb.WriteTrialReply)
GET_TRIALS: Final = _method("GetTrials", pb.GetTrialsReply)
HISTORY: Final = _method("History", pb.HistoryPart)
SUMMARY: Final = _method("Summary", pb.SummaryReply)

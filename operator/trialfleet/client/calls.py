"""The calls of ``trialfleet.v1``: the path of each, and how its answer is read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

from trialfleet.wire.fields import encode_field, tag
from trialfleet.wire.v1 import trialfleet_pb2 as pb

Reply = TypeVar("Reply")
_M = TypeVar("_M", bound=Message)

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["TrialFleet"]


WORK: Final = f"/{_SERVICE.full_name}/{_SERVICE.methods_by_name['Work'].name}"
"""Path of the stream over which the calls of a worker's life go."""


@dataclass(frozen=True, eq=False, slots=True)
class Call(Generic[Reply]):
    """One call: requests are bytes, so that what is sent again is the same to the last bit."""

    path: str
    decode: Callable[[bytes], Reply]
    work: str = ""
    """The field that holds it in messages of ``Work``; empty: it does not go over that stream."""

    def wrap(self, request: bytes, number: int) -> bytes:
        """Return the message of ``Work`` that holds a request and its number."""
        numbered = pb.WorkRequest(number=number).SerializeToString()
        return encode_field(_TAGS[self.work], request) + numbered

    def unwrap(self, message: bytes, number: int) -> Reply:
        """Return the reply to the request with a number, which a message of ``Work`` holds.

        Raises ``ValueError``.
        """
        reply = pb.WorkReply.FromString(message)
        if reply.number != number:
            raise ValueError(f"found the answer to request {reply.number}, expected {number}")
        found = reply.WhichOneof("answer")
        if found != self.work:
            raise ValueError(f"found an answer to {found}, expected one to {self.work}")
        answer: Reply = getattr(reply, found)
        return answer


_TAGS: Final = {
    field.name: tag(pb.WorkRequest, field.name)
    for field in pb.WorkRequest.DESCRIPTOR.oneofs_by_name["call"].fields
}


def _call(name: str, reply: type[_M], work: str = "") -> Call[_M]:
    return Call(_path(name), reply.FromString, work)


def _path(name: str) -> str:
    return f"/{_SERVICE.full_name}/{_SERVICE.methods_by_name[name].name}"


ENSURE_STUDY: Final = _call("EnsureStudy", pb.EnsureStudyReply)
CREATE_STUDY: Final = _call("CreateStudy", pb.CreateStudyReply)
STOP_STUDY: Final = _call("StopStudy", pb.Applied)
DELETE_STUDY: Final = _call("DeleteStudy", pb.Applied)
SET_STUDY_ATTRIBUTE: Final = _call("SetStudyAttribute", pb.Applied)
LIST_STUDIES: Final = _call("ListStudies", pb.ListStudiesReply)
OPEN_SESSION: Final = _call("OpenSession", pb.OpenSessionReply, "open_session")
KEEP_ALIVE: Final = _call("KeepAlive", pb.KeepAliveReply, "keep_alive")
CLOSE_SESSION: Final = _call("CloseSession", pb.Applied, "close_session")
GIVE_UP: Final = _call("GiveUp", pb.GiveUpReply)
ASK: Final = _call("Ask", pb.AskReply, "ask")
REPORT: Final = _call("Report", pb.ReportReply, "report")
TELL: Final = _call("Tell", pb.TellReply, "tell")
CREATE_TRIAL: Final = _call("CreateTrial", pb.CreateTrialReply)
WRITE_TRIAL: Final = _call("WriteTrial", pb.WriteTrialReply)
GET_TRIALS: Final = _call("GetTrials", pb.GetTrialsReply)
HISTORY: Final = _call("History", pb.HistoryPart)
SUMMARY: Final = _call("Summary", pb.SummaryReply)

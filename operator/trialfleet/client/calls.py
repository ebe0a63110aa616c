"""The calls of ``trialfleet.v1``: the path of each, and how its answer is read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

from trialfleet.v1 import trialfleet_pb2 as pb

Reply = TypeVar("Reply")
_M = TypeVar("_M", bound=Message)

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["TrialFleet"]


@dataclass(frozen=True, eq=False, slots=True)
class Call(Generic[Reply]):
    """One call: requests are bytes, so that what is sent again is the same to the last bit."""

    path: str
    decode: Callable[[bytes], Reply]
    stream: str = ""
    """Path of the method that makes such calls over a stream; empty if there is none."""


def _call(name: str, reply: type[_M], stream: str = "") -> Call[_M]:
    return Call(_path(name), reply.FromString, _path(stream) if stream else "")


def _path(name: str) -> str:
    return f"/{_SERVICE.full_name}/{_SERVICE.methods_by_name[name].name}"


ENSURE_STUDY: Final = _call("EnsureStudy", pb.EnsureStudyReply)
CREATE_STUDY: Final = _call("CreateStudy", pb.CreateStudyReply)
STOP_STUDY: Final = _call("StopStudy", pb.Applied)
DELETE_STUDY: Final = _call("DeleteStudy", pb.Applied)
SET_STUDY_ATTRIBUTE: Final = _call("SetStudyAttribute", pb.Applied)
LIST_STUDIES: Final = _call("ListStudies", pb.ListStudiesReply)
OPEN_SESSION: Final = _call("OpenSession", pb.OpenSessionReply)
KEEP_ALIVE: Final = _call("KeepAlive", pb.KeepAliveReply)
CLOSE_SESSION: Final = _call("CloseSession", pb.Applied)
GIVE_UP: Final = _call("GiveUp", pb.GiveUpReply)
ASK: Final = _call("Ask", pb.AskReply)
REPORT: Final = _call("Report", pb.ReportReply, "ReportStream")
TELL: Final = _call("Tell", pb.TellReply, "TellStream")
CREATE_TRIAL: Final = _call("CreateTrial", pb.CreateTrialReply)
WRITE_TRIAL: Final = _call("WriteTrial", pb.WriteTrialReply)
GET_TRIALS: Final = _call("GetTrials", pb.GetTrialsReply)
HISTORY: Final = _call("History", pb.HistoryPart)
SUMMARY: Final = _call("Summary", pb.SummaryReply)

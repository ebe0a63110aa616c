"""Requests that name what is one's own and what is another's: each has to be refused."""

from collections.abc import Callable
from typing import Any

from tests.proxy.world import Side
from trialfleet.wire.v1 import trialfleet_pb2 as pb

MIXED: dict[str, Callable[[Side, Side], tuple[str, Any]]] = {
    "ask with a session of another": lambda mine, other: (
        "Ask",
        pb.AskRequest(write=other.write(), study_id=mine.study_id),
    ),
    "create a trial with a session of another": lambda mine, other: (
        "CreateTrial",
        pb.CreateTrialRequest(write=other.write(), study_id=mine.study_id),
    ),
    "ask in the study of another": lambda mine, other: (
        "Ask",
        pb.AskRequest(write=mine.write(), study_id=other.study_id),
    ),
    "create a trial in the study of another": lambda mine, other: (
        "CreateTrial",
        pb.CreateTrialRequest(write=mine.write(), study_id=other.study_id),
    ),
    "set an attribute of another": lambda mine, other: (
        "SetStudyAttribute",
        pb.SetStudyAttributeRequest(
            write=mine.write(),
            study_id=other.study_id,
            attribute=pb.Attribute(key="by", value_json='"stranger"'),
        ),
    ),
    "set an attribute with a session of another": lambda mine, other: (
        "SetStudyAttribute",
        pb.SetStudyAttributeRequest(
            write=other.write(),
            study_id=mine.study_id,
            attribute=pb.Attribute(key="by", value_json='"me"'),
        ),
    ),
    "report, and read the history of another": lambda mine, other: (
        "Report",
        pb.ReportRequest(
            write=mine.write(),
            update=pb.TrialUpdate(trial_id=mine.trial_id),
            history=pb.Cursor(),
            study_id=other.study_id,
        ),
    ),
    "tell, and ask for a trial of another": lambda mine, other: (
        "Tell",
        pb.TellRequest(
            write=mine.write(),
            update=pb.TrialUpdate(trial_id=mine.trial_id),
            state=pb.FAIL,
            next=pb.AskRequest(write=mine.write(), study_id=other.study_id),
        ),
    ),
    "tell, and ask with a session of another": lambda mine, other: (
        "Tell",
        pb.TellRequest(
            write=mine.write(),
            update=pb.TrialUpdate(trial_id=mine.trial_id),
            state=pb.FAIL,
            next=pb.AskRequest(write=other.write(), study_id=mine.study_id),
        ),
    ),
    "write to a trial of another": lambda mine, other: (
        "WriteTrial",
        pb.WriteTrialRequest(write=mine.write(), update=pb.TrialUpdate(trial_id=other.trial_id)),
    ),
    "write with a session of another": lambda mine, other: (
        "WriteTrial",
        pb.WriteTrialRequest(write=other.write(), update=pb.TrialUpdate(trial_id=mine.trial_id)),
    ),
    "read a trial of another among others": lambda mine, other: (
        "GetTrials",
        pb.GetTrialsRequest(trial_ids=[mine.trial_id, other.trial_id]),
    ),
    "read a trial of another by its number": lambda mine, other: (
        "GetTrials",
        pb.GetTrialsRequest(trial_ids=[mine.trial_id], study_id=other.study_id, numbers=[0]),
    ),
    "find another by its name": lambda mine, other: (
        "ListStudies",
        pb.ListStudiesRequest(name=other.study),
    ),
    "open a session again that is another's": lambda mine, other: (
        "OpenSession",
        pb.OpenSessionRequest(
            session=other.session.name, worker="w", study=mine.study, time_to_live_s=60
        ),
    ),
}

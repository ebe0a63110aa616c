"""Every error reaches the caller with its code and one line."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from optuna.storages._grpc.auto_generated import api_pb2

from tests.proxy.running import Running, Session
from trialfleet.model import errors
from trialfleet.proxy.calls import status
from trialfleet.wire.v1 import trialfleet_pb2 as pb
from trialfleet.wire.v1.trialfleet_pb2_grpc import TrialFleetStub

NOT_FOUND = grpc.StatusCode.NOT_FOUND
INVALID = grpc.StatusCode.INVALID_ARGUMENT
MISSING = 2_000_000_000


def error(call: Callable[..., Any], request: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    details = caught.value.details()
    assert details and "\n" not in details
    return caught.value.code(), details


@pytest.mark.parametrize(("kind", "code"), errors.GRPC_CODES)
def test_the_table_of_errors(kind: type[errors.TrialfleetError], code: grpc.StatusCode) -> None:
    raised = kind("a\nmessage ") if kind is not errors.StudyEnded else errors.StudyEnded("Timeout")
    line = "the study has ended: Timeout" if kind is errors.StudyEnded else "a message"
    assert status(raised, "Method") == (code, line)


def test_a_message_is_cut_to_what_a_header_holds() -> None:
    _, line = status(errors.InvalidInput("x" * 100_000), "Method")
    assert len(line) == 1000


def test_a_defect_is_logged_and_told_in_short(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise RuntimeError("the secret details")
    except RuntimeError as raised:
        code, line = status(raised, "trialfleet.v1.TrialFleet.Ask")
    assert code == grpc.StatusCode.INTERNAL
    assert line == "trialfleet.v1.TrialFleet.Ask: RuntimeError; the proxy's log has more"
    (record,) = caplog.records
    assert record.exc_info is not None and record.exc_info[0] is RuntimeError


def test_our_service(stub: TrialFleetStub, session: Session) -> None:
    trial = session.open_trial()
    update = pb.TrialUpdate(trial_id=trial.trial_id)
    study_id = session.study_id
    taken = pb.CreateStudyRequest(write=session.write(), name="study", directions=[pb.MINIMIZE])
    assert error(stub.CreateStudy, taken)[0] == grpc.StatusCode.ALREADY_EXISTS
    other = pb.EnsureStudyRequest(name="study", directions=[pb.MAXIMIZE])
    assert error(stub.EnsureStudy, other)[0] == INVALID
    for call, request in (
        (stub.Ask, pb.AskRequest(write=session.write(), study_id=MISSING)),
        (stub.Summary, pb.SummaryRequest(study_id=MISSING)),
        (stub.GetTrials, pb.GetTrialsRequest(trial_ids=[trial.trial_id, MISSING])),
        (stub.GetTrials, pb.GetTrialsRequest(study_id=study_id, numbers=[1])),
        (stub.DeleteStudy, pb.DeleteStudyRequest(write=session.write(), study_id=MISSING)),
        (
            stub.OpenSession,
            pb.OpenSessionRequest(session=bytes(16), worker="w", study="no such", time_to_live_s=1),
        ),
        (
            stub.WriteTrial,
            pb.WriteTrialRequest(write=session.write(), update=pb.TrialUpdate(trial_id=MISSING)),
        ),
        (
            stub.SetStudyAttribute,
            pb.SetStudyAttributeRequest(
                write=session.write(),
                study_id=MISSING,
                attribute=pb.Attribute(key="k", value_json="1"),
            ),
        ),
    ):
        assert error(call, request)[0] == NOT_FOUND
    session.tell(trial.trial_id, 1)
    late = pb.WriteTrialRequest(write=session.write(), update=update)
    assert error(stub.WriteTrial, late)[0] == grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("huge", [2**31, 2**40, 2**63 - 1, -1, 0])
def test_an_id_that_no_database_can_have(stub: TrialFleetStub, proxy: Running, huge: int) -> None:
    session = Session(stub)
    optuna = proxy.optuna
    for call, request in (
        (stub.Summary, pb.SummaryRequest(study_id=huge)),
        (stub.Ask, pb.AskRequest(write=session.write(), study_id=huge)),
        (stub.GetTrials, pb.GetTrialsRequest(trial_ids=[huge])),
        (stub.DeleteStudy, pb.DeleteStudyRequest(write=session.write(), study_id=huge)),
        (optuna.GetTrials, api_pb2.GetTrialsRequest(study_id=huge, trial_id_greater_than=-1)),
        (optuna.GetStudyNameFromId, api_pb2.GetStudyNameFromIdRequest(study_id=huge)),
        (
            optuna.SetTrialUserAttribute,
            api_pb2.SetTrialUserAttributeRequest(trial_id=huge, value="1"),
        ),
    ):
        assert error(call, request)[0] == NOT_FOUND
    history = pb.HistoryRequest(study_id=huge)
    assert error(lambda request: list(stub.History(request)), history)[0] == NOT_FOUND


def test_a_text_that_postgresql_can_not_hold(stub: TrialFleetStub, session: Session) -> None:
    trial = session.open_trial()
    for key, value in (("a\0b", "1"), ("k" * 600, "1")):
        update = pb.TrialUpdate(
            trial_id=trial.trial_id, user_attrs=[pb.Attribute(key=key, value_json=value)]
        )
        report = pb.ReportRequest(write=session.write(), update=update)
        assert error(stub.Report, report)[0] == INVALID
    name = pb.EnsureStudyRequest(name="a\0b", directions=[pb.MINIMIZE])
    assert error(stub.EnsureStudy, name)[0] == INVALID
    assert error(stub.ListStudies, pb.ListStudiesRequest(name="a\0b"))[0] in {INVALID, NOT_FOUND}


def test_optunas_service(proxy: Running) -> None:
    stub = proxy.optuna
    directions = [api_pb2.MINIMIZE]
    create = api_pb2.CreateNewStudyRequest(study_name="s", directions=directions)
    study_id = stub.CreateNewStudy(create).study_id
    assert error(stub.CreateNewStudy, create)[0] == grpc.StatusCode.ALREADY_EXISTS
    for call, request in (
        (stub.DeleteStudy, api_pb2.DeleteStudyRequest(study_id=MISSING)),
        (
            stub.SetStudyUserAttribute,
            api_pb2.SetStudyUserAttributeRequest(study_id=MISSING, key="k", value="1"),
        ),
        (
            stub.SetStudySystemAttribute,
            api_pb2.SetStudySystemAttributeRequest(study_id=MISSING, key="k", value="1"),
        ),
        (stub.GetStudyIdFromName, api_pb2.GetStudyIdFromNameRequest(study_name="x")),
        (stub.GetStudyNameFromId, api_pb2.GetStudyNameFromIdRequest(study_id=MISSING)),
        (stub.GetStudyDirections, api_pb2.GetStudyDirectionsRequest(study_id=MISSING)),
        (stub.GetStudyUserAttributes, api_pb2.GetStudyUserAttributesRequest(study_id=MISSING)),
        (
            stub.GetStudySystemAttributes,
            api_pb2.GetStudySystemAttributesRequest(study_id=MISSING),
        ),
        (
            stub.CreateNewTrial,
            api_pb2.CreateNewTrialRequest(study_id=MISSING, template_trial_is_none=True),
        ),
        (
            stub.GetTrialIdFromStudyIdTrialNumber,
            api_pb2.GetTrialIdFromStudyIdTrialNumberRequest(study_id=study_id, trial_number=0),
        ),
        (stub.GetTrial, api_pb2.GetTrialRequest(trial_id=MISSING)),
        (
            stub.GetTrials,
            api_pb2.GetTrialsRequest(study_id=MISSING, trial_id_greater_than=-1),
        ),
        *writes(stub, MISSING),
    ):
        assert error(call, request)[0] == NOT_FOUND
    new = api_pb2.CreateNewTrialRequest(study_id=study_id, template_trial_is_none=True)
    trial_id = stub.CreateNewTrial(new).trial_id
    bad = api_pb2.SetTrialParameterRequest(
        trial_id=trial_id, param_name="x", param_value_internal=1, distribution="{}"
    )
    assert error(stub.SetTrialParameter, bad)[0] == INVALID
    complete = api_pb2.SetTrialStateValuesRequest(
        trial_id=trial_id, state=api_pb2.COMPLETE, values=[1]
    )
    assert stub.SetTrialStateValues(complete).trial_updated
    for call, request in writes(stub, trial_id):
        assert error(call, request)[0] == grpc.StatusCode.FAILED_PRECONDITION


def writes(stub: Any, trial_id: int) -> list[tuple[Callable[..., Any], Any]]:
    distribution = (
        '{"name": "FloatDistribution", '
        '"attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'
    )
    return [
        (
            stub.SetTrialParameter,
            api_pb2.SetTrialParameterRequest(
                trial_id=trial_id,
                param_name="x",
                param_value_internal=1,
                distribution=distribution,
            ),
        ),
        (
            stub.SetTrialStateValues,
            api_pb2.SetTrialStateValuesRequest(trial_id=trial_id, state=api_pb2.FAIL),
        ),
        (
            stub.SetTrialIntermediateValue,
            api_pb2.SetTrialIntermediateValueRequest(
                trial_id=trial_id, step=1, intermediate_value=1
            ),
        ),
        (
            stub.SetTrialUserAttribute,
            api_pb2.SetTrialUserAttributeRequest(trial_id=trial_id, key="k", value="1"),
        ),
        (
            stub.SetTrialSystemAttribute,
            api_pb2.SetTrialSystemAttributeRequest(trial_id=trial_id, key="k", value="1"),
        ),
    ]

"""Reports that a proxy answers with whether to prune."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import pytest
from optuna.pruners import MedianPruner
from optuna.study import StudyDirection
from optuna.trial import TrialState

from tests.proxy.running import Running, Session, eventually
from trialfleet.client import FleetStorage, StudyDefinition
from trialfleet.wire.pruners import encode_pruner
from trialfleet.wire.v1 import trialfleet_pb2 as pb
from trialfleet.wire.v1.trialfleet_pb2_grpc import TrialFleetStub

PRUNER = encode_pruner(MedianPruner(n_startup_trials=1)) or ""


def _complete(session: Session, value: float, steps: int = 3) -> None:
    trial_id = session.open_trial().trial_id
    session.stub.Report(
        pb.ReportRequest(
            write=session.write(),
            update=pb.TrialUpdate(
                trial_id=trial_id, steps=range(steps), intermediate_values=[value] * steps
            ),
        )
    )
    session.tell(trial_id, value)


def _decide(
    session: Session, trial_id: int, values: Sequence[float], pruner: str = PRUNER
) -> pb.ReportReply:
    """Report the last of a trial's values, by step, and ask whether to prune."""
    last = len(values) - 1
    update = pb.TrialUpdate(trial_id=trial_id, steps=[last], intermediate_values=[values[last]])
    return session.stub.Report(
        pb.ReportRequest(
            write=session.write(),
            update=update,
            study_id=session.study_id,
            decision=pb.Decision(pruner=pruner, steps=range(last + 1), values=values),
        )
    )


def test_a_trial_that_is_worse_than_the_median_is_pruned(session: Session) -> None:
    trial_id = session.open_trial().trial_id
    assert not _decide(session, trial_id, [9.0]).prune  # there is nothing to compare with
    for value in (1.0, 2.0, 3.0):
        _complete(session, value)
    assert _decide(session, trial_id, [9.0, 2.1]).prune
    assert not _decide(session, session.open_trial().trial_id, [1.9]).prune


def _stored(stub: TrialFleetStub, trial_id: int) -> dict[int, float]:
    reply = stub.GetTrials(pb.GetTrialsRequest(trial_ids=[trial_id]))
    trial = pb.Trial.FromString(reply.trials.trials[0])
    return dict(zip(trial.steps, trial.intermediate_values, strict=True))


def test_values_are_stored_and_a_later_answer_says_so(session: Session) -> None:
    trial_id = session.open_trial().trial_id
    assert _decide(session, trial_id, [1.0]).stored == 0
    eventually(lambda: _stored(session.stub, trial_id) == {0: 1.0})
    second = _decide(session, trial_id, [1.0, 2.0])
    first_write = 2  # behind the Ask
    assert second.stored == first_write
    eventually(lambda: _stored(session.stub, trial_id) == {0: 1.0, 1: 2.0})


def test_a_trial_that_was_taken_away_is_fenced_the_next_time(session: Session) -> None:
    trial_id = session.open_trial().trial_id
    session.stub.GiveUp(pb.GiveUpRequest(session=session.name, reason="Evicted"))
    values = [1.0]
    assert not _decide(session, trial_id, values).fenced

    def fenced() -> bool:
        values.append(1.0)
        return _decide(session, trial_id, values).fenced

    eventually(fenced)


@pytest.mark.parametrize("pruner", ["", "x", "{}", '{"percentile": 200}'])
def test_a_text_that_is_no_pruner(session: Session, pruner: str) -> None:
    trial_id = session.open_trial().trial_id
    with pytest.raises(grpc.RpcError) as caught:
        _decide(session, trial_id, [1.0], pruner)
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("pruner: found ")


def test_a_study_of_several_objectives(stub: TrialFleetStub) -> None:
    directions = [pb.MINIMIZE, pb.MAXIMIZE]
    stub.EnsureStudy(pb.EnsureStudyRequest(name="two", directions=directions))
    session = Session(stub, "two")
    with pytest.raises(grpc.RpcError) as caught:
        _decide(session, session.open_trial().trial_id, [1.0])
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_proxy_that_dies_loses_no_report(
    start_proxy: Callable[..., Running], database_url: str
) -> None:
    """Reports to a proxy that never wrote them are written with the tell, by another."""
    near, far = start_proxy(database_url), start_proxy(database_url)
    storage = FleetStorage([near.target, far.target], worker=os.urandom(4).hex())
    study_id, _ = storage.ensure_study(StudyDefinition("s", [StudyDirection.MINIMIZE]))
    trial_id = storage.ask(study_id) or 0
    for step in range(5):
        storage.set_trial_intermediate_value(trial_id, step, step)
        storage.should_prune(trial_id, PRUNER)
    near.stop()
    storage.set_trial_intermediate_value(trial_id, 5, 5.0)
    storage.should_prune(trial_id, PRUNER)
    assert storage.tell_and_ask(trial_id, TrialState.COMPLETE, [1.0])[0]
    storage.close()
    assert _stored(far.stub, trial_id) == {step: float(step) for step in range(6)}

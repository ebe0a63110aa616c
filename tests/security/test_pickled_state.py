"""Attributes that samplers unpickle: who writes them runs code in the workers of the study."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import optuna
import pytest
from optuna.storages import GrpcStorageProxy
from optuna.trial import TrialState

from tests.security.doors import STUDY, Doors
from trialfleet.model.trial import UNPICKLED
from trialfleet.wire import tokens
from trialfleet.wire.v1 import trialfleet_pb2 as pb


class _Harm:
    def __reduce__(self) -> Any:
        return os.abort, ()


PLANTED = pickle.dumps(_Harm()).hex()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_port_without_tokens_refuses_them(doors: Doors) -> None:
    host, _, port = doors.plaintext.rpartition(":")
    storage = GrpcStorageProxy(host=host, port=int(port))
    study_id = storage.get_study_id_from_name(STUDY)
    trial_id = storage.create_new_trial(study_id)
    template = optuna.create_trial(
        state=TrialState.COMPLETE, value=1.0, system_attrs={"sepcma:optimizer:0": PLANTED}
    )
    plants: tuple[Callable[[], object], ...] = (
        lambda: storage.set_trial_system_attr(trial_id, "cma:optimizer:0", PLANTED),
        lambda: storage.create_new_trial(study_id, template),
    )
    for plant in plants:
        with pytest.raises(grpc.RpcError) as refused:
            plant()
        call: Any = refused.value
        assert call.code() is grpc.StatusCode.PERMISSION_DENIED
        assert ":optimizer:0'" in call.details()
    storage.set_trial_system_attr(trial_id, "cma:generation", 1)
    (trial,) = storage.get_all_trials(study_id)
    assert trial.system_attrs == {"cma:generation": 1}
    storage.close()


def test_another_studys_token_writes_none(doors: Doors) -> None:
    session = os.urandom(16)
    opening = pb.OpenSessionRequest(session=session, worker="w", study=STUDY, time_to_live_s=60)
    doors.stub.OpenSession(opening, metadata=doors.token)
    ask = pb.AskRequest(write=pb.WriteId(session=session, sequence=1), study_id=doors.study_id)
    opened = doors.stub.Ask(ask, metadata=doors.token)
    trial = pb.Trial.FromString(opened.trial.trials[0])
    planted = pb.Attribute(key="cma:optimizer:0", value_json=f'"{PLANTED}"')
    update = pb.TrialUpdate(trial_id=trial.trial_id, system_attrs=[planted])
    other = (tokens.metadata(tokens.for_study(doors.key, "other")),)
    write = pb.WriteId(session=session, sequence=2)
    written = pb.WriteTrialRequest(write=write, update=update)
    told = pb.TellRequest(write=write, update=update, state=pb.COMPLETE, values=[1.0])
    for call in (
        doors.stub.WriteTrial.future(written, metadata=other),
        doors.stub.Tell.future(told, metadata=other),
    ):
        assert call.code() is grpc.StatusCode.PERMISSION_DENIED
    doors.stub.WriteTrial(written, metadata=doors.token)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_they_are_all_that_the_installed_optuna_unpickles() -> None:
    package = Path(optuna.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if "pickle.load" in path.read_text() and path.parent.name != "testing"
    }
    # A journal's own snapshots, of a storage that is not ours.
    assert found == {"samplers/_cmaes.py", "storages/journal/_storage.py"}
    samplers = [
        optuna.samplers.CmaEsSampler(),
        optuna.samplers.CmaEsSampler(use_separable_cma=True),
        optuna.samplers.CmaEsSampler(with_margin=True),
    ]
    assert {sampler._attr_key_optimizer for sampler in samplers} == set(UNPICKLED)

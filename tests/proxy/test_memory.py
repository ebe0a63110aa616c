"""A proxy that has handed a large study to both kinds of clients stays small."""

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import sqlalchemy as sa
from optuna.distributions import FloatDistribution, distribution_to_json
from optuna.storages import GrpcStorageProxy

from tests.proxy.running import Process
from trialfleet.wire.v1 import trialfleet_pb2 as pb
from trialfleet.wire.v1.trialfleet_pb2_grpc import TrialFleetStub

TRIALS = 10_000
MIB = 1024 * 1024

FILL = (
    "INSERT INTO trials (study_id, number, state, datetime_start, datetime_complete) "
    "SELECT :study, n, 'COMPLETE', now() AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC' "
    "FROM generate_series(0, :trials - 1) AS n",
    "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) "
    "SELECT trial_id, 'param_' || p, random(), :distribution "
    "FROM trials, generate_series(0, 4) AS p",
    "INSERT INTO trial_values (trial_id, objective, value, value_type) "
    "SELECT trial_id, 0, random(), 'FINITE' FROM trials",
)


def resident(process: Process) -> float:
    """Return the most memory that a process has had, in MiB."""
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_ten_thousand_trials(start_process: Callable[..., Process], database_url: str) -> None:
    process = start_process("--storage", database_url, "--listen", "127.0.0.1:0")
    target = process.listening()
    with grpc.insecure_channel(target) as channel:
        stub = TrialFleetStub(channel)
        ensure = pb.EnsureStudyRequest(name="s", directions=[pb.MINIMIZE])
        study_id = stub.EnsureStudy(ensure).study_id
        values = {
            "study": study_id,
            "trials": TRIALS,
            "distribution": distribution_to_json(FloatDistribution(0, 1)),
        }
        engine = sa.create_engine(database_url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            for statement in FILL:
                text = sa.text(statement)
                names = text.compile().params
                connection.execute(text, {name: values[name] for name in names})
        request = pb.HistoryRequest(study_id=study_id)
        parts = list(stub.History(request))
        assert sum(len(part.news.finished.trials) for part in parts) == TRIALS
        assert max(part.ByteSize() for part in parts) < 3 * MIB
    host, _, port = target.rpartition(":")
    storage = GrpcStorageProxy(host=host, port=int(port))
    assert len(storage.get_all_trials(study_id, deepcopy=False)) == TRIALS
    storage.close()
    assert resident(process) < 150

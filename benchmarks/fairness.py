"""Many studies at once on one storage: does each get its share?"""

import multiprocessing
import time
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.study import StudyDirection

from benchmarks import counting
from benchmarks.cases import Objective
from benchmarks.ways import Trialfleet
from trialfleet.client import FleetStorage, StudyDefinition

STUDIES = 100
_SECONDS = 15.0

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["benchmarks.preload"])


def _work(address: str, name: str, gate: Any) -> None:
    from trialfleet.worker.loop import run_worker

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = FleetStorage(address, study=name)
    sampler, pruner = optuna.samplers.RandomSampler(), optuna.pruners.NopPruner()
    assert storage.ordinal == 0
    study_id = storage.study_id
    assert study_id is not None
    gate.wait()
    run_worker(storage, study_id, name, Objective(1, 0), sampler, pruner)
    storage.close()


def measure(url: str, studies: int = STUDIES) -> dict[str, Any]:
    """Run a worker a study for a while; return how the trials are spread over the studies."""
    database = counting.create_database(url, f"fairness {studies}")
    way = Trialfleet()
    with way.serve(database, 1) as (address,):
        tool = FleetStorage(address)
        gate = _PROCESSES.Barrier(studies + 1)
        workers = []
        for k in range(studies):
            definition = StudyDefinition(
                name=f"study-{k}", directions=[StudyDirection.MINIMIZE], timeout_s=_SECONDS
            )
            tool.ensure_study(definition)
            arguments = (address, definition.name, gate)
            workers.append(_PROCESSES.Process(target=_work, args=arguments))
            workers[-1].start()
        while gate.n_waiting < studies:
            time.sleep(0.1)
        gate.wait()
        for worker in workers:
            worker.join()
        tool.close()
    query = "SELECT count(*) FROM trials WHERE state = 'COMPLETE' GROUP BY study_id"
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    with engine.connect() as connection:
        counts = sorted(row[0] for row in connection.execute(sa.text(query)))
    share = sum(counts) / studies
    return {
        "studies": studies,
        "trials_per_s": round(sum(counts) / _SECONDS, 1),
        "least_share": round(counts[0] / share, 2) if len(counts) == studies else 0.0,
        "largest_share": round(counts[-1] / share, 2),
    }

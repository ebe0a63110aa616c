"""What a study whose sampler reads its history spends on the storage, and what on Optuna."""

import multiprocessing
import threading
import time
from typing import Any

import optuna
from optuna.study import StudyDirection

from benchmarks import counting
from benchmarks.cases import Objective
from benchmarks.ways import Trialfleet
from trialfleet.client import FleetStorage, StudyDefinition

TRIALS = 2000
WORKERS = 10
PARAMS = 5

_STUDY = "history"
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["benchmarks.preload"])


class _Clock:
    """Counts the time that the main thread spends in the methods of a storage."""

    def __init__(self, storage: FleetStorage) -> None:
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self._inside = False
        self._thread = threading.get_ident()
        for name in dir(storage):
            method = getattr(storage, name)
            if not name.startswith("__") and callable(method):
                setattr(storage, name, self._timed(method))

    def _timed(self, method: Any) -> Any:
        def timed(*args: Any, **options: Any) -> Any:
            if self._inside or threading.get_ident() != self._thread:
                return method(*args, **options)
            self._inside = True
            # The clock of the CPU is a system call, at which the kernel lets others go first whose
            # turn has come: outside of the time that is measured.
            cpu = time.thread_time()
            began = time.perf_counter()
            try:
                return method(*args, **options)
            finally:
                self._inside = False
                self.seconds += time.perf_counter() - began
                self.cpu_seconds += time.thread_time() - cpu

        return timed


def _work(address: str, k: int, gate: Any, done: Any) -> None:
    from trialfleet.worker.loop import run_worker

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = FleetStorage(address, study=_STUDY)
    assert storage.ordinal >= 0  # the session is open before the clock starts
    study_id = storage.study_id
    assert study_id is not None
    sampler = optuna.samplers.TPESampler(seed=k)
    clock = _Clock(storage)
    gate.wait()
    began, cpu = time.perf_counter(), time.process_time()
    run_worker(storage, study_id, _STUDY, Objective(PARAMS, 0), sampler, optuna.pruners.NopPruner())
    done.put(
        (
            time.perf_counter() - began,
            clock.seconds,
            time.process_time() - cpu,
            clock.cpu_seconds,
        )
    )
    storage.close()


def measure(url: str) -> dict[str, Any]:
    """Run TPE's study; return the storage's share of the workers' time, and of their CPU."""
    database = counting.create_database(url, "history")
    way = Trialfleet()
    with way.serve(database, 1) as (address,):
        tool = FleetStorage(address)
        tool.ensure_study(
            StudyDefinition(name=_STUDY, directions=[StudyDirection.MINIMIZE], trials=TRIALS)
        )
        tool.close()
        gate, done = _PROCESSES.Barrier(WORKERS + 1), _PROCESSES.Queue()
        workers = [
            _PROCESSES.Process(target=_work, args=(address, k, gate, done)) for k in range(WORKERS)
        ]
        for worker in workers:
            worker.start()
        gate.wait()
        ends = [done.get(timeout=3600) for _ in workers]
        for worker in workers:
            worker.join()
    wall, storage, cpu, storage_cpu = (sum(column) for column in zip(*ends, strict=True))
    return {
        "trials": TRIALS,
        "workers": WORKERS,
        "parameters": PARAMS,
        "trials_per_s": round(TRIALS / max(end[0] for end in ends), 1),
        "storage's share of the workers' time": round(storage / wall, 3),
        "storage's share of the workers' CPU": round(storage_cpu / cpu, 3),
        "CPU ms per trial": round(1000 * cpu / TRIALS, 2),
    }

"""A proxy under load for an hour: its memory does not grow."""

import multiprocessing
import statistics
import time
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest

from tests.datapath.chaos import free_port, start_proxy
from trialfleet.client import FleetStorage, StudyDefinition
from trialfleet.model.errors import StudyEnded

TRIALS = 2_000
"""Of each of the studies that follow each other, with history for each worker."""

PAUSE_S = 0.05
"""What each trial's objective takes: an hour of steady load, not of all that fits."""

_PROCESSES = multiprocessing.get_context("forkserver")


def work(endpoint: str, worker: int, until: float) -> None:
    """Run trials of one study after the other."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    number = 0
    while time.time() < until:
        name = f"study-{number}"
        storage = FleetStorage(endpoint, worker=f"worker-{worker}")
        direction = optuna.study.StudyDirection.MINIMIZE
        study_id, _ = storage.ensure_study(StudyDefinition(name, [direction], trials=TRIALS))
        study = optuna.load_study(
            study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler(seed=worker)
        )
        try:
            while time.time() < until:
                trial_id = storage.ask(study_id)
                if trial_id is None:
                    continue
                trial = optuna.Trial(study, trial_id)
                value = sum(trial.suggest_float(f"x{k}", 0, 1) for k in range(5))
                trial.report(value, 1)
                study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
                time.sleep(PAUSE_S)
                study.tell(trial, value)
        except StudyEnded:
            number += 1
        storage.close()


@pytest.mark.soak
@pytest.mark.parametrize("minutes", [60])
def test_memory_is_flat(database_url: str, tmp_path: Path, minutes: int) -> None:
    port = free_port()
    until = time.time() + minutes * 60
    workers: list[Any] = []
    samples: list[float] = []
    with start_proxy(database_url, port, tmp_path / "proxy.log") as proxy:
        try:
            for k in range(4):
                workers.append(
                    _PROCESSES.Process(target=work, args=(f"127.0.0.1:{port}", k, until))
                )
                workers[-1].start()
            resident = psutil.Process(proxy.pid)
            while time.time() < until:
                workers[0].join(min(10.0, max(0.1, until - time.time())))
                samples.append(resident.memory_info().rss / 2**20)
            for worker in workers:
                worker.join(60)
                assert worker.exitcode == 0
        finally:
            for worker in workers:
                worker.kill()
            proxy.terminate()
    quarter = len(samples) // 4
    second, last = (
        statistics.median(part) for part in (samples[quarter : 2 * quarter], samples[-quarter:])
    )
    print(
        f"MiB: start {samples[0]:.0f}, second quarter {second:.0f}, last {last:.0f}, "
        f"most {max(samples):.0f}"
    )
    assert max(samples) <= 150
    assert last <= second + 10

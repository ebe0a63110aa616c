"""Written one way and read another: our client, stock Optuna's proxy client, stock RDBStorage."""

import itertools
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage
from optuna.trial import TrialState

from tests.datapath.chaos import free_port, start_proxy
from trialfleet.client import FleetStorage

STUDY = "geteilt, 共有"
TRIALS = 6
"""Of each writer."""

PARAMS = ["float", "log", "step", "int", "int log", "int step", "категория"]

WAYS = ("client", "stock proxy", "stock rdb")


def connect(way: str, url: str, port: int) -> BaseStorage:
    if way == "client":
        return FleetStorage(f"127.0.0.1:{port}")
    if way == "stock proxy":
        stock = GrpcStorageProxy(host="127.0.0.1", port=port)
        stock.wait_server_ready(timeout=60)
        return stock
    return optuna.storages.get_storage(url)


def disconnect(storage: Any) -> None:
    for name in ("close", "remove_session"):
        getattr(storage, name, lambda: None)()
    backend = getattr(storage, "_backend", None)
    if isinstance(backend, RDBStorage):
        backend.engine.dispose()


def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # The stock client says on construction that it is experimental.
    import warnings

    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def write(way: str, url: str, port: int, start: Any, results: Any) -> None:
    """Add trials with everything that a trial can have; put what they must look like."""
    quiet()
    storage = connect(way, url, port)
    sampler = optuna.samplers.RandomSampler(seed=WAYS.index(way))
    study = optuna.load_study(study_name=STUDY, storage=storage, sampler=sampler)
    start.wait()
    expected = []
    for k in range(TRIALS):
        trial = study.ask()
        trial.suggest_float("float", -1.5, 2.5)
        trial.suggest_float("log", 1e-9, 1e3, log=True)
        trial.suggest_float("step", 0, 1, step=0.1)
        trial.suggest_int("int", -5, 5)
        trial.suggest_int("int log", 1, 1000, log=True)
        trial.suggest_int("int step", 0, 98, step=7)
        trial.suggest_categorical("категория", [None, True, 1, 2.5, "ü", "x"])
        trial.set_user_attr("text", "naïve, 日本語 \N{PILE OF POO} \\ \" ' \n %s %(x)s :y")
        trial.set_user_attr("nested", {"a": [1, None, {"b": float("inf")}], "": {}})
        trial.set_user_attr("nan", float("nan"))
        if k == 0:
            trial.set_user_attr("large", "ß" * 600_000)
        trial.set_constraint("c", k - 2.0)
        steps = 1_000 if k == 1 and way == "client" else 5
        special = [float("nan"), float("inf"), float("-inf"), -0.0, 1e-320]
        for step, value in zip(range(steps), itertools.cycle(special), strict=False):
            storage.set_trial_intermediate_value(trial._trial_id, step * 3, value)
        values = {0: [float("inf"), -1e308], 1: [float("-inf"), 5e-324]}.get(k, [0.1, k / 3])
        states = {2: TrialState.FAIL, 3: TrialState.PRUNED}
        state = states.get(k)
        if state is None:
            study.tell(trial, values)
        else:
            study.tell(trial, state=state)
        expected.append(plain(study.trials[trial.number]))
    disconnect(storage)
    results.put((way, expected))


def plain(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """Return a trial as values that compare equal if and only if the trials do."""
    return {
        "number": trial.number,
        "state": trial.state.name,
        "values": repr(trial.values),
        # Optuna's own protocol keeps no order of parameters.
        "params": repr(sorted(trial.params.items())),
        "distributions": repr(sorted(trial.distributions.items())),
        "user_attrs": repr(sorted(trial.user_attrs.items())),
        "system_attrs": repr(sorted(trial.system_attrs.items())),
        "intermediate_values": repr(sorted(trial.intermediate_values.items())),
        "constraints": repr(sorted(trial.constraints.items())),
        "complete": trial.datetime_complete is not None,
        "started": trial.datetime_start is not None,
    }


@pytest.fixture
def proxy_port(database_url: str, tmp_path: Path) -> Any:
    port = free_port()
    with start_proxy(database_url, port, tmp_path / "proxy.log") as proxy:
        try:
            yield port
        finally:
            proxy.terminate()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_what_is_written_one_way_reads_the_same_the_others(
    database_url: str, proxy_port: int
) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    client = FleetStorage(f"127.0.0.1:{proxy_port}")
    optuna.create_study(study_name=STUDY, storage=client, directions=["minimize", "maximize"])
    client.close()

    processes = multiprocessing.get_context("spawn")
    start, results = processes.Event(), processes.Queue()
    writers = [
        processes.Process(target=write, args=(way, database_url, proxy_port, start, results))
        for way in WAYS
        for _ in range(2)
    ]
    for writer in writers:
        writer.start()
    start.set()
    expected: dict[int, dict[str, Any]] = {}
    for _ in writers:
        way, trials = results.get(timeout=120)
        assert len(trials) == TRIALS, way
        assert not expected.keys() & {trial["number"] for trial in trials}, way
        expected |= {trial["number"]: trial for trial in trials}
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert sorted(expected) == list(range(TRIALS * len(writers)))

    fronts = []
    for way in WAYS:
        storage = connect(way, database_url, proxy_port)
        study = optuna.load_study(study_name=STUDY, storage=storage)
        for trial in study.trials:
            found = plain(trial)
            wanted = expected[trial.number]
            assert found == wanted, way
            if way != "stock proxy":
                assert list(trial.params) == PARAMS
        assert study.directions[1] == optuna.study.StudyDirection.MAXIMIZE
        fronts.append([trial.number for trial in study.best_trials])
        disconnect(storage)
    assert fronts[0] == fronts[1] == fronts[2]

    client = FleetStorage(f"127.0.0.1:{proxy_port}")
    summary = client.summary(client.get_study_id_from_name(STUDY), best=1000)
    client.close()
    assert sorted(trial.number for trial in summary.best) == sorted(fronts[0])
    states = [trial["state"] for trial in expected.values()]
    counted: Callable[[TrialState], int] = lambda state: states.count(state.name)  # noqa: E731
    assert summary.counts.complete == counted(TrialState.COMPLETE)
    assert summary.counts.failed == counted(TrialState.FAIL)
    assert summary.counts.pruned == counted(TrialState.PRUNED)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_an_incompatible_distribution_is_refused_whoever_came_first(
    database_url: str, proxy_port: int
) -> None:
    for writer, reader in itertools.product(WAYS, WAYS):
        name = f"{writer}, {reader}"
        first = connect(writer, database_url, proxy_port)
        study = optuna.create_study(study_name=name, storage=first)
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, 1.0)
        second = connect(reader, database_url, proxy_port)
        trial = optuna.load_study(study_name=name, storage=second).ask()
        with pytest.raises(ValueError) as refused:
            trial.suggest_categorical("x", ["a", "b"])
        assert reader == "stock proxy" or "distribution kind" in str(refused.value), name
        disconnect(first)
        disconnect(second)


def test_a_cast_to_plain_floats_is_not_needed(database_url: str, proxy_port: int) -> None:
    storage = FleetStorage(f"127.0.0.1:{proxy_port}")
    study = optuna.create_study(study_name=STUDY, storage=storage)
    trial = study.ask()
    trial.report(np.float32(0.5), 1)  # type: ignore[arg-type]
    study.tell(trial, np.float64(0.25))
    assert study.trials[0].values == [0.25]
    assert study.trials[0].intermediate_values == {1: 0.5}
    storage.close()

"""A stock ``optuna.storages.GrpcStorageProxy`` works unmodified."""

import datetime
import math
import time
from collections.abc import Iterator

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import GrpcStorageProxy, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from tests.proxy.running import Running

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture
def storage(proxy: Running) -> Iterator[GrpcStorageProxy]:
    storage = GrpcStorageProxy(host="127.0.0.1", port=proxy.proxy.address.port)
    storage.wait_server_ready(timeout=30)
    yield storage
    storage.close()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(optuna.logging.INFO)


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kolkata"])
def time_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take the test, the proxy in it and Optuna to a time zone."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


def stored(database_url: str, study_id: int) -> list[FrozenTrial]:
    """Read a study's trials as Optuna itself finds them in the database."""
    storage = RDBStorage(database_url)
    try:
        return storage.get_all_trials(study_id)
    finally:
        storage.engine.dispose()


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -1, 1)
    if trial.suggest_categorical("kind", ["a", "b"]) == "a":
        x += trial.suggest_int("n", 1, 9, log=True)
    for step in range(3):
        trial.report(x * step, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    trial.set_user_attr("squared", x * x)
    if trial.number == 7:
        raise ValueError("as it happens")
    return x


def test_a_study_from_begin_to_end(storage: GrpcStorageProxy, database_url: str) -> None:
    study = optuna.create_study(
        study_name="stock",
        storage=storage,
        sampler=optuna.samplers.TPESampler(seed=1, n_startup_trials=5),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )
    study.enqueue_trial({"x": 0.25})
    study.optimize(objective, n_trials=20, catch=ValueError)
    states = [trial.state for trial in study.trials]
    assert study.trials[0].params["x"] == 0.25
    assert states[7] == TrialState.FAIL
    assert TrialState.COMPLETE in states
    assert [trial.number for trial in study.trials] == list(range(20))
    assert study.trials == stored(database_url, study._study_id)
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert study.best_trial == min(complete, key=lambda trial: trial.value or 0.0)
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        optuna.create_study(study_name="stock", storage=storage)
    again = optuna.load_study(study_name="stock", storage=storage)
    assert again.trials == study.trials
    optuna.delete_study(study_name="stock", storage=storage)
    assert optuna.get_all_study_names(storage) == []


@pytest.mark.usefixtures("time_zone")
def test_a_template_is_kept_to_the_letter(storage: GrpcStorageProxy, database_url: str) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE])
    template = create_trial(
        state=TrialState.COMPLETE,
        values=[math.inf, -math.inf],
        params={"x": 1e-5, "n": 3, "ключ": None},
        distributions={
            "x": FloatDistribution(1e-5, 1e-1, log=True),
            "n": IntDistribution(1, 9, step=2),
            "ключ": CategoricalDistribution([None, True, "é"]),
        },
        user_attrs={"deep": {"list": [1, None, "\u2028"]}},
        system_attrs={"s": "x" * 100_000},
        intermediate_values={-3: math.nan, 7: math.inf},
    )
    template.datetime_start = datetime.datetime(2024, 2, 29, 23, 59, 59, 1)
    template.datetime_complete = datetime.datetime(2024, 3, 1, 0, 0, 0)
    trial_id = storage.create_new_trial(study_id, template)
    through_proxy = storage.get_trial(trial_id)
    (in_database,) = stored(database_url, study_id)
    for found in (through_proxy, in_database):
        assert found.values == template.values
        assert found.params == template.params
        assert found.distributions == template.distributions
        assert found.user_attrs == template.user_attrs
        assert found.system_attrs == template.system_attrs
        assert found.datetime_start == template.datetime_start
        assert found.datetime_complete == template.datetime_complete
        assert str(found.intermediate_values) == str(template.intermediate_values)


def test_trials_of_one_client_reach_another(
    storage: GrpcStorageProxy, proxy: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialfleet.proxy.scanning._READ_TRIALS", 3)
    other = GrpcStorageProxy(host="127.0.0.1", port=proxy.proxy.address.port)
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    running = [storage.create_new_trial(study_id) for _ in range(8)]
    assert [t._trial_id for t in other.get_all_trials(study_id)] == running
    for trial_id in running[::2]:
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [trial_id])
    assert other.get_all_trials(study_id) == storage.get_all_trials(study_id)
    states = [trial.state for trial in other.get_all_trials(study_id)]
    assert states == [TrialState.COMPLETE, TrialState.RUNNING] * 4
    assert not storage.set_trial_state_values(running[1], TrialState.RUNNING)
    other.close()

"""Workers over real proxies on a real database."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    GridSampler,
    NSGAIISampler,
    TPESampler,
)
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from tests.client.proxies import Proxy
from trialfleet import names
from trialfleet.client import Counts, FleetStorage, GivenUp, StudyDefinition
from trialfleet.model import errors

Connect = Callable[..., FleetStorage]

MINIMIZE = [StudyDirection.MINIMIZE]


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_threads_share_a_storage(proxies: list[Proxy], connect: Connect) -> None:
    storage = connect(*proxies)
    sampler = TPESampler(n_startup_trials=5)
    study = optuna.create_study(storage=storage, sampler=sampler, study_name="threads")

    def objective(trial: Trial) -> float:
        x = trial.suggest_float("x", -1, 1)
        kind = trial.suggest_categorical("kind", ["a", "b"])
        trial.report(x, 0)
        trial.should_prune()
        trial.set_user_attr("kind", kind)
        return x * x

    study.optimize(objective, n_trials=40, n_jobs=4)
    trials = study.trials
    assert [trial.number for trial in trials] == list(range(40))
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    # Not x ** 2: the last bit of a power may differ from the product.
    assert all(trial.value == trial.params["x"] * trial.params["x"] for trial in trials)
    assert all(trial.user_attrs == {"kind": trial.params["kind"]} for trial in trials)
    other = optuna.load_study(study_name="threads", storage=connect(proxies[1]))
    assert other.trials == trials
    assert other.best_trial == study.best_trial


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [
        (lambda: NSGAIISampler(population_size=4, seed=0), NopPruner),
        (lambda: BruteForceSampler(seed=0), NopPruner),
        (lambda: GridSampler({"x": range(5), "y": range(5)}, seed=0), NopPruner),
        (lambda: TPESampler(seed=0), lambda: HyperbandPruner(max_resource=4)),
        (lambda: TPESampler(seed=0, multivariate=True, group=True), SuccessiveHalvingPruner),
        (lambda: TPESampler(seed=0), lambda: MedianPruner(n_startup_trials=2)),
    ],
    ids=["nsga2", "brute-force", "grid", "tpe-hyperband", "tpe-halving", "tpe-median"],
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_samplers_and_pruners_decide_as_over_optunas_own_storage(
    proxies: list[Proxy],
    connect: Connect,
    sampler: Callable[[], BaseSampler],
    pruner: Callable[[], BasePruner],
    request: pytest.FixtureRequest,
) -> None:
    def objective(trial: Trial) -> float:
        x = trial.suggest_int("x", 0, 20)
        y = trial.suggest_int("y", 0, 20)
        for step in range(4):
            trial.report((x - y) * (step - 2), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return float((x - y) ** 2)

    found = []
    for storage in (connect(*proxies), optuna.storages.InMemoryStorage()):
        # Hyperband draws from the study's name.
        study = optuna.create_study(
            storage=storage, study_name=request.node.name, sampler=sampler(), pruner=pruner()
        )
        study.optimize(objective, n_trials=25)
        found.append(
            [(t.number, t.state, t.values, t.params, t.intermediate_values) for t in study.trials]
        )
    assert found[0] == found[1]


def test_a_budget(proxies: list[Proxy], connect: Connect) -> None:
    storage = connect(*proxies, study="budget", worker="one")
    definition = StudyDefinition(
        "budget", MINIMIZE, trials=4, retries=1, enqueue=[{"x": 0.5}], metric_names=["loss"]
    )
    study_id, created = storage.ensure_study(definition)
    assert created
    assert storage.ensure_study(definition) == (study_id, False)
    with pytest.raises(errors.InvalidInput, match="direction"):
        storage.ensure_study(StudyDefinition("budget", [StudyDirection.MAXIMIZE]))
    assert (storage.ordinal, storage.study_id) == (0, study_id)
    other = connect(*proxies, study="budget", worker="two")
    assert other.ordinal == 1

    enqueued = storage.ask(study_id) or 0
    assert storage.get_trial(enqueued).system_attrs == {names.ATTR_FIXED_PARAMS: {"x": 0.5}}
    storage.set_trial_param(enqueued, "x", 0.5, FloatDistribution(0, 1))
    assert storage.set_trial_state_values(enqueued, TrialState.COMPLETE, [3.0])

    lost = storage.ask(study_id) or 0
    storage.set_trial_param(lost, "x", 0.25, FloatDistribution(0, 1))
    storage.set_trial_param(lost, "late", 0.75, FloatDistribution(0, 1))
    given_up = other.give_up(worker="one", reason="Evicted", message="node gone")
    assert given_up == GivenUp(sessions=1, lost=(1,), requeued=(2,), failed=(), opened=1)
    assert not storage.set_trial_state_values(lost, TrialState.COMPLETE, [9.0])
    assert storage.get_trial(lost).system_attrs[names.ATTR_REASON] == "Evicted"

    retried = other.ask(study_id) or 0
    trial = other.get_trial(retried)
    assert trial.number == 2
    assert trial.system_attrs[names.ATTR_FAILED_TRIAL] == 1
    assert trial.system_attrs[names.ATTR_FIXED_PARAMS] == {"x": 0.25, "late": 0.75}
    other.set_trial_state_values(retried, TrialState.COMPLETE, [1.0])

    back = other.ask(study_id) or 0
    other.hand_back(back)
    assert other.get_trial(back).state == TrialState.WAITING
    assert storage.ask(study_id) == back
    storage.set_trial_state_values(back, TrialState.PRUNED)
    failed = storage.ask(study_id) or 0
    assert storage.ask(study_id, wait_s=0.05) is None  # it could still be lost
    storage.set_trial_state_values(failed, TrialState.FAIL)
    with pytest.raises(errors.StudyEnded) as ended:
        storage.ask(study_id)
    assert ended.value.reason == names.ENDED_TRIALS
    with pytest.raises(errors.StudyEnded):
        storage.create_new_trial(study_id)

    summary = storage.summary(study_id)
    assert summary.counts == Counts(complete=2, pruned=1, failed=1, lost=1)
    assert summary.counts.counted == 4
    assert [trial.number for trial in summary.best] == [2]
    best = storage.get_best_trial(study_id)
    (found,) = summary.best
    assert (found.params, found.values) == (best.params, best.values)
    assert not found.user_attrs and not found.system_attrs  # those may be of any size
    assert (summary.front, summary.ended, summary.sessions) == (1, names.ENDED_TRIALS, 2)
    assert summary.lost_reasons == {"Evicted": 1}
    assert [trial.number for trial in storage.news(study_id)] == [0, 1, 2, 3, 4]


def test_what_does_not_exist(proxies: list[Proxy], connect: Connect) -> None:
    storage = connect(*proxies)
    for call in (storage.ask, storage.summary, storage.news):
        with pytest.raises(errors.NotFound):
            call(2**31 - 1)
    with pytest.raises(errors.NotFound, match="no study has the name 'nowhere'"):
        connect(*proxies, study="nowhere").ordinal  # noqa: B018


def test_no_result_is_lost_or_doubled_while_proxies_die(
    database_url: str, connect: Connect
) -> None:
    running = [Proxy(database_url), Proxy(database_url)]
    done = threading.Event()
    told: list[tuple[int, float]] = []

    def work(storage: FleetStorage, study_id: int, start: int) -> None:
        for number in range(start, start + 40):
            trial_id = storage.ask(study_id) or 0
            storage.set_trial_param(trial_id, "x", number, FloatDistribution(0, 1e6))
            if storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [number]):
                told.append((trial_id, float(number)))

    def disturb() -> None:
        for turn in range(6):
            if done.wait(0.3):
                return
            proxy = running[turn % 2]
            proxy.kill()
            running[turn % 2] = Proxy(database_url, proxy.address)

    try:
        storages = [connect(*order) for order in (running, running[::-1])]
        study_id = storages[0].create_new_study(MINIMIZE)
        with ThreadPoolExecutor(3) as threads:
            disturbing = threads.submit(disturb)
            works = [
                threads.submit(work, storage, study_id, 1000 * i)
                for i, storage in enumerate(storages)
            ]
            for future in works:
                future.result()
            done.set()
            disturbing.result()
        trials = storages[0].get_all_trials(study_id)
        assert len(told) == 80
        assert [trial.number for trial in trials] == list(range(80))
        assert {(trial._trial_id, trial.value) for trial in trials} == set(told)
        assert all(trial.params["x"] == trial.value for trial in trials)
    finally:
        done.set()
        for proxy in running:
            proxy.stop()


def test_a_proxy_that_stands_still(
    database_url: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialfleet.client.running.CALL_S", 0.5)
    near, far = Proxy(database_url), Proxy(database_url)
    try:
        storage = connect(near, far)
        study_id = storage.create_new_study(MINIMIZE)
        near.suspend()
        first = storage.ask(study_id, wait_s=0) or 0
        storage.set_trial_state_values(first, TrialState.COMPLETE, [1.0])
        near.resume()
        # What the first proxy still had to do was done by the other: nothing is there twice.
        assert len(connect(near).get_all_trials(study_id)) == 1
    finally:
        near.stop()
        far.stop()

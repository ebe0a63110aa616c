"""How many calls a trial costs."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from tests.client.fake import FakeProxy
from trialfleet.client import FleetStorage
from trialfleet.model.errors import StudyEnded
from trialfleet.worker.loop import run_worker


def _study(
    storage: FleetStorage,
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner | None = None,
) -> optuna.Study:
    storage.create_new_study([StudyDirection.MINIMIZE], "s")
    return optuna.load_study(
        study_name="s", storage=storage, sampler=sampler, pruner=pruner or NopPruner()
    )


def _run(study: optuna.Study, steps: int = 0) -> None:
    storage = study._storage
    assert isinstance(storage, FleetStorage)
    trial_id = storage.ask(study._study_id)
    assert trial_id is not None
    trial = Trial(study, trial_id)
    x = trial.suggest_float("x", 0, 1)
    trial.suggest_int("n", 1, 9)
    trial.suggest_categorical("kind", ["a", "b"])
    trial.set_user_attr("seconds", 1.5)
    for step in range(steps):
        trial.report(x, step)
        trial.should_prune()
    study._thread_local.cached_all_trials = None
    assert storage.running_trial(trial_id).user_attrs == {"seconds": 1.5}
    assert storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [x])


def test_a_trial_costs_ask_and_tell(fake: FakeProxy, storage: FleetStorage) -> None:
    study = _study(storage, RandomSampler(seed=0))
    _run(study)
    before = fake.counts()
    for _ in range(20):
        _run(study)
    assert fake.counts() - before == {"Ask": 20, "Tell": 20}


@pytest.mark.parametrize("sampler", [RandomSampler(seed=0), TPESampler(seed=0, n_startup_trials=2)])
def test_a_tell_brings_the_next_trial(
    fake: FakeProxy, storage: FleetStorage, sampler: optuna.samplers.BaseSampler
) -> None:
    study = _study(storage, sampler)
    for _ in range(4):
        _run(study)
    before = fake.counts()
    trial_id = storage.ask(study._study_id)
    for number in range(4, 24):
        assert trial_id is not None
        study._thread_local.cached_all_trials = None
        trial = Trial(study, trial_id)
        assert trial.number == number
        x = trial.suggest_float("x", 0, 1)
        kept, trial_id = storage.tell_and_ask(trial_id, TrialState.COMPLETE, [x])
        assert kept
    assert fake.counts() - before == {"Ask": 1, "Tell": 20}
    fake.database.budget = len(fake.database.trials)
    assert trial_id is not None
    assert storage.tell_and_ask(trial_id, TrialState.COMPLETE, [0.0]) == (True, None)
    with pytest.raises(StudyEnded):
        storage.ask(study._study_id)


def test_a_parameter_new_to_the_process_is_sent_at_once(
    fake: FakeProxy, storage: FleetStorage
) -> None:
    _run(_study(storage, RandomSampler(seed=0)))
    assert [
        [param.name for param in request.update.params] for request in fake.requests("Report")
    ] == [["x"], ["n"], ["kind"]]
    assert not fake.requests("Tell")[0].update.params


def test_a_sampler_that_wants_history_gets_it_with_ask(
    fake: FakeProxy, storage: FleetStorage
) -> None:
    study = _study(storage, TPESampler(seed=0, n_startup_trials=2))
    _run(study)
    _run(study)
    before = fake.counts()
    for _ in range(20):
        _run(study)
    assert fake.counts() - before == {"Ask": 20, "Tell": 20}


@pytest.mark.parametrize("sampler", [RandomSampler(seed=0), TPESampler(seed=0)])
def test_a_pruners_decision_costs_one_report(
    fake: FakeProxy, storage: FleetStorage, sampler: optuna.samplers.BaseSampler
) -> None:
    study = _study(storage, sampler, MedianPruner(n_startup_trials=1))
    for _ in range(3):
        _run(study, steps=1)
    before = fake.counts()
    _run(study, steps=10)
    assert fake.counts() - before == {"Ask": 1, "Report": 10, "Tell": 1}
    # It compares with finished trials; which others run now is of no use to it.
    wanted = [request.history for request in fake.requests("Report") if request.HasField("history")]
    assert all(cursor.finished_only for cursor in wanted[-10:])


def test_a_workers_pruner_is_answered_without_a_call_for_a_while(
    fake: FakeProxy, storage: FleetStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    seen: list[int] = []

    class Seeing(MedianPruner):
        def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
            found = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            seen.append(len(found))
            return super().prune(study, trial)

    def objective(trial: Trial) -> float:
        for step in range(20):
            trial.report(step, step)
            assert not trial.should_prune()
        return 1.0

    def reports(late_s: float) -> int:
        monkeypatch.setattr("trialfleet.worker.worker_study._LATE_S", late_s)
        before = fake.counts()
        fake.database.budget += 4
        run_worker(storage, study_id, "", objective, RandomSampler(seed=0), Seeing())
        return (fake.counts() - before)["Report"]

    (study,) = fake.database.studies.values()
    monkeypatch.setattr(storage, "get_study_id_from_name", lambda _: study.study_id)
    fake.database.budget = 0
    assert reports(late_s=60) == 1  # none has read anything before the first
    # A trial comes with what finished before it: none of the worker's own is ever missing.
    assert seen == [0] * 20 + [1] * 20 + [2] * 20 + [3] * 20
    assert reports(late_s=0) == 80


def test_finished_trials_may_be_late(fake: FakeProxy, storage: FleetStorage) -> None:
    study = _study(storage, RandomSampler(seed=0))
    other = FleetStorage(fake.address)

    def found(late_s: float) -> list[int]:
        return [trial.number for trial in other.finished_trials(study._study_id, late_s)]

    _run(study)
    assert found(60) == [0]
    reads = fake.counts()["History"]
    _run(study)
    assert found(60) == [0]
    assert fake.counts()["History"] == reads
    assert found(0) == [0, 1]
    other.close()


def test_unfinished_trials_are_read_by_who_wants_them(
    fake: FakeProxy, storage: FleetStorage
) -> None:
    study = _study(storage, RandomSampler(seed=0), MedianPruner(n_startup_trials=1))
    _run(study, steps=1)
    first, second = storage.ask(study._study_id), storage.ask(study._study_id)
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    assert [trial.number for trial in finished] == [0]
    assert [trial._trial_id for trial in study.get_trials(deepcopy=False)][1:] == [first, second]
    other = FleetStorage(fake.address)
    assert [trial.number for trial in other.news(study._study_id)] == [0]
    running = other.get_all_trials(study._study_id, states=(TrialState.RUNNING,))
    assert [trial.number for trial in running] == [1, 2]
    other.close()


def test_each_finished_trial_is_sent_once(fake: FakeProxy, storage: FleetStorage) -> None:
    fake.part = 4
    study = _study(storage, RandomSampler(seed=0))
    for sent in range(1, 11):
        _run(study)
        assert [trial.number for trial in study.get_trials(deepcopy=False)] == list(range(sent))
        cursor = storage._core.histories.of(study._study_id).begin().cursor
        assert (cursor.trials, cursor.definitions) == (sent, 3)
    assert [r.cursor.trials for r in fake.requests("History")] == list(range(10))


def test_a_large_history_comes_in_parts(fake: FakeProxy, storage: FleetStorage) -> None:
    study = _study(storage, RandomSampler(seed=0))
    for _ in range(10):
        _run(study)
    fake.part = 3
    late = FleetStorage(fake.address)
    late._core.histories.of(study._study_id).wanted = True
    trial_id = late.ask(study._study_id)
    assert [t.number for t in late.get_all_trials(study._study_id)] == list(range(11))
    assert late.get_all_trials(study._study_id)[-1]._trial_id == trial_id
    late.close()


def test_copies_share_nothing(fake: FakeProxy, storage: FleetStorage) -> None:
    study = _study(storage, RandomSampler(seed=0))
    for _ in range(2):
        _run(study)
    late = FleetStorage(fake.address)
    first, second = late.get_all_trials(study._study_id)
    before = list(second.params)
    for trial in (first, *late.get_all_trials(study._study_id)):
        assert list(trial.distributions) == before
        trial.distributions.clear()
        trial.params.clear()
        trial.user_attrs["a"] = 1
    assert list(second.distributions) == list(second.params) == before
    assert "a" not in second.user_attrs
    late.close()


def test_news_are_given_once_in_the_order_seen(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    first, second = storage.ask(study_id), storage.ask(study_id)
    assert first is not None and second is not None
    storage.set_trial_state_values(second, TrialState.COMPLETE, [1.0])
    assert [trial.number for trial in storage.news(study_id)] == [1]
    storage.set_trial_state_values(first, TrialState.FAIL)
    assert [trial.number for trial in storage.news(study_id)] == [0]
    assert storage.news(study_id) == []


def test_compatibility_is_checked_without_a_call(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    trial_id = storage.ask(study_id)
    assert trial_id is not None
    storage.set_trial_param(trial_id, "x", 0.5, FloatDistribution(0, 1))
    storage.set_trial_param(trial_id, "kind", 1, CategoricalDistribution((True, False)))
    before = fake.counts()
    with pytest.raises(ValueError, match="log configuration"):
        storage.set_trial_param(trial_id, "x", 0.5, FloatDistribution(0.1, 1, log=True))
    with pytest.raises(ValueError, match="dynamic value space"):
        storage.set_trial_param(trial_id, "kind", 0, CategoricalDistribution(("a",)))
    # Equal to the first, but other values: kept as they were given.
    storage.set_trial_param(trial_id, "kind", 1, CategoricalDistribution((1, 0)))
    assert fake.counts() == before
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.0])
    assert "[1, 0]" in fake.requests("Tell")[0].update.params[0].distribution_json


def test_a_running_trial_is_read_without_a_call(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    trial_id = storage.ask(study_id)
    assert trial_id is not None
    before = fake.counts()
    storage.set_trial_user_attr(trial_id, "u", (1, {2: "3"}))
    storage.set_trial_system_attr(trial_id, "s", float("inf"))
    storage.set_trial_intermediate_value(trial_id, 3, 0.25)
    trial = storage.get_trial(trial_id)
    assert trial.user_attrs == {"u": [1, {"2": "3"}]}  # as it will be read back
    assert trial.system_attrs == {"s": float("inf")}
    assert trial.intermediate_values == {3: 0.25}
    assert storage.get_trial_id_from_study_id_trial_number(study_id, 0) == trial_id
    storage.set_trial_user_attr(trial_id, "u", None)
    assert trial.user_attrs["u"] == [1, {"2": "3"}]
    assert fake.counts() == before
    assert storage.get_all_trials(study_id)[0].user_attrs == {"u": None}

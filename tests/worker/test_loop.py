"""The loop as a function, in this process, over a real proxy."""

import gc
import logging
import signal
import threading
import uuid
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import GridSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from tests.client.proxies import Proxy
from trialfleet import names
from trialfleet.client import FleetStorage, StudyDefinition
from trialfleet.model import errors
from trialfleet.worker import surroundings
from trialfleet.worker.loop import End, Outcome, run_worker
from trialfleet.worker.watchdog import Watch


class Fleet:
    """A study, and the storage object of a worker that runs in this process."""

    def __init__(self, address: str) -> None:
        self.name = f"loop-{uuid.uuid4().hex}"
        self.tool = FleetStorage(address)
        self.storage = FleetStorage(address, study=self.name, worker=self.name)
        self.study_id = 0

    def define(self, **budget: Any) -> None:
        definition = StudyDefinition(self.name, [StudyDirection.MINIMIZE], **budget)
        self.study_id, _ = self.tool.ensure_study(definition)

    def run(self, objective: Any, **options: Any) -> Outcome:
        options.setdefault("sampler", RandomSampler(seed=1))
        options.setdefault("pruner", optuna.pruners.NopPruner())
        return run_worker(self.storage, self.study_id, self.name, objective, **options)

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.tool.get_all_trials(self.study_id)


@pytest.fixture
def fleet(proxy: Proxy) -> Iterator[Fleet]:
    made = Fleet(proxy.address)
    yield made
    made.storage.close()
    made.tool.close()


def test_the_outcome_of_a_study_that_ended(fleet: Fleet) -> None:
    fleet.define(trials=3)

    assert fleet.run(lambda trial: trial.number) == Outcome(
        End.STUDY_ENDED, names.ENDED_TRIALS, trials=3
    )


def test_an_exception_that_is_not_caught_is_raised_after_it_was_told(fleet: Fleet) -> None:
    fleet.define(trials=3)
    error = ValueError("mine")

    def objective(trial: Trial) -> float:
        if trial.number == 0:
            raise KeyError("caught")
        raise error

    with pytest.raises(ValueError, match="mine") as caught:
        fleet.run(objective, catch=(KeyError,))

    assert caught.value is error
    assert [trial.state for trial in fleet.trials] == [TrialState.FAIL] * 2


def test_a_pruned_trial_is_no_exception(fleet: Fleet) -> None:
    fleet.define(trials=1)

    def objective(trial: Trial) -> float:
        raise optuna.TrialPruned

    assert fleet.run(objective, catch=()).trials == 1
    assert fleet.trials[0].state is TrialState.PRUNED


def test_a_worker_is_asked_to_leave_from_another_thread(fleet: Fleet) -> None:
    fleet.define(trials=3)

    with Watch(fleet.storage, handle_signals=False) as watch:

        def objective(trial: Trial) -> float:
            asking = threading.Thread(target=watch.leave)
            asking.start()
            asking.join()
            while not watch.leaving:
                pass
            return 1.0

        assert fleet.run(objective, watch=watch) == Outcome(End.LEFT, trials=1)
    assert [trial.state for trial in fleet.trials] == [TrialState.COMPLETE]


def test_a_worker_that_leaves_while_it_tells_hands_the_next_trial_back(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.define(trials=3)
    with Watch(fleet.storage, handle_signals=False) as watch:
        tell = fleet.storage.tell_and_ask

        def leave_meanwhile(*args: Any) -> Any:
            watch.leave()
            while not watch.leaving:
                pass
            return tell(*args)

        monkeypatch.setattr(fleet.storage, "tell_and_ask", leave_meanwhile)
        assert fleet.run(lambda _: 1.0, watch=watch) == Outcome(End.LEFT, trials=1)
    assert [trial.state for trial in fleet.trials] == [TrialState.COMPLETE, TrialState.WAITING]


def test_the_objective_may_stop_the_study(fleet: Fleet) -> None:
    fleet.define(trials=10)

    def objective(trial: Trial) -> float:
        if trial.number == 2:
            trial.study.stop()
        return 1.0

    assert fleet.run(objective) == Outcome(End.STUDY_ENDED, names.ENDED_STOPPED, trials=3)


def test_a_lost_trial_of_a_grid_is_run_again(fleet: Fleet, proxy: Proxy) -> None:
    fleet.define(trials=100, retries=1)
    grid: dict[str, Sequence[Any]] = {"level": [1, 2]}
    other = FleetStorage(proxy.address, study=fleet.name, worker="other")
    lost = other.ask(fleet.study_id)
    assert lost is not None
    study = optuna.Study(fleet.name, other, GridSampler(grid))
    level = Trial(study, lost).suggest_int("level", 1, 2)
    other.get_all_trials(fleet.study_id)  # sends the parameter

    def objective(trial: Trial) -> float:
        if trial.number == 1:
            # Now the sampler takes the whole grid for visited, and stops.
            assert fleet.tool.give_up(worker="other", reason="NodeLost").requeued == (2,)
        return trial.suggest_int("level", 1, 2)

    stopped = Outcome(End.STUDY_ENDED, names.ENDED_STOPPED, trials=2)
    assert fleet.run(objective, sampler=GridSampler(grid)) == stopped
    assert [trial.value for trial in fleet.trials] == [None, 3 - level, level]
    other.close()


class _Failing(RandomSampler):
    def after_trial(self, *_: object) -> None:
        raise RuntimeError("no such state")


def test_a_sampler_that_fails_afterwards_loses_no_trial(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.define(trials=2)

    assert fleet.run(lambda trial: 1.0, sampler=_Failing()).trials == 2
    assert [trial.state for trial in fleet.trials] == [TrialState.COMPLETE] * 2
    assert "the sampler failed after trial 1: RuntimeError: no such state" in caplog.messages


def test_a_failed_trial_leaves_nothing_in_memory(fleet: Fleet) -> None:
    fleet.define(trials=2)
    models: list[weakref.ref[Any]] = []

    class Model:
        pass

    def objective(trial: Trial) -> float:
        assert all(model() is None for model in models)
        model = Model()
        models.append(weakref.ref(model))
        raise ValueError(trial.number)

    gc.disable()
    try:
        fleet.run(objective)
    finally:
        gc.enable()
    assert [trial.system_attrs[names.ATTR_MESSAGE][:13] for trial in fleet.trials] == [
        "ValueError: 0",
        "ValueError: 1",
    ]


def test_signals_are_as_before_when_the_worker_has_ended(fleet: Fleet) -> None:
    fleet.define(trials=1)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    with Watch(fleet.storage) as watch:
        fleet.run(lambda trial: 1.0, watch=watch, trial_timeout_s=100)

    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == len(threading.enumerate())
    assert all(thread.name != "trialfleet-watch" for thread in threading.enumerate())


def test_a_study_that_is_deleted_meanwhile(fleet: Fleet) -> None:
    fleet.define(trials=2)

    def objective(trial: Trial) -> float:
        fleet.tool.delete_study(fleet.study_id)
        return 1.0

    with pytest.raises(errors.NotFound):
        fleet.run(objective)


def test_a_refused_attribute_fails_its_trial_only(fleet: Fleet) -> None:
    fleet.define(trials=2)

    def objective(trial: Trial) -> float:
        if trial.number == 0:
            trial.set_user_attr("weights", object())
        return 1.0

    fleet.run(objective)

    failed, complete = fleet.trials
    assert failed.system_attrs[names.ATTR_MESSAGE].startswith(
        "TypeError: Object of type object is not JSON serializable (test_loop.py:"
    )
    assert complete.state is TrialState.COMPLETE


@pytest.mark.parametrize(
    ("study", "folder"), [("digits", "digits"), ("a/b", "a%2Fb"), ("..", "%2E%2E"), ("ä", "%C3%A4")]
)
def test_any_study_has_a_folder_of_its_own(tmp_path: Path, study: str, folder: str) -> None:
    made = surroundings.study_folder(tmp_path, study)

    assert made == tmp_path / folder
    assert made.is_dir()


def test_nothing_is_said_of_a_complete_trial(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.define(trials=1)
    with caplog.at_level(logging.INFO, "trialfleet"):
        fleet.run(lambda trial: 1.0)

    assert caplog.messages == []

"""A worker whose trials are brief: it has its next trial at hand, and the same comes of it."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import optuna
import pytest
from optuna.samplers import BaseSampler, CmaEsSampler, GridSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from tests.client.fake import FakeProxy
from tests.client.proxies import Proxy
from tests.proxy.running import eventually
from trialfleet import names
from trialfleet.client import FleetStorage, Goal, StudyDefinition
from trialfleet.worker.loop import End, Outcome, run_worker
from trialfleet.worker.watch import Watch

INVALID = grpc.StatusCode.INVALID_ARGUMENT


class Fleet:
    """A study, and a worker's storage object that counts what is told ahead."""

    def __init__(self, address: str, *, sequential: bool = True, **budget: Any) -> None:
        name = f"ahead-{uuid.uuid4().hex}"
        self.tool = FleetStorage(address)
        definition = StudyDefinition(name, [StudyDirection.MINIMIZE], **budget)
        self.study_id, _ = self.tool.ensure_study(definition)
        self.storage = FleetStorage(address, study=name, worker=name, sequential=sequential)
        assert self.storage.ordinal == 0
        self.name = name
        self.ahead = 0
        self.depths: list[int] = []
        tell_ahead = self.storage.tell_ahead

        def counting(
            trial_id: int,
            state: TrialState,
            values: Sequence[float] | None = None,
            *,
            depth: int = 1,
        ) -> int | None:
            following = tell_ahead(trial_id, state, values, depth=depth)
            self.ahead += following is not None
            self.depths.append(depth)
            return following

        self.storage.tell_ahead = counting  # type: ignore[method-assign]

    def run(self, objective: Any, sampler: BaseSampler | None = None, **options: Any) -> Outcome:
        return run_worker(
            self.storage,
            self.study_id,
            self.name,
            objective,
            sampler or RandomSampler(seed=1),
            optuna.pruners.NopPruner(),
            **options,
        )

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.tool.get_all_trials(self.study_id)

    def close(self) -> None:
        self.storage.close()
        self.tool.close()


Start = Callable[..., Fleet]


@pytest.fixture
def start(proxy: Proxy) -> Iterator[Start]:
    made: list[Fleet] = []

    def make(**options: Any) -> Fleet:
        made.append(Fleet(proxy.address, **options))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


@pytest.fixture(autouse=True)
def _always_brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no trial taken for a long one, nor handed back, because the test is slow."""
    monkeypatch.setattr("trialfleet.worker.loop._BRIEF_S", 60.0)
    monkeypatch.setattr("trialfleet.client.ahead._WAITING_S", 60.0)


def _objective(trial: Trial) -> float:
    x = trial.suggest_float("x", -1, 1)
    y = trial.suggest_float("y", -1, 1)
    if trial.number % 7 == 3:
        raise optuna.TrialPruned
    if trial.number % 7 == 5:
        raise ValueError("unlucky")
    trial.set_user_attr("seen", len(trial.study.get_trials(deepcopy=False)))
    return x * x + y


@pytest.mark.parametrize("sampler", [RandomSampler, TPESampler, CmaEsSampler])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_same_trials_as_without(start: Start, sampler: Any) -> None:
    found = []
    for sequential in (False, True):
        fleet = start(trials=60, sequential=sequential)
        outcome = fleet.run(_objective, sampler(seed=7), catch=(ValueError,))
        assert outcome == Outcome(End.STUDY_ENDED, names.ENDED_TRIALS, trials=60)
        found.append([(t.number, t.state, t.params, t.values) for t in fleet.trials])
    assert found[0] == found[1]
    assert fleet.ahead > 50


def test_a_trial_begins_after_five_brief_ones(start: Start) -> None:
    fleet = start(trials=40)
    fleet.run(lambda trial: trial.suggest_float("x", 0, 1))
    # Not the first five, nor the last, after which there is none at hand.
    assert fleet.ahead == 40 - 5 - 1


@pytest.mark.parametrize(("seconds", "depth"), [(0.0, 1), (1e9, 8)])
def test_the_briefer_they_are_the_more_are_on_their_way(
    start: Start, monkeypatch: pytest.MonkeyPatch, seconds: float, depth: int
) -> None:
    monkeypatch.setattr("trialfleet.worker.loop._AHEAD_S", seconds)
    fleet = start(trials=60)
    fleet.run(lambda trial: trial.suggest_float("x", 0, 1))
    assert set(fleet.depths) == {depth}
    assert fleet.tool.summary(fleet.study_id).counts.complete == 60


def test_long_trials_are_not_told_ahead(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trialfleet.worker.loop._BRIEF_S", 0.0)
    fleet = start(trials=20)
    fleet.run(lambda trial: trial.suggest_float("x", 0, 1))
    assert fleet.ahead == 0
    assert len(fleet.trials) == 20


@pytest.mark.parametrize(
    "budget",
    [{"goals": [Goal(0, 11.0)]}, {"failed_trials": 12, "trials": 100}],
    ids=["goal", "failed"],
)
def test_a_trial_that_ends_the_study_is_the_last(start: Start, budget: dict[str, Any]) -> None:
    fleet = start(**budget)

    def objective(trial: Trial) -> float:
        if "failed_trials" in budget:
            raise ValueError("unlucky")
        return 22.0 - trial.number

    fleet.run(objective)
    assert len(fleet.trials) == 12


def test_a_grid_is_tried_once(start: Start) -> None:
    fleet = start(trials=100)
    grid = {"x": list(range(5)), "y": list(range(4))}
    fleet.run(
        lambda trial: trial.suggest_int("x", 0, 4) + trial.suggest_int("y", 0, 3),
        GridSampler(grid, seed=1),
    )
    points = [(trial.params["x"], trial.params["y"]) for trial in fleet.trials]
    assert len(points) == len(set(points)) == 20


def test_a_worker_that_leaves_hands_back_what_it_had_at_hand(start: Start) -> None:
    fleet = start(trials=100)
    with Watch(fleet.storage, handle_signals=False) as watch:

        def objective(trial: Trial) -> float:
            if trial.number == 20:
                watch.leave()
                while not watch.leaving:
                    pass
            return 1.0

        assert fleet.run(objective, watch=watch) == Outcome(End.LEFT, trials=21)
    states = [trial.state for trial in fleet.trials]
    assert states[:21] == [TrialState.COMPLETE] * 21
    assert set(states[21:]) <= {TrialState.WAITING}
    assert fleet.ahead == 21 - 5 - 1


def test_a_worker_that_fails_loses_nothing_that_it_told(start: Start) -> None:
    fleet = start(trials=100)

    def objective(trial: Trial) -> float:
        if trial.number == 20:
            raise ValueError("mine")
        return 1.0

    with pytest.raises(ValueError, match="mine"):
        fleet.run(objective, catch=())
    fleet.storage.close()
    states = [trial.state for trial in fleet.trials]
    assert states[:21] == [TrialState.COMPLETE] * 20 + [TrialState.FAIL]
    assert set(states[21:]) <= {TrialState.WAITING}


def test_a_session_that_is_given_up_goes_on_with_another(start: Start) -> None:
    fleet = start(trials=40, retries=1)
    given_up: list[int] = []

    def objective(trial: Trial) -> float:
        if trial.number == 20 and not given_up:
            lost = fleet.tool.give_up(worker=fleet.name, reason="Evicted").lost
            given_up.extend(lost)
        return 1.0

    outcome = fleet.run(objective)
    assert outcome == Outcome(End.STUDY_ENDED, names.ENDED_TRIALS, trials=40)
    summary = fleet.tool.summary(fleet.study_id)
    assert (summary.counts.complete, summary.counts.lost) == (40, 1)
    assert len(given_up) == 1


@dataclass
class Refusing:
    """A study of thirty trials at a proxy in memory, which refuses the end of trial 20."""

    fake: FakeProxy
    storage: FleetStorage
    study_id: int

    def run(self, refuse: Callable[[], None]) -> list[FrozenTrial]:
        """Run the study, and return its trials; ``refuse`` is called in trial 20."""

        def objective(trial: Trial) -> float:
            if trial.number == 20:
                # The end of the one before is not the one to be refused.
                eventually(lambda: len(self.fake.database.finished) == 20)
                refuse()
            return 1.0

        sampler, pruner = RandomSampler(), optuna.pruners.NopPruner()
        outcome = run_worker(self.storage, self.study_id, "s", objective, sampler, pruner)
        assert outcome == Outcome(End.STUDY_ENDED, names.ENDED_TRIALS, trials=30)
        trials = self.storage.get_all_trials(self.study_id)
        states = [trial.state for trial in trials]
        assert states == [TrialState.COMPLETE] * 20 + [TrialState.FAIL] + [TrialState.COMPLETE] * 9
        return trials


@pytest.fixture
def refusing() -> Iterator[Refusing]:
    fake = FakeProxy()
    storage = FleetStorage(fake.address, sequential=True)
    fake.database.budget = 30
    yield Refusing(fake, storage, storage.create_new_study([StudyDirection.MINIMIZE], "s"))
    storage.close()
    fake.stop()


def test_a_trial_whose_end_is_refused_has_failed(refusing: Refusing) -> None:
    trials = refusing.run(lambda: refusing.fake.refuse("Tell", *[INVALID] * 2, details="not so"))

    assert "not so" in trials[20].system_attrs[names.ATTR_MESSAGE]


def test_the_trial_at_hand_is_run_although_the_one_before_is_refused(
    refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        monkeypatch.setattr("trialfleet.worker.loop._BRIEF_S", 0.0)  # it is told and waited for
        refusing.fake.refuse("Tell", INVALID, details="not so")

    refusing.run(refuse)

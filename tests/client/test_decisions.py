"""Reports that ask whether to prune: what is not known to be stored is sent again."""

from collections.abc import Callable

import optuna
import pytest
from optuna.pruners import MedianPruner, ThresholdPruner
from optuna.samplers import RandomSampler
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from tests.client.fake import UNAVAILABLE, FakeProxy
from trialfleet.client import FleetStorage
from trialfleet.model import errors
from trialfleet.wire.pruners import encode_pruner
from trialfleet.worker.worker_study import WorkerStudy

Connect = Callable[..., FleetStorage]

MINIMIZE = [StudyDirection.MINIMIZE]
PRUNER = encode_pruner(MedianPruner()) or ""


@pytest.fixture
def trial_id(storage: FleetStorage) -> int:
    return storage.ask(storage.create_new_study(MINIMIZE, "s")) or 0


def _sent(fake: FakeProxy, call: str = "Report") -> list[list[int]]:
    return [list(request.update.steps) for request in fake.requests(call)]


def _report(storage: FleetStorage, trial_id: int, step: int, value: float = 1.0) -> bool:
    storage.set_trial_intermediate_value(trial_id, step, value)
    return storage.should_prune(trial_id, PRUNER)


def test_the_answer_is_the_proxys(fake: FakeProxy, storage: FleetStorage, trial_id: int) -> None:
    assert not _report(storage, trial_id, 0)
    assert _report(storage, trial_id, 1, 101.0)
    decision = fake.requests("Report")[-1].decision
    assert (decision.pruner, list(decision.steps), list(decision.values)) == (
        PRUNER,
        [0, 1],
        [1.0, 101.0],
    )


def test_what_is_stored_is_sent_once(fake: FakeProxy, storage: FleetStorage, trial_id: int) -> None:
    for step in range(3):
        _report(storage, trial_id, step)
    assert _sent(fake) == [[0], [1], [2]]
    assert storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    assert _sent(fake, "Tell") == [[]]


def test_what_is_not_known_to_be_stored_is_sent_again(
    fake: FakeProxy, storage: FleetStorage, trial_id: int
) -> None:
    fake.writes = False
    for step in range(3):
        _report(storage, trial_id, step)
    assert _sent(fake) == [[0], [0, 1], [0, 1, 2]]
    fake.writes = True
    _report(storage, trial_id, 3)
    assert _sent(fake)[-1] == [0, 1, 2, 3]
    fake.writes = False
    _report(storage, trial_id, 4)
    assert storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    assert _sent(fake, "Tell") == [[4]]
    assert list(fake.database.trials[trial_id].steps) == [0, 1, 2, 3, 4]


def test_a_lost_answer_loses_nothing(fake: FakeProxy, connect: Connect) -> None:
    storage = connect(fake, patience_s=0)
    trial_id = storage.ask(storage.create_new_study(MINIMIZE)) or 0
    fake.refuse("Report", UNAVAILABLE)
    with pytest.raises(errors.StorageUnavailable):
        _report(storage, trial_id, 0)
    assert storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    assert _sent(fake, "Tell") == [[0]]


def test_attributes_are_flushed_beside(
    fake: FakeProxy, storage: FleetStorage, trial_id: int
) -> None:
    storage.set_trial_user_attr(trial_id, "a", 1)
    _report(storage, trial_id, 0)
    fake.wait_for("Report", 2)
    decided, flushed = fake.requests("Report")
    assert not decided.update.user_attrs
    assert [attribute.key for attribute in flushed.update.user_attrs] == ["a"]


def test_values_of_which_nothing_is_heard_are_sent_again(
    fake: FakeProxy, storage: FleetStorage, trial_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialfleet.client.buffer._STORED_WITHIN_S", 0.1)
    fake.writes = False
    _report(storage, trial_id, 0)
    fake.wait_for("Report", 2)
    assert _sent(fake) == [[0], [0]]


def test_a_trial_that_was_taken_away(fake: FakeProxy, storage: FleetStorage, trial_id: int) -> None:
    fake.database.fence(next(iter(fake.database.sessions)))
    with pytest.raises(errors.SessionGivenUp, match="trial 0 was taken away"):
        _report(storage, trial_id, 0)
    assert not storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])


def test_a_trial_of_another_client(fake: FakeProxy, storage: FleetStorage) -> None:
    with pytest.raises(KeyError, match="trial 7 does not run here"):
        storage.should_prune(7, PRUNER)


def _study(storage: FleetStorage, pruner: optuna.pruners.BasePruner) -> WorkerStudy:
    study_id = storage.create_new_study(MINIMIZE, "s")
    (study,) = storage.get_all_studies()
    assert study._study_id == study_id
    return WorkerStudy("s", storage, RandomSampler(seed=0), pruner)


def _begin(study: WorkerStudy) -> Trial:
    return study.begin(study.fleet.ask(study._study_id) or 0, {})


def test_a_worker_lets_the_proxy_decide(fake: FakeProxy, storage: FleetStorage) -> None:
    trial = _begin(_study(storage, MedianPruner()))
    assert not trial.should_prune()  # nothing was reported
    trial.report(101.0, 0)
    assert trial.should_prune()
    assert len(fake.requests("Report")) == 1
    assert not fake.counts()["History"]


def test_a_worker_that_asks_often_decides_itself(
    fake: FakeProxy, storage: FleetStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialfleet.worker.worker_study._LATE_S", 60.0)
    trial = _begin(_study(storage, MedianPruner()))
    for step in range(20):
        trial.report(1.0, step)
        assert not trial.should_prune()
    reports = fake.requests("Report")
    assert [request.HasField("decision") for request in reports] == [True] * 3 + [False]


def test_a_pruner_that_the_proxy_does_not_know(fake: FakeProxy, storage: FleetStorage) -> None:
    trial = _begin(_study(storage, ThresholdPruner(upper=1.0)))
    trial.report(2.0, 0)
    assert trial.should_prune()
    assert not any(request.HasField("decision") for request in fake.requests("Report"))

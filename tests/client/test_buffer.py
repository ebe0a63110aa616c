"""What a running trial gains reaches the proxy within a second, and in messages it takes."""

import threading
import time
from collections.abc import Callable

import grpc
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from tests.client.fake import UNAVAILABLE, FakeProxy
from trialfleet.client import FleetStorage
from trialfleet.client.buffer import RunningTrial
from trialfleet.model import errors

Connect = Callable[..., FleetStorage]

MINIMIZE = [StudyDirection.MINIMIZE]
X = FloatDistribution(0, 1)


def _trial_with_known_x(fake: FakeProxy, storage: FleetStorage) -> int:
    study_id = storage.create_new_study(MINIMIZE)
    first = storage.ask(study_id) or 0
    storage.set_trial_param(first, "x", 0.25, X)
    storage.set_trial_state_values(first, TrialState.COMPLETE, [1.0])
    return storage.ask(study_id) or 0


def test_a_parameter_is_sent_within_a_second_of_a_busy_objective(
    fake: FakeProxy, storage: FleetStorage
) -> None:
    trial_id = _trial_with_known_x(fake, storage)
    reports = fake.counts()["Report"]
    began = time.monotonic()
    storage.set_trial_param(trial_id, "x", 0.5, X)
    while fake.counts()["Report"] == reports:
        assert time.monotonic() < began + 1.0
        sum(range(1000))
    update = fake.requests("Report")[-1].update
    assert [(param.name, param.value) for param in update.params] == [("x", 0.5)]
    # It is not sent twice.
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    assert not fake.requests("Tell")[-1].update.params


def test_what_comes_while_a_flush_is_under_way_is_kept(
    fake: FakeProxy, storage: FleetStorage
) -> None:
    trial_id = _trial_with_known_x(fake, storage)
    reports = fake.counts()["Report"]
    released = threading.Event()
    fake.hold("Report", released)
    storage.set_trial_intermediate_value(trial_id, 0, 1.0)
    fake.wait_for("Report", reports + 1)
    # The objective is not kept waiting by a proxy that is slow to answer.
    storage.set_trial_intermediate_value(trial_id, 1, 2.0)
    storage.set_trial_param(trial_id, "x", 0.5, X)
    assert storage.get_trial(trial_id).intermediate_values == {0: 1.0, 1: 2.0}
    released.set()
    storage.set_trial_state_values(trial_id, TrialState.PRUNED, [2.0])
    assert list(fake.requests("Tell")[-1].update.steps) == [1]
    assert list(fake.database.trials[trial_id].steps) == [0, 1]


def test_a_flush_that_failed_is_made_again(fake: FakeProxy, storage: FleetStorage) -> None:
    trial_id = _trial_with_known_x(fake, storage)
    reports = fake.counts()["Report"]
    fake.refuse("Report", UNAVAILABLE)
    storage.set_trial_intermediate_value(trial_id, 0, 1.0)
    fake.wait_for("Report", reports + 2)
    assert list(fake.requests("Report")[-1].update.steps) == [0]
    first, second = (request.write.sequence for request in fake.requests("Report")[-2:])
    assert first < second


def test_what_the_storage_refuses_later_is_told_by_the_next_write(
    fake: FakeProxy, storage: FleetStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial_id = _trial_with_known_x(fake, storage)
    told = threading.Event()
    refuse = RunningTrial.refuse

    def refuse_and_tell(trial: RunningTrial, error: errors.InvalidInput) -> None:
        refuse(trial, error)
        told.set()

    monkeypatch.setattr(RunningTrial, "refuse", refuse_and_tell)
    fake.refuse("Report", grpc.StatusCode.INVALID_ARGUMENT, details="not so")
    storage.set_trial_user_attr(trial_id, "a", 1)
    assert told.wait(10)
    with pytest.raises(ValueError, match="not so"):
        storage.set_trial_user_attr(trial_id, "b", 1)
    # Told once; the trial goes on without what was refused.
    storage.set_trial_user_attr(trial_id, "b", 1)
    assert storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    assert [a.key for a in fake.requests("Tell")[-1].update.user_attrs] == ["b"]


def test_a_refused_parameter_is_not_set(fake: FakeProxy, storage: FleetStorage) -> None:
    trial_id = storage.ask(storage.create_new_study(MINIMIZE)) or 0
    storage.set_trial_user_attr(trial_id, "a", 1)
    fake.refuse("Report", grpc.StatusCode.INVALID_ARGUMENT, details="another kind")
    with pytest.raises(ValueError, match="another kind"):
        storage.set_trial_param(trial_id, "x", 0.5, X)
    assert storage.get_trial(trial_id).params == {}
    storage.set_trial_state_values(trial_id, TrialState.FAIL)
    told = fake.requests("Tell")[0].update
    assert ([a.key for a in told.user_attrs], list(told.params)) == (["a"], [])


def test_an_attribute_that_is_too_large(fake: FakeProxy, connect: Connect) -> None:
    fake.max_message_bytes = 100_000
    storage = connect(fake)
    study_id = storage.create_new_study(MINIMIZE)
    trial_id = storage.ask(study_id) or 0
    before = fake.counts()
    accepted = r"found 80\d\d\d bytes, accepted: up to 75000 bytes"
    with pytest.raises(errors.MessageTooLarge, match=f"^trial 0: user attribute 'm': {accepted}$"):
        storage.set_trial_user_attr(trial_id, "m", "x" * 80_000)
    with pytest.raises(errors.MessageTooLarge, match=f"^study 1: system attribute 'm': {accepted}"):
        storage.set_study_system_attr(study_id, "m", "x" * 80_000)
    template = create_trial(value=1.0, user_attrs={"s": 1, "m": "x" * 80_000})
    with pytest.raises(
        errors.MessageTooLarge,
        match=r"^new trial: found 80\d\d\d bytes, of which user attribute 'm' has 80\d\d\d, accept",
    ):
        storage.create_new_trial(study_id, template)
    assert fake.counts() == before
    assert storage.get_trial(trial_id).user_attrs == {}


def test_large_attributes_are_sent_one_by_one(fake: FakeProxy, connect: Connect) -> None:
    fake.max_message_bytes = 100_000
    storage = connect(fake)
    trial_id = storage.ask(storage.create_new_study(MINIMIZE)) or 0
    for key in "abc":
        storage.set_trial_user_attr(trial_id, key, "x" * 60_000)
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    sizes = [len(data) for name, data in fake.calls if name in ("Report", "Tell")]
    assert len(sizes) == 3
    assert max(sizes) < 100_000
    assert [a.key for a in fake.database.trials[trial_id].user_attrs] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "found"),
    [("x" * 513, "a name of 513 characters"), ("a\0b", "a NUL"), ("\ud800", "can't be encoded")],
)
def test_names_that_no_database_takes(
    fake: FakeProxy, storage: FleetStorage, name: str, found: str
) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    trial_id = storage.ask(study_id) or 0
    before = fake.counts()
    for write in (
        lambda: storage.create_new_study(MINIMIZE, name),
        lambda: storage.set_study_user_attr(study_id, name, 1),
        lambda: storage.set_trial_user_attr(trial_id, name, 1),
        lambda: storage.set_trial_param(trial_id, name, 0.5, X),
        lambda: storage.set_trial_user_attr(1, name, 1),
        lambda: storage.set_trial_param(1, name, 0.5, X),
        lambda: storage.create_new_trial(study_id, create_trial(value=1.0, user_attrs={name: 1})),
    ):
        with pytest.raises(ValueError, match=f"found .*{found.removeprefix('a ')}"):
            write()
    assert fake.counts() == before


def test_a_value_that_is_not_json(fake: FakeProxy, storage: FleetStorage) -> None:
    trial_id = storage.ask(storage.create_new_study(MINIMIZE)) or 0
    with pytest.raises(TypeError, match="not JSON serializable"):
        storage.set_trial_user_attr(trial_id, "a", object())
    assert storage.get_trial(trial_id).user_attrs == {}


@pytest.mark.parametrize("step", [-1, 2**31])
def test_steps_that_no_database_takes(storage: FleetStorage, step: int) -> None:
    trial_id = storage.ask(storage.create_new_study(MINIMIZE)) or 0
    with pytest.raises(ValueError, match=f"step: found {step}, accepted: 0 to 2147483647"):
        storage.set_trial_intermediate_value(trial_id, step, 1.0)


def test_a_trial_whose_study_was_deleted(fake: FakeProxy, storage: FleetStorage) -> None:
    trial_id = _trial_with_known_x(fake, storage)
    fake.refuse("Tell", grpc.StatusCode.NOT_FOUND, details="no such trial")
    with pytest.raises(KeyError, match="no such trial"):
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    other = storage.ask(1) or 0
    fake.refuse("Report", grpc.StatusCode.NOT_FOUND, details="no such trial")
    storage.set_trial_user_attr(other, "a", 1)
    with pytest.raises(KeyError, match="no such trial"):
        storage.get_all_trials(1)
    assert not storage.set_trial_state_values(other, TrialState.COMPLETE, [1.0])

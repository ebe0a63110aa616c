"""Calls that go wrong: sent again, elsewhere, or told."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from optuna.distributions import FloatDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import TrialState

from tests.client.fake import UNAVAILABLE, FakeProxy, Refused
from trialfleet.client import FleetStorage
from trialfleet.model import errors
from trialfleet.wire import background, methods
from trialfleet.wire.connection import Connection
from trialfleet.wire.credentials import Credentials

Connect = Callable[..., FleetStorage]
StartFake = Callable[..., FakeProxy]

MINIMIZE = [StudyDirection.MINIMIZE]


@pytest.mark.parametrize(
    "code",
    [
        UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
    ],
)
def test_the_same_request_is_sent_again(
    fake: FakeProxy, storage: FleetStorage, code: grpc.StatusCode
) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    fake.refuse("Ask", code, code)
    trial_id = storage.ask(study_id)
    sent = [data for name, data in fake.calls if name == "Ask"]
    assert len(sent) == 3
    assert len(set(sent)) == 1
    assert storage.get_trial(trial_id or 0).number == 0


def test_a_write_whose_answer_was_lost_is_applied_once(
    fake: FakeProxy, storage: FleetStorage
) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    fake.lose_answer("Ask")
    trial_id = storage.ask(study_id)
    assert trial_id is not None
    fake.lose_answer("Tell")
    assert storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    assert len(fake.database.trials) == 1
    assert fake.database.trials[trial_id].values == [1.0]


def test_another_proxy_takes_over_and_the_nearest_is_used_again(
    start_fake: StartFake, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialfleet.wire.connection._RETURN_S", 0.2)
    near = start_fake()
    far = start_fake(near.database)
    storage = connect(near, far)
    study_id = storage.create_new_study(MINIMIZE)
    near.stop()
    storage.ask(study_id)
    assert (near.counts()["Ask"], far.counts()["Ask"]) == (0, 1)
    back = start_fake(near.database, near.port)
    storage.ask(study_id)
    until = time.monotonic() + 10
    while not back.counts()["Ask"]:
        assert time.monotonic() < until
        storage.ask(study_id)
    asked = far.counts()["Ask"]
    storage.ask(study_id)
    assert far.counts()["Ask"] == asked
    numbers = [trial.number for trial in storage.get_all_trials(study_id)]
    assert numbers == list(range(len(near.database.trials)))


def test_history_starts_anew_with_another_proxy(start_fake: StartFake, connect: Connect) -> None:
    near = start_fake()
    far = start_fake(near.database)
    storage = connect(near, far)
    study_id = storage.create_new_study(MINIMIZE)
    for _ in range(3):
        storage.set_trial_state_values(storage.ask(study_id) or 0, TrialState.COMPLETE, [1.0])
    assert [trial.number for trial in storage.news(study_id)] == [0, 1, 2]
    near.stop()
    storage.set_trial_state_values(storage.ask(study_id) or 0, TrialState.COMPLETE, [1.0])
    assert [trial.number for trial in storage.get_all_trials(study_id)] == [0, 1, 2, 3]
    assert [trial.number for trial in storage.news(study_id)] == [3]


def test_patience_ends(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    storage = connect(_Nowhere(), patience_s=0.5)
    began = time.monotonic()
    with (
        caplog.at_level(logging.WARNING, "trialfleet"),
        pytest.raises(errors.StorageUnavailable, match=r"within 0\.5 s at 127\.0\.0\.1:9: UNAV"),
    ):
        storage.get_all_studies()
    assert 0.5 <= time.monotonic() - began < 5
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_proxy_that_does_not_answer_is_left(
    start_fake: StartFake, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = start_fake()
    other = start_fake(silent.database)
    storage = connect(silent, other)
    study_id = storage.create_new_study(MINIMIZE)
    monkeypatch.setattr("trialfleet.client.running.CALL_S", 0.3)
    released = threading.Event()
    silent.hold("Ask", released)
    assert storage.ask(study_id, wait_s=0) is not None
    released.set()
    assert other.counts()["Ask"] == 1


def test_a_trial_that_may_have_been_opened_is_asked_for_again(
    fake: FakeProxy, connect: Connect
) -> None:
    storage = connect(fake, patience_s=0)
    study_id = storage.create_new_study(MINIMIZE)
    fake.lose_answer("Ask")
    with pytest.raises(errors.StorageUnavailable):
        storage.ask(study_id)
    trial_id = storage.ask(study_id)
    assert [trial.trial_id for trial in fake.database.trials.values()] == [trial_id]
    fake.lose_answer("CreateTrial")
    with pytest.raises(errors.StorageUnavailable):
        storage.create_new_trial(study_id)
    second = storage.create_new_trial(study_id)
    assert list(fake.database.trials) == [trial_id, second]


def test_a_tell_whose_answer_was_lost_brings_the_trial_that_it_opened(
    fake: FakeProxy, connect: Connect
) -> None:
    storage = connect(fake)
    study_id = storage.create_new_study(MINIMIZE)
    first = storage.ask(study_id) or 0
    fake.lose_answer("Tell")
    kept, second = storage.tell_and_ask(first, TrialState.COMPLETE, [1.0])
    assert kept
    assert len(fake.database.trials) == 2
    # A client that gave up on the tell before it was answered.
    impatient = connect(fake, patience_s=0.0)
    third = impatient.ask(study_id) or 0
    fake.lose_answer("Tell")
    with pytest.raises(errors.StorageUnavailable):
        impatient.tell_and_ask(third, TrialState.COMPLETE, [1.0])
    kept, fourth = impatient.tell_and_ask(third, TrialState.COMPLETE, [1.0])
    assert kept
    assert (second, fourth) == (first + 1, first + 3)
    assert len(fake.database.trials) == 4


def test_a_tell_that_is_refused_loses_no_trial(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    first = storage.ask(study_id) or 0

    def apply_next_only(_: Callable[[], Any]) -> Any:
        fake._once("Ask", fake.requests("Tell")[-1].next)
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "not so")

    fake._faults.append(("Tell", apply_next_only))
    with pytest.raises(ValueError, match="not so"):
        storage.tell_and_ask(first, TrialState.COMPLETE, [1.0])
    assert storage.set_trial_state_values(first, TrialState.FAIL)
    assert storage.ask(study_id) == first + 1
    assert len(fake.database.trials) == 2


def test_what_was_not_acknowledged_is_kept(fake: FakeProxy, connect: Connect) -> None:
    storage = connect(fake, patience_s=0)
    trial_id = storage.ask(storage.create_new_study(MINIMIZE)) or 0
    storage.set_trial_param(trial_id, "x", 0.5, FloatDistribution(0, 1))
    storage.set_trial_user_attr(trial_id, "a", 1)
    fake.refuse("Tell", UNAVAILABLE)
    with pytest.raises(errors.StorageUnavailable):
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    storage.set_trial_user_attr(trial_id, "b", 2)
    fake.refuse("Report", UNAVAILABLE)
    with pytest.raises(errors.StorageUnavailable):
        storage.set_trial_param(trial_id, "y", 0.5, FloatDistribution(0, 1))
    assert list(storage.get_trial(trial_id).params) == ["x"]
    assert storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    told = fake.requests("Tell")[-1].update
    assert [attribute.key for attribute in told.user_attrs] == ["a", "b"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, KeyError),
        (grpc.StatusCode.ALREADY_EXISTS, DuplicatedStudyError),
        (grpc.StatusCode.FAILED_PRECONDITION, UpdateFinishedTrialError),
        (grpc.StatusCode.INVALID_ARGUMENT, ValueError),
        (grpc.StatusCode.INTERNAL, errors.TrialfleetError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.TrialfleetError),
    ],
)
def test_an_error_is_told_at_once(
    fake: FakeProxy, storage: FleetStorage, code: grpc.StatusCode, kind: type[Exception]
) -> None:
    fake.refuse("CreateStudy", code, details="so it is")
    with pytest.raises(kind, match="so it is"):
        storage.create_new_study(MINIMIZE)
    assert fake.counts()["CreateStudy"] == 1


def test_a_budget_that_is_used_up_gives_its_reason(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    ended = errors.StudyEnded("GoalReached")
    fake.refuse("CreateTrial", grpc.StatusCode.OUT_OF_RANGE, details=str(ended))
    with pytest.raises(errors.StudyEnded) as raised:
        storage.create_new_trial(study_id)
    assert raised.value.reason == "GoalReached"
    fake.database.budget = 0
    with pytest.raises(errors.StudyEnded) as raised:
        storage.ask(study_id)
    assert raised.value.reason == "TrialsComplete"


def test_what_grpc_finds_too_large_is_not_sent_again(
    fake: FakeProxy, storage: FleetStorage
) -> None:
    fake.refuse(
        "ListStudies",
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        details="CLIENT: Received message larger than max (9 vs. 4)",
    )
    with pytest.raises(errors.MessageTooLarge, match="larger than max"):
        storage.get_all_studies()


def test_a_message_larger_than_the_proxys_limit_is_not_sent(fake: FakeProxy) -> None:
    connection = Connection([fake.address], 1.0, Credentials())
    connection.max_message_bytes = 10
    with pytest.raises(errors.MessageTooLarge, match="11 bytes, accepted: up to 10 bytes"):
        background.run(connection.call(methods.SUMMARY, b"x" * 11))
    background.run(connection.close())
    assert not fake.calls


@pytest.mark.parametrize(
    "endpoints", ["", "host", "host:", ":1", "host:0", "host:70000", "host:1,", "host:a"]
)
def test_endpoints_are_checked(endpoints: str) -> None:
    with pytest.raises(errors.InvalidInput, match=r"endpoints: found .*, accepted: HOST:PORT"):
        FleetStorage(endpoints)


def test_endpoints_in_one_string() -> None:
    assert FleetStorage("a:1, [::1]:2")._settings["addresses"] == ["a:1", "[::1]:2"]


class _Nowhere:
    address = "127.0.0.1:9"

"""A worker's calls over a stream: one is enough, and whatever ends it loses nothing."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import grpc
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from tests.client.fake import FakeProxy
from trialfleet.client import FleetStorage
from trialfleet.model.errors import StorageUnavailable

MINIMIZE = [StudyDirection.MINIMIZE]

Connect = Callable[..., FleetStorage]


def _run(storage: FleetStorage, study_id: int, value: float = 1.0) -> None:
    trial_id = storage.ask(study_id) or 0
    storage.set_trial_param(trial_id, "x", 0.5, FloatDistribution(0, 1))
    assert storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [value])


def _values(fake: FakeProxy) -> list[float]:
    return [trial.values[0] for trial in fake.database.trials.values()]


def test_all_calls_of_a_worker_go_over_one_stream(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    for value in range(5):
        _run(storage, study_id, value)
    assert _values(fake) == [0, 1, 2, 3, 4]
    assert fake.counts()["Tell"] == 5
    assert fake.counts()["Report"] == 1  # it introduces the parameter
    assert fake.streams == 1


def test_threads_share_a_stream(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    _run(storage, study_id)
    first, second = storage.ask(study_id) or 0, storage.ask(study_id) or 0
    go_on = threading.Event()
    fake.hold("Tell", go_on)
    held = threading.Thread(
        target=storage.set_trial_state_values, args=(first, TrialState.COMPLETE, [2.0])
    )
    held.start()
    fake.wait_for("Tell", 2)
    assert storage.set_trial_state_values(second, TrialState.COMPLETE, [3.0])
    go_on.set()
    held.join()
    assert _values(fake) == [1, 2, 3]
    assert fake.streams == 1


def test_a_stream_that_ended_while_idle_is_replaced_at_the_same_proxy(
    start_fake: Callable[..., FakeProxy], connect: Connect
) -> None:
    near, far = start_fake(), start_fake()
    far.database = near.database
    storage = connect(near, far)
    study_id = storage.create_new_study(MINIMIZE)
    _run(storage, study_id)
    near.stop()
    again = start_fake(near.database, near.port)
    _run(storage, study_id)
    assert again.counts()["Tell"] == 1
    assert not far.calls


def test_an_answer_that_is_lost_with_its_stream(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    _run(storage, study_id, 1)
    fake.lose_answer("Tell")
    _run(storage, study_id, 2)
    first, second = (request.write for request in fake.requests("Tell")[-2:])
    assert first == second
    assert _values(fake) == [1, 2]
    assert fake.database.finished == [101, 102]


def test_an_error_ends_the_call_as_it_would_alone(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    trial_id = storage.ask(study_id) or 0
    fake.refuse("Tell", grpc.StatusCode.INVALID_ARGUMENT, details="values: found none")
    with pytest.raises(ValueError, match=r"^values: found none$"):
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    assert storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])


def test_a_proxy_that_does_not_answer(
    fake: FakeProxy, storage: FleetStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    monkeypatch.setattr("trialfleet.client.running.CALL_S", 0.3)
    go_on = threading.Event()
    fake.hold("Ask", go_on)
    # The proxy may be gone: the request is sent again, over another connection.
    assert storage.ask(study_id, wait_s=0) is not None
    assert fake.streams == 2
    go_on.set()


def test_a_storage_that_is_closed_in_the_middle_of_a_call(
    fake: FakeProxy, connect: Connect
) -> None:
    storage = connect(fake)
    study_id = storage.create_new_study(MINIMIZE)
    go_on = threading.Event()
    fake.hold("Ask", go_on)
    found: list[BaseException] = []

    def call() -> None:
        try:
            storage.ask(study_id)
        except StorageUnavailable as error:
            found.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    fake.wait_for("Ask")
    storage.close()
    thread.join()
    go_on.set()
    assert str(found[0]) == "the storage was closed"


def test_an_interrupt_in_the_middle_of_a_call(
    fake: FakeProxy, storage: FleetStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    go_on = threading.Event()
    fake.hold("Ask", go_on)
    with monkeypatch.context() as patch:

        def interrupt(_: Future[Any]) -> None:
            fake.wait_for("Ask")
            raise KeyboardInterrupt

        # Ctrl-C, while the answer is awaited.
        patch.setattr(Future, "result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            storage.ask(study_id)
    go_on.set()
    # The request that was interrupted is made again, and its answer is not taken for another's.
    trial_id = storage.ask(study_id)
    assert [trial.trial_id for trial in fake.database.trials.values()] == [trial_id]


def test_a_request_that_is_larger_than_any_window(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    trial_id = storage.ask(study_id) or 0
    text = "x" * 4_000_000
    storage.set_trial_user_attr(trial_id, "k", text)
    assert storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    (request,) = fake.requests("Tell")
    assert json.loads(request.update.user_attrs[0].value_json) == text

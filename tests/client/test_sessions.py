"""The life of a session: opened, kept alive, given up, closed."""

import logging
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import grpc
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from tests.client.fake import FakeProxy
from trialfleet.client import FleetStorage
from trialfleet.client.session import Session
from trialfleet.model import errors
from trialfleet.wire import background

Connect = Callable[..., FleetStorage]
StartFake = Callable[..., FakeProxy]

MINIMIZE = [StudyDirection.MINIMIZE]


def _sessions(fake: FakeProxy) -> list[bytes]:
    return list(fake.database.sessions)


def test_it_is_opened_at_the_first_write(fake: FakeProxy, connect: Connect) -> None:
    storage = connect(fake, worker="w", study="s", time_to_live_s=7.0)
    storage.get_all_studies()
    assert storage.study_id is None
    assert _sessions(fake) == []
    storage.create_new_study(MINIMIZE)
    (request,) = fake.requests("OpenSession")
    assert len(request.session) == 16
    assert (request.worker, request.study, request.time_to_live_s) == ("w", "s", 7.0)
    assert storage.ordinal == 0
    assert connect(fake).ordinal == 1


def test_it_is_kept_alive(fake: FakeProxy, connect: Connect) -> None:
    assert connect(fake, time_to_live_s=0.8).ordinal == 0
    fake.wait_for("KeepAlive", 3)


def test_who_opens_trials_need_not_say_that_it_lives(
    fake: FakeProxy, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = connect(fake, time_to_live_s=3600.0)
    study_id = storage.create_new_study(MINIMIZE)
    sessions = storage._core.sessions
    keep_alive = sessions.keep_alive

    async def nothing() -> None: ...

    monkeypatch.setattr(sessions, "keep_alive", nothing)  # of the background task
    session = sessions.current()
    trial_id: int | None = None
    for _ in range(3):
        session.alive_at -= 3600.0
        if trial_id is None:
            trial_id = storage.ask(study_id)
        else:
            _, trial_id = storage.tell_and_ask(trial_id, TrialState.COMPLETE, [1.0])
        assert trial_id is not None
        background.run(keep_alive())
    assert not fake.requests("KeepAlive")
    session.alive_at -= 3600.0
    storage.set_trial_state_values(trial_id or 0, TrialState.COMPLETE, [1.0])
    for _ in range(3):
        background.run(keep_alive())
    assert len(fake.requests("KeepAlive")) == 1


def test_writes_have_growing_numbers(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    trial_id = storage.ask(study_id) or 0
    storage.set_trial_param(trial_id, "x", 0.5, FloatDistribution(0, 1))
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    writes = [
        fake.requests(call)[0].write.sequence for call in ("CreateStudy", "Ask", "Report", "Tell")
    ]
    assert writes == [1, 2, 3, 4]


def test_an_asking_worker_that_was_given_up_begins_another(
    fake: FakeProxy, storage: FleetStorage
) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    first = storage.ask(study_id) or 0
    fake.database.fence(_sessions(fake)[0])
    second = storage.ask(study_id) or 0
    assert len(_sessions(fake)) == 2
    assert storage.set_trial_state_values(second, TrialState.COMPLETE, [1.0])
    # The first trial is nobody's here any more.
    assert storage._core.running.get(first) is None


def test_a_refused_write_begins_another(fake: FakeProxy, storage: FleetStorage) -> None:
    storage.create_new_study(MINIMIZE)
    fake.database.fence(_sessions(fake)[0])
    storage.create_new_study(MINIMIZE, "again")
    assert len(_sessions(fake)) == 2
    assert len(fake.database.studies) == 2


def test_sessions_that_are_all_refused(fake: FakeProxy, storage: FleetStorage) -> None:
    fake.refuse("CreateStudy", *[grpc.StatusCode.ABORTED] * 3)
    with pytest.raises(errors.SessionGivenUp, match="3 sessions"):
        storage.create_new_study(MINIMIZE)


def test_a_result_of_a_trial_taken_away_is_dropped(
    fake: FakeProxy, storage: FleetStorage, caplog: pytest.LogCaptureFixture
) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    trial_id = storage.ask(study_id) or 0
    fake.database.fence(_sessions(fake)[0])
    with caplog.at_level(logging.INFO, "trialfleet"):
        assert not storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    assert "trial 0 was taken away before it ended: dropped" in caplog.messages
    assert storage.get_trial(trial_id).state == TrialState.RUNNING  # as the storage has it
    assert storage.ask(study_id) is not None


def test_a_report_of_a_trial_taken_away(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    trial_id = storage.ask(study_id) or 0
    storage.set_trial_intermediate_value(trial_id, 0, 1.0)
    fake.database.fence(_sessions(fake)[0])
    storage.get_all_trials(study_id)
    with pytest.raises(errors.SessionGivenUp, match="trial 0 was taken away"):
        storage.set_trial_intermediate_value(trial_id, 1, 1.0)
    with pytest.raises(errors.SessionGivenUp):
        storage.set_trial_user_attr(trial_id, "a", 1)
    with pytest.raises(errors.SessionGivenUp):
        storage.set_trial_system_attr(trial_id, "a", 1)
    with pytest.raises(errors.SessionGivenUp):
        storage.set_trial_param(trial_id, "x", 0.5, FloatDistribution(0, 1))
    before = fake.counts()
    assert not storage.set_trial_state_values(trial_id, TrialState.FAIL)
    assert fake.counts() == before


def test_a_new_parameter_of_a_trial_taken_away(fake: FakeProxy, storage: FleetStorage) -> None:
    trial_id = storage.ask(storage.create_new_study(MINIMIZE)) or 0
    fake.database.fence(_sessions(fake)[0])
    with pytest.raises(errors.SessionGivenUp):
        storage.set_trial_param(trial_id, "x", 0.5, FloatDistribution(0, 1))


def test_keep_alive_notices_that_it_was_given_up(
    fake: FakeProxy, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = connect(fake, time_to_live_s=0.8)
    study_id = storage.create_new_study(MINIMIZE)
    trial_id = storage.ask(study_id) or 0
    noticed = threading.Event()
    sessions = storage._core.sessions
    forget = sessions.forget

    def forget_and_tell(session: Session) -> None:
        forget(session)
        noticed.set()

    monkeypatch.setattr(sessions, "forget", forget_and_tell)
    fake.database.fence(_sessions(fake)[0])
    assert noticed.wait(10)
    with pytest.raises(errors.SessionGivenUp):
        storage.set_trial_user_attr(trial_id, "a", 1)


def test_hand_back(fake: FakeProxy, storage: FleetStorage) -> None:
    trial_id = storage.ask(storage.create_new_study(MINIMIZE)) or 0
    storage.set_trial_user_attr(trial_id, "a", 1)
    storage.hand_back(trial_id)
    assert storage.get_trial(trial_id).state == TrialState.WAITING
    assert storage.get_trial(trial_id).user_attrs == {"a": 1}
    with pytest.raises(errors.NotFound, match=f"trial {trial_id} does not run here"):
        storage.hand_back(trial_id)


def test_close_sends_what_is_unsent_and_ends_all(fake: FakeProxy, connect: Connect) -> None:
    storage = connect(fake)
    study_id = storage.create_new_study(MINIMIZE)
    trial_id = storage.ask(study_id) or 0
    storage.set_trial_user_attr(trial_id, "a", 1)
    keeping = storage._core._keeping
    storage.close()
    assert fake.counts() == {
        "OpenSession": 1,
        "CreateStudy": 1,
        "Ask": 1,
        "Report": 1,
        "CloseSession": 1,
    }
    assert keeping is not None and keeping.done()
    storage.close()
    with pytest.raises(errors.StorageUnavailable, match="the storage was closed"):
        storage.get_all_studies()


def test_close_does_not_wait_for_a_proxy(start_fake: StartFake, connect: Connect) -> None:
    fake = start_fake()
    storage = connect(fake, patience_s=600)
    study_id = storage.create_new_study(MINIMIZE)
    storage.set_trial_user_attr(storage.ask(study_id) or 0, "a", 1)
    fake.stop()
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            storage.ask(study_id)
        except errors.StorageUnavailable as error:
            raised.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    began = time.monotonic()
    storage.close()
    asking.join(10)
    assert time.monotonic() - began < 5
    assert raised


def test_close_does_not_wait_for_an_ask_that_is_held(fake: FakeProxy, connect: Connect) -> None:
    storage = connect(fake)
    study_id = storage.create_new_study(MINIMIZE)
    released = threading.Event()
    fake.hold("Ask", released)
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            storage.ask(study_id)
        except errors.StorageUnavailable as error:
            raised.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    fake.wait_for("Ask")
    storage.close()
    asking.join(10)
    released.set()
    assert raised


def test_a_storage_that_is_dropped_is_closed(fake: FakeProxy) -> None:
    storage = FleetStorage(fake.address)
    assert storage.ordinal == 0
    core = storage._core
    del storage
    fake.wait_for("CloseSession")
    core.close()
    assert core._keeping is not None and core._keeping.done()


def test_a_process_that_ends_closes_its_session(fake: FakeProxy) -> None:
    code = f"""
from trialfleet.client import FleetStorage
from optuna.study import StudyDirection
storage = FleetStorage({fake.address!r})
storage.ask(storage.create_new_study([StudyDirection.MINIMIZE]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert fake.counts()["CloseSession"] == 1


def test_a_pickled_copy_has_a_session_of_its_own(fake: FakeProxy, connect: Connect) -> None:
    storage = connect(fake, worker="w", study="s", time_to_live_s=7.0, patience_s=3.0)
    study_id = storage.create_new_study(MINIMIZE)
    trial_id = storage.ask(study_id) or 0
    copy = pickle.loads(pickle.dumps(storage))
    try:
        # Its end says nothing of the worker.
        assert copy._settings == {**storage._settings, "worker": ""}
        assert copy.get_trial(trial_id)._trial_id == trial_id
        copy.create_new_study(MINIMIZE)
        assert len(_sessions(fake)) == 2
    finally:
        copy.close()


@pytest.mark.parametrize(
    ("option", "value"),
    [("time_to_live_s", 0.0), ("patience_s", -1.0), ("patience_s", float("nan"))],
)
def test_times_are_checked(option: str, value: float) -> None:
    with pytest.raises(errors.InvalidInput, match=rf"{option}: found .*, accepted: "):
        FleetStorage("host:1", **{option: value})  # type: ignore[arg-type]

"""Trials that are told, and asked for, without waiting for the answer."""

import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from tests.client.fake import UNAVAILABLE, FakeProxy
from trialfleet.client import FleetStorage
from trialfleet.model.errors import StorageUnavailable

Connect = Callable[..., FleetStorage]

COMPLETE = TrialState.COMPLETE
PARAM = FloatDistribution(0, 1)


@pytest.fixture(autouse=True)
def _no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no trial handed back because the test is slow."""
    monkeypatch.setattr("trialfleet.client.ahead._WAITING_S", 60.0)


@pytest.fixture
def storage(fake: FakeProxy, connect: Connect) -> FleetStorage:
    """A storage object whose trials run one after the other."""
    return connect(fake, sequential=True)


def _begin(storage: FleetStorage) -> tuple[int, int]:
    """Return a study's id and that of a running trial; another trial is at hand."""
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    trial_id = storage.ask(study_id)
    assert trial_id is not None
    storage.ask_ahead(study_id)
    assert all(heard.kept for heard in storage.settle())
    return study_id, trial_id


def _states(fake: FakeProxy) -> list[int]:
    return [trial.state for trial in fake.database.trials.values()]


def test_the_answer_is_not_waited_for(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id, first = _begin(storage)
    released = threading.Event()
    fake.hold("Tell", released)
    storage.set_trial_param(first, "x", 0.5, PARAM)
    second = storage.tell_ahead(first, COMPLETE, [2.0])
    assert second == first + 1
    assert storage.next_ahead() is None
    # As a sampler sees it, the trial has ended.
    for states in (None, [COMPLETE]):
        seen = storage.get_all_trials(study_id, states=states)[0]
        assert (seen.state, seen.value, seen.params) == (COMPLETE, 2.0, {"x": 0.5})
    assert [trial.value for trial in storage.finished_trials(study_id, 9.0)] == [2.0]
    assert storage.get_trial(first).state is COMPLETE
    fake.wait_for("Tell")
    released.set()
    assert all(heard.kept for heard in storage.settle())
    assert [trial.value for trial in storage.get_all_trials(study_id, states=[COMPLETE])] == [2.0]
    assert storage.next_ahead() == second + 1
    assert fake.streams == 1


def test_an_end_that_did_not_come_with_the_answer_is_read(
    fake: FakeProxy, storage: FleetStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_id, first = _begin(storage)
    storage.get_all_trials(study_id, states=[COMPLETE])  # from now on trials come with them
    assert all(heard.kept for heard in storage.settle())
    second = storage.tell_ahead(first, COMPLETE, [1.0])
    assert second is not None
    assert all(heard.kept for heard in storage.settle())
    # The budget is used up: the answer brings no trial, and so no history.
    fake.database.budget = len(fake.database.trials)
    third = storage.tell_ahead(second, COMPLETE, [2.0])
    assert third is not None
    monkeypatch.setattr("trialfleet.client.ahead._WAITING_S", 0.0)
    fake.wait_for("Tell", 2)
    storage._core.ahead.hand_back_old(10.0)  # as the background thread does; it hears the answer
    assert not storage._core.running._unheard
    seen = storage.get_all_trials(study_id, states=[COMPLETE])
    assert [trial.value for trial in seen] == [1.0, 2.0]


def test_a_trial_costs_one_call(fake: FakeProxy, storage: FleetStorage) -> None:
    _, trial_id = _begin(storage)
    for k in range(20):
        assert all(heard.kept for heard in storage.settle())
        trial_id = storage.tell_ahead(trial_id, COMPLETE, [k]) or 0
    assert all(heard.kept for heard in storage.settle())
    assert fake.counts()["Tell"] == 20
    assert fake.counts()["Ask"] == 2
    assert fake.streams == 1
    assert [list(t.values) for t in fake.database.trials.values()][:20] == [[k] for k in range(20)]


def test_no_trial_at_hand(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    trial_id = storage.ask(study_id) or 0
    assert storage.tell_ahead(trial_id, COMPLETE, [1.0]) is None
    fake.database.budget = 1
    storage.ask_ahead(study_id)
    assert storage.tell_ahead(trial_id, COMPLETE, [1.0]) is None
    assert all(heard.kept for heard in storage.settle())
    assert storage.tell_ahead(trial_id, COMPLETE, [1.0]) is None
    assert storage.get_trial(trial_id).state is TrialState.RUNNING
    assert storage.set_trial_state_values(trial_id, COMPLETE, [1.0])


@pytest.mark.parametrize("fault", ["lost", "refused", "both"])
def test_a_tell_that_gets_no_answer_is_sent_again(
    fake: FakeProxy, storage: FleetStorage, fault: str
) -> None:
    _, first = _begin(storage)
    if fault != "lost":
        fake.refuse("Tell", UNAVAILABLE)
    if fault != "refused":
        fake.lose_answer("Tell")
    assert storage.tell_ahead(first, COMPLETE, [1.0]) == first + 1
    assert all(heard.kept for heard in storage.settle())
    assert storage.next_ahead() == first + 2
    assert len(fake.database.trials) == 3
    assert fake.database.finished == [first]


def test_a_proxy_that_is_gone_when_a_trial_is_told(
    start_fake: Callable[..., FakeProxy], connect: Connect
) -> None:
    near = start_fake()
    far = start_fake(near.database)
    storage = connect(near, far, sequential=True)
    _, first = _begin(storage)
    near.stop()
    assert storage.tell_ahead(first, COMPLETE, [1.0])
    assert all(heard.kept for heard in storage.settle())
    assert far.database.finished == [first]
    assert storage.next_ahead() == first + 2


def test_a_trial_whose_end_is_refused_runs_again(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id, first = _begin(storage)
    storage.set_trial_user_attr(first, "a", 1)
    fake.refuse("Tell", *[grpc.StatusCode.INVALID_ARGUMENT] * 2, details="not so")
    assert storage.tell_ahead(first, COMPLETE, [1.0])
    (heard,) = storage.settle()
    assert (heard.trial_id, heard.kept) == (first, False)
    assert isinstance(heard.refusal, ValueError)
    assert str(heard.refusal) == "not so"
    trial = storage.get_trial(first)
    assert (trial.state, trial.value, trial.datetime_complete) == (TrialState.RUNNING, None, None)
    assert all(heard.kept for heard in storage.settle())
    assert storage.set_trial_state_values(first, TrialState.FAIL)
    assert [a.key for a in fake.database.trials[first].user_attrs] == ["a"]
    assert storage.ask(study_id) == first + 2


def test_a_proxy_that_stays_away(fake: FakeProxy, connect: Connect) -> None:
    storage = connect(fake, sequential=True, patience_s=0.0)
    _, first = _begin(storage)
    fake.refuse("Tell", *[UNAVAILABLE] * 2)
    assert storage.tell_ahead(first, COMPLETE, [1.0])
    with pytest.raises(StorageUnavailable):
        storage.settle()
    assert storage.get_trial(first).state is TrialState.RUNNING
    assert storage.set_trial_state_values(first, COMPLETE, [1.0])


def test_an_interrupted_wait_is_waited_for_again(
    fake: FakeProxy, storage: FleetStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = _begin(storage)
    assert storage.tell_ahead(first, COMPLETE, [1.0])

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("trialfleet.client.http2.Exchange.receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            storage.settle()
    assert all(heard.kept for heard in storage.settle())
    assert fake.database.finished == [first]
    assert storage.next_ahead() == first + 2


def test_a_session_that_was_given_up(fake: FakeProxy, storage: FleetStorage) -> None:
    study_id, first = _begin(storage)
    fake.database.fence(next(iter(fake.database.sessions)))
    second = storage.tell_ahead(first, COMPLETE, [1.0])
    assert [heard.kept for heard in storage.settle()] == [False]
    assert storage.next_ahead() is None
    assert not storage.set_trial_state_values(second or 0, COMPLETE, [1.0])
    assert storage.get_all_trials(study_id, states=[COMPLETE]) == []
    assert storage.ask(study_id) == first + 2
    assert len(fake.database.sessions) == 2


def test_a_trial_that_waits_too_long_is_handed_back(
    fake: FakeProxy, storage: FleetStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = _begin(storage)
    monkeypatch.setattr("trialfleet.client.ahead._WAITING_S", 0.0)
    fake.wait_for("Tell")  # by the thread in the background
    assert storage.next_ahead() is None
    handed_back = fake.requests("Tell")[0]
    assert (handed_back.update.trial_id, handed_back.state) == (first + 1, TrialState.WAITING)
    assert storage.tell_ahead(first, COMPLETE, [1.0]) is None
    assert storage.tell_and_ask(first, COMPLETE, [1.0]) == (True, first + 2)


def test_one_that_comes_late_is_handed_back_too(
    fake: FakeProxy, storage: FleetStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = _begin(storage)
    second = storage.tell_ahead(first, COMPLETE, [1.0])
    monkeypatch.setattr("trialfleet.client.ahead._WAITING_S", 0.0)
    fake.wait_for("Tell", 2)  # the answer to the first was heard by the thread in the background
    assert fake.requests("Tell")[1].update.trial_id == first + 2
    assert all(heard.kept for heard in storage.settle())
    assert storage.next_ahead() is None
    assert storage.set_trial_state_values(second or 0, COMPLETE, [2.0])


def test_one_that_may_have_been_handed_back_is_not_run(
    fake: FakeProxy, storage: FleetStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = _begin(storage)
    for _ in range(2):  # over the stream that there is, and over a new one
        fake.lose_answer("Tell")
    released = threading.Event()
    fake.hold("Tell", released)
    monkeypatch.setattr("trialfleet.client.ahead._WAITING_S", 0.0)
    fake.wait_for("Tell", 3)
    released.set()
    assert storage.next_ahead() is None
    assert storage.tell_ahead(first, COMPLETE, [1.0]) is None
    sent = {data for name, data in fake.calls if name == "Tell"}
    assert len(sent) == 1
    assert storage.tell_and_ask(first, COMPLETE, [1.0]) == (True, first + 2)


def test_the_thread_in_the_background_hears_that_a_trial_was_taken_away(
    fake: FakeProxy, storage: FleetStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = _begin(storage)
    fake.database.fence(next(iter(fake.database.sessions)))
    assert storage.tell_ahead(first, COMPLETE, [1.0])
    heard = threading.Event()
    hand_back = storage._core.ahead._hand_back

    def hearing(deadline_s: float) -> None:
        hand_back(deadline_s)
        heard.set()

    monkeypatch.setattr(storage._core.ahead, "_hand_back", hearing)
    monkeypatch.setattr("trialfleet.client.ahead._WAITING_S", 0.0)
    assert heard.wait(10)
    assert [heard.kept for heard in storage.settle()] == [False]
    assert all(heard.kept for heard in storage.settle())


@pytest.mark.parametrize("lost", [False, True])
def test_a_trial_is_told_before_the_session_is_closed(
    fake: FakeProxy, storage: FleetStorage, lost: bool
) -> None:
    _, first = _begin(storage)
    if lost:
        fake.lose_answer("Tell")
    assert storage.tell_ahead(first, COMPLETE, [1.0])
    storage.close()
    assert fake.database.finished == [first]
    assert [name for name, _ in fake.calls][-1] == "CloseSession"


def test_only_where_trials_run_one_after_the_other(fake: FakeProxy, connect: Connect) -> None:
    one, many = connect(fake, sequential=True), connect(fake)
    before = one.may_run_ahead  # it is not known yet
    assert (one.ordinal, many.ordinal) == (0, 1)
    assert (before, one.may_run_ahead, many.may_run_ahead) == (False, True, False)
    assert [request.sequential for request in fake.requests("OpenSession")] == [True, False]

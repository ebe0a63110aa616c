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
from tests.proxy.running import eventually
from trialfleet.client import FleetStorage
from trialfleet.client.ahead import Heard
from trialfleet.client.http2 import Exchange
from trialfleet.errors import StorageUnavailable
from trialfleet.v1 import trialfleet_pb2 as pb

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


class Many:
    """Tells trials ahead, one after the other; four answers are awaited."""

    def __init__(self, fake: FakeProxy, storage: FleetStorage) -> None:
        self.fake = fake
        self.storage = storage
        self.study_id, first = _begin(storage)
        self.running = [first]
        self.told: list[int] = []
        self.heard: list[Heard] = []
        for _ in range(4):
            self.tell()
        eventually(lambda: fake.database.finished == self.told)

    def tell(self, depth: int = 4) -> None:
        """Tell the trial that runs and begin the next one."""
        self.heard += self.storage.settle()
        trial_id = self.running.pop()
        self.told.append(trial_id)
        following = self.storage.tell_ahead(trial_id, COMPLETE, [float(trial_id)], depth=depth)
        assert following is not None
        self.running.append(following)

    def settle(self) -> int:
        """Hear what became of all that were told; return how many trials were still to come."""
        before = len(self.running)
        while True:
            self.heard += self.storage.settle()
            trial_id = self.storage.next_ahead()
            if trial_id is None:
                return len(self.running) - before
            self.running.append(trial_id)

    @property
    def open(self) -> list[int]:
        """The trials that run, as the proxy knows it."""
        trials = self.fake.database.trials.values()
        return [trial.trial_id for trial in trials if trial.state == pb.RUNNING]


@pytest.fixture
def many(fake: FakeProxy, storage: FleetStorage) -> Many:
    """A worker that has told four trials."""
    return Many(fake, storage)


def test_several_are_on_their_way(fake: FakeProxy, many: Many) -> None:
    released = threading.Event()
    fake.hold("Tell", released)
    for _ in range(4):  # there are answers to those before
        many.tell()
    fake.wait_for("Tell", 5)
    assert len(fake.database.finished) == 4
    # As a sampler sees it, all have ended.
    seen = many.storage._core.running._ended(many.study_id)
    assert [trial._trial_id for trial in seen] == many.told[4:]
    released.set()
    assert many.settle() == 4
    assert fake.database.finished == many.told
    assert many.heard == [Heard(trial_id, True) for trial_id in many.told]
    assert [fake.database.trials[trial_id].values for trial_id in many.told] == [
        [trial_id] for trial_id in many.told
    ]
    assert many.open == many.running
    assert fake.streams == 1


def test_a_trial_of_many_costs_one_call(fake: FakeProxy, many: Many) -> None:
    for _ in range(20):
        many.tell()
    assert many.settle() == 4
    assert fake.counts()["Tell"] == 24
    assert fake.counts()["Ask"] == 2 + 3  # the first two, and those by which more come


def test_fewer_are_on_their_way_when_trials_become_longer(many: Many) -> None:
    for _ in range(20):
        many.tell(depth=1)
    assert many.settle() == 2
    assert many.open == many.running


def test_fewer_are_on_their_way_while_answers_are_late(
    many: Many, monkeypatch: pytest.MonkeyPatch
) -> None:
    for soon_s, late_s, most in ((-1, -1, 1), (-1, 60, 1), (60, 60, 4), (-1, 60, 4)):
        monkeypatch.setattr("trialfleet.client.ahead._SOON_S", soon_s)
        monkeypatch.setattr("trialfleet.client.ahead._LATE_S", late_s)
        for _ in range(20):
            many.tell()
        awaited = many.storage._core.ahead._awaited
        assert sum(each.asks for each in awaited) == most
    assert many.settle() == 4


def test_one_is_on_its_way_where_it_brings_the_history(fake: FakeProxy, many: Many) -> None:
    many.storage.get_all_trials(many.study_id)
    for _ in range(20):
        many.tell()
    assert all(request.next.HasField("history") for request in fake.requests("Tell")[-10:])
    assert many.settle() == 2


@pytest.mark.parametrize("fault", ["lost", "refused", "both"])
@pytest.mark.parametrize("place", range(4))
def test_what_gets_no_answer_is_sent_again(
    fake: FakeProxy, many: Many, fault: str, place: int
) -> None:
    fake.let_pass("Tell", place)
    if fault != "lost":
        fake.refuse("Tell", UNAVAILABLE)
    if fault != "refused":
        fake.lose_answer("Tell")
    for _ in range(8):
        many.tell()
    many.settle()
    assert sorted(fake.database.finished) == many.told
    assert many.heard == [Heard(trial_id, True) for trial_id in many.told]
    # No trial was opened that nobody runs.
    assert many.open == sorted(many.running)


def test_one_of_many_that_is_refused_runs_again(fake: FakeProxy, many: Many) -> None:
    (refused,) = many.running
    fake.refuse("Tell", *[grpc.StatusCode.INVALID_ARGUMENT] * 2, details="not so")
    for _ in range(6):
        many.tell()
    many.settle()
    assert [heard.trial_id for heard in many.heard if not heard.kept] == [refused]
    assert many.storage.get_trial(refused).state is TrialState.RUNNING
    assert sorted([*fake.database.finished, refused]) == many.told
    assert many.storage.set_trial_state_values(refused, TrialState.FAIL)
    # The openings that were refused with it were made again, or will be.
    assert set(many.open) == set(many.running)


def test_many_of_a_session_that_was_given_up(fake: FakeProxy, many: Many) -> None:
    fake.database.fence(next(iter(fake.database.sessions)))
    many.tell()
    many.settle()
    assert [heard.kept for heard in many.heard] == [True] * 4 + [False]


def test_many_that_wait_too_long_are_handed_back(
    many: Many, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialfleet.client.ahead._WAITING_S", 0.0)
    eventually(lambda: many.open == many.running)
    assert many.settle() == 0
    assert many.heard == [Heard(trial_id, True) for trial_id in many.told]


def test_many_are_told_before_the_session_is_closed(fake: FakeProxy, many: Many) -> None:
    many.tell()
    many.storage.close()
    assert fake.database.finished == many.told
    assert [name for name, _ in fake.calls][-1] == "CloseSession"


def test_an_answer_is_not_taken_for_that_of_another_call(
    fake: FakeProxy, many: Many, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = Exchange.receive

    def interrupted(exchange: Exchange) -> None:
        receive(exchange)  # what came stays where it is
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Exchange, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            while True:  # some answers may have come together with those before
                many.tell()
    many.settle()
    assert many.heard == [Heard(trial_id, True) for trial_id in many.told]
    assert many.open == many.running


def test_only_where_trials_run_one_after_the_other(fake: FakeProxy, connect: Connect) -> None:
    one, many = connect(fake, sequential=True), connect(fake)
    before = one.may_run_ahead  # it is not known yet
    assert (one.ordinal, many.ordinal) == (0, 1)
    assert (before, one.may_run_ahead, many.may_run_ahead) == (False, True, False)
    assert [request.sequential for request in fake.requests("OpenSession")] == [True, False]

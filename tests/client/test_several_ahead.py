"""Several trials on their way: told, and asked for, one behind the other."""

import threading
from collections.abc import Callable

import grpc
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState

from tests.client.fake import UNAVAILABLE, FakeProxy
from tests.proxy.running import eventually
from trialfleet.client import FleetStorage
from trialfleet.client.ahead import Heard
from trialfleet.client.http2 import Exchange
from trialfleet.wire.v1 import trialfleet_pb2 as pb

COMPLETE = TrialState.COMPLETE


class Many:
    """Tells trials ahead, one after the other; four answers are awaited."""

    def __init__(self, fake: FakeProxy, storage: FleetStorage) -> None:
        self.fake = fake
        self.storage = storage
        self.study_id = storage.create_new_study([StudyDirection.MINIMIZE])
        first = storage.ask(self.study_id)
        assert first is not None
        storage.ask_ahead(self.study_id)
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
def many(
    fake: FakeProxy, connect: Callable[..., FleetStorage], monkeypatch: pytest.MonkeyPatch
) -> Many:
    """A worker that has told four trials, and hands none back because the test is slow."""
    monkeypatch.setattr("trialfleet.client.ahead._WAITING_S", 60.0)
    return Many(fake, connect(fake, sequential=True))


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


def test_many_are_told_before_the_session_is_closed_though_one_is_refused(
    fake: FakeProxy, many: Many
) -> None:
    (refused,) = many.running
    fake.refuse("Tell", *[grpc.StatusCode.INVALID_ARGUMENT] * 2, details="not so")
    for _ in range(3):
        many.tell()
    many.storage.close()
    assert sorted([*fake.database.finished, refused]) == many.told
    assert [name for name, _ in fake.calls][-1] == "CloseSession"


def test_many_are_told_to_another_proxy_before_the_session_is_closed(
    start_fake: Callable[..., FakeProxy],
    connect: Callable[..., FleetStorage],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trialfleet.client.ahead._WAITING_S", 60.0)
    near = start_fake()
    far = start_fake(near.database)
    many = Many(near, connect(near, far, sequential=True))
    near.refuse("Tell", *[UNAVAILABLE] * 100)
    many.tell()
    many.storage.close()
    assert far.database.finished == many.told
    assert [name for name, _ in far.calls] == ["Tell", "CloseSession"]


def test_an_end_that_was_taken_is_heard_as_kept_though_the_session_is_over(
    fake: FakeProxy, many: Many
) -> None:
    many.tell()
    eventually(lambda: fake.database.finished == many.told)
    sessions = many.storage._core.sessions
    assert sessions.opened is not None
    sessions.forget(sessions.opened)  # as one does who hears that it was given up meanwhile
    while many.storage._core.ahead._awaited:
        assert many.settle() == 0  # those that were opened are no more ours
    assert many.heard == [Heard(trial_id, True) for trial_id in many.told]


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

"""A study's history is put together from whatever order its answers come in."""

import gc
import os

import pytest
from optuna.distributions import FloatDistribution, distribution_to_json
from optuna.trial import FrozenTrial, TrialState, create_trial

from trialfleet.client.history import StudyHistory
from trialfleet.client.trial_batches import DecodedDefinitions, decode_finished
from trialfleet.wire.v1 import trialfleet_pb2 as pb

_X = pb.Definition(name="x", distribution_json=distribution_to_json(FloatDistribution(0, 1)))
_Y = pb.Definition(name="y", distribution_json=distribution_to_json(FloatDistribution(0, 9)))


def _trial(number: int, state: pb.State, *definitions: int) -> bytes:
    return pb.Trial(
        trial_id=number,
        number=number,
        state=state,
        definitions=definitions,
        params=[0.5] * len(definitions),
    ).SerializeToString()


def _news(
    epoch: int,
    numbers: range,
    running: tuple[int, ...] | None = (),
    definitions: tuple[pb.Definition, ...] = (),
    first: int = 0,
) -> pb.News:
    """The part of a log that has the trials ``numbers``, each with the newest definition."""
    known = first + len(definitions)
    return pb.News(
        cursor=pb.Cursor(epoch=epoch, trials=numbers.stop, definitions=known),
        finished=pb.TrialBatch(
            first_definition=first,
            definitions=definitions,
            trials=[_trial(n, pb.COMPLETE, *([known - 1] if known else [])) for n in numbers],
        ),
        unfinished=None
        if running is None
        else pb.TrialBatch(trials=[_trial(n, pb.RUNNING) for n in running]),
        more=running is None,
    )


def _states(history: StudyHistory, *running: FrozenTrial) -> str:
    letters = {TrialState.COMPLETE: "c", TrialState.RUNNING: "r", TrialState.WAITING: "w"}
    trials = history.trials(running)
    assert [trial.number for trial in trials] == sorted(trial.number for trial in trials)
    return "".join(f"{trial.number}{letters[trial.state]}" for trial in trials)


def test_parts() -> None:
    history = StudyHistory()
    reading = history.begin()
    assert reading.cursor == pb.Cursor()
    assert not history.accept(reading, _news(7, range(2), None, (_X,)))
    assert _states(history) == ""  # not before it is complete
    assert reading.cursor == pb.Cursor(epoch=7, trials=2, definitions=1)
    assert history.accept(reading, _news(7, range(2, 3), (4,), (_Y,), first=1))
    assert _states(history) == "0c1c2c4r"
    assert [list(trial.params) for trial in history.trials(())] == [["x"], ["x"], ["y"], []]
    assert list(history.known) == ["x", "y"]
    assert history.begin().cursor == pb.Cursor(epoch=7, trials=3, definitions=2)


def test_no_last_part() -> None:
    history = StudyHistory()
    reading = history.begin()
    history.accept(reading, _news(7, range(2), None))
    history.finish(reading)
    assert _states(history) == "0c1c"


def test_answers_in_another_order_than_requests() -> None:
    history = StudyHistory()
    history.accept(history.begin(), _news(7, range(1), (1, 2), (_X,)))
    first, second = history.begin(), history.begin()
    history.accept(second, _news(7, range(1, 3), (3,), (_Y,), first=1))
    assert _states(history) == "0c1c2c3r"
    history.accept(first, _news(7, range(1, 2), (2,), (_Y,), first=1))
    assert _states(history) == "0c1c2c3r"
    assert history.begin().cursor.trials == 3
    assert [trial.number for trial in history.news()] == [0, 1, 2]


def test_another_epoch_replaces_what_was_there() -> None:
    history = StudyHistory()
    history.accept(history.begin(), _news(7, range(2), (2,), (_X,)))
    assert [trial.number for trial in history.news()] == [0, 1]
    late = history.begin()
    reading = history.begin()
    history.accept(reading, _news(8, range(1), None, (_X,)))
    assert _states(history) == "0c1c2r"  # as long as the new one is not complete
    history.accept(reading, _news(8, range(1, 3), (3,), (), first=1))
    assert _states(history) == "0c1c2c3r"
    assert [trial.number for trial in history.news()] == [2]
    # An answer for the old epoch that was asked for earlier changes nothing any more.
    history.accept(late, _news(7, range(2, 2), (), (), first=1))
    assert _states(history) == "0c1c2c3r"
    assert history.begin().cursor.epoch == 8


def test_trials_that_were_returned_are_not_returned_again_however_often_logs_change() -> None:
    history = StudyHistory()
    history.accept(history.begin(), _news(7, range(3), ()))
    assert [trial.number for trial in history.news()] == [0, 1, 2]
    history.accept(history.begin(), _news(8, range(2), ()))  # of a proxy that is behind
    assert history.news() == []
    history.accept(history.begin(), _news(9, range(4), ()))
    assert [trial.number for trial in history.news()] == [3]
    history.accept(history.begin(), _news(9, range(4, 6), ()))
    assert [trial.number for trial in history.news()] == [4, 5]
    assert history.news() == []


def test_finished_trials_come_in_any_order() -> None:
    history = StudyHistory()
    history.accept(history.begin(), _news(7, range(2, 4), ()))
    history.accept(history.begin(), _news(7, range(0, 5, 4), ()))
    history.accept(history.begin(), _news(7, range(1, 3), ()))  # one of them once more
    assert _states(history) == "0c1c2c3c4c"
    assert [trial.number for trial in history.news()] == [2, 3, 0, 4, 1]


def _finished_only(epoch: int, numbers: range) -> pb.News:
    news = _news(epoch, numbers)
    news.ClearField("unfinished")
    return news


@pytest.mark.parametrize("epochs", [(7, 7), (7, 8)])
def test_an_answer_without_unfinished_trials_does_not_take_those_of_an_earlier_request(
    epochs: tuple[int, int],
) -> None:
    history = StudyHistory()
    whole = history.begin()
    finished = history.begin(finished_only=True)  # another thread's, and answered first
    assert history.accept(finished, _finished_only(epochs[0], range(1)))
    assert _states(history) == "0c"
    assert history.accept(whole, _news(epochs[1], range(2), (5,)))
    # By its own answer, whatever the other's lacks.
    assert _states(history) == "0c1c5r"
    assert sorted(trial.number for trial in history.news()) == [0, 1]


def test_unfinished_trials_stay_when_another_log_is_read_without_them() -> None:
    history = StudyHistory()
    history.accept(history.begin(), _news(7, range(1), (5, 6)))
    history.accept(history.begin(finished_only=True), _finished_only(8, range(3, 6)))
    assert _states(history) == "3c4c5c6r"


def test_own_running_trials_are_laid_over() -> None:
    history = StudyHistory()
    history.accept(history.begin(), _news(7, range(1), (1,)))
    ours = [create_trial(state=TrialState.WAITING) for _ in range(3)]
    for number, trial in enumerate(ours):
        trial.number = number
    assert _states(history, *ours) == "0c1w2w"
    assert _states(history) == "0c1r"


def test_the_garbage_collector_is_away_only_while_many_trials_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enabled: list[bool] = []

    def decode_and_look(batch: pb.TrialBatch, definitions: DecodedDefinitions) -> list[FrozenTrial]:
        enabled.append(gc.isenabled())
        return decode_finished(batch, definitions)

    monkeypatch.setattr("trialfleet.client.history.decode_finished", decode_and_look)
    for trials, meanwhile in ((99, True), (100, False)):
        history = StudyHistory()
        batch = pb.TrialBatch(
            trials=[
                pb.Trial(trial_id=number, number=number, state=pb.COMPLETE).SerializeToString()
                for number in range(trials)
            ]
        )
        news = pb.News(restarted=True, cursor=pb.Cursor(epoch=1, trials=trials), finished=batch)
        enabled.clear()
        assert history.accept(history.begin(finished_only=True), news)
        assert enabled == [meanwhile]
        assert gc.isenabled()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads
def test_a_process_that_is_forked_meanwhile_has_its_garbage_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    children: list[int] = []

    def decode_and_fork(batch: pb.TrialBatch, definitions: DecodedDefinitions) -> list[FrozenTrial]:
        if not (child := os.fork()):
            os._exit(0 if gc.isenabled() else 1)
        children.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        assert not gc.isenabled()
        return decode_finished(batch, definitions)

    monkeypatch.setattr("trialfleet.client.history.decode_finished", decode_and_fork)
    history = StudyHistory()
    history.accept(history.begin(), _news(7, range(100)))
    assert children == [0]
    assert gc.isenabled()


def test_a_garbage_collector_that_somebody_sent_away_stays_away() -> None:
    gc.disable()
    try:
        StudyHistory().accept(StudyHistory().begin(), _news(7, range(100)))
        assert not gc.isenabled()
    finally:
        gc.enable()

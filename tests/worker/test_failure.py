"""How a failure is told."""

import pytest

from trialfleet import names
from trialfleet.worker import failure
from trialfleet.worker.interrupts import TrialTimedOut


def _raised(error: BaseException) -> failure.ObjectiveFailure:
    with pytest.raises(type(error)) as caught:
        raise error
    return failure.raised(caught.value)


def test_a_message_is_one_bounded_line() -> None:
    told = _raised(ValueError("a\n  b\t" + "c" * 1000))

    assert told.message.startswith("ValueError: a b ccc")
    assert told.message.endswith("...")
    assert len(told.message) == failure.MESSAGE_CHARACTERS


def test_an_exception_without_text() -> None:
    assert _raised(MemoryError()).message == "MemoryError"


class _Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_exception_that_can_t_describe_itself() -> None:
    assert _raised(_Unspeakable()).message == "_Unspeakable"


def test_a_traceback_is_bounded_and_keeps_both_ends() -> None:
    told = _raised(ValueError("ä" * failure.TRACEBACK_BYTES))

    assert len(told.traceback.encode()) <= failure.TRACEBACK_BYTES
    assert told.traceback.startswith("Traceback (most recent call last):\n")
    assert "[... cut ...]" in told.traceback
    assert told.traceback.endswith("ä\n")


def test_the_causes_belong_to_the_traceback() -> None:
    with pytest.raises(RuntimeError) as caught:
        try:
            raise ValueError("first")
        except ValueError as error:
            raise RuntimeError("second") from error
    told = failure.raised(caught.value)

    assert "ValueError: first" in told.traceback
    assert told.traceback.endswith("RuntimeError: second\n")


def test_text_that_is_no_unicode_is_escaped() -> None:
    told = _raised(ValueError("\udcff"))

    assert "ValueError: \\udcff" in told.traceback
    assert told.message == "ValueError: \\udcff"


def test_the_place_is_where_the_user_s_code_called_a_library() -> None:
    import json

    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("{")

    assert failure.raised(caught.value).place.startswith("test_failure.py:")


def test_what_became_of_an_interrupt_is_a_timeout_where_it_struck() -> None:
    with pytest.raises(RuntimeError) as caught:
        try:
            raise TrialTimedOut
        except TrialTimedOut as error:
            raise RuntimeError("the user's own") from error
    told = failure.timed_out(1.5, caught.value)

    assert told.reason == names.REASON_TRIAL_TIMEOUT
    assert told.message == "not done after its time limit of 1.5 s"
    assert told.traceback.endswith("TrialTimedOut\n")

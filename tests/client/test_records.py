"""Values of Optuna survive the way through messages."""

import datetime
import math
import os
import time
from collections.abc import Iterator

import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from trialfleet.client import Goal, StudyDefinition
from trialfleet.client.conversion import (
    Definition,
    decode_time,
    encode_distribution,
    encode_template,
    encode_time,
)
from trialfleet.client.trial_batches import decode_batch
from trialfleet.wire.v1 import trialfleet_pb2 as pb

_PARAMS: dict[str, tuple[object, BaseDistribution]] = {
    "z": (0.1, FloatDistribution(0, 1)),
    "a": (1e-5, FloatDistribution(1e-5, 1e-1, log=True)),
    "step": (0.75, FloatDistribution(0, 1, step=0.25)),
    "int": (3, IntDistribution(1, 9)),
    "log": (4, IntDistribution(1, 64, log=True)),
    "each": (5, IntDistribution(1, 9, step=2)),
    "choice": (None, CategoricalDistribution((True, 1.5, "ü", None, 2))),
}


def test_a_trial() -> None:
    moment = datetime.datetime(2024, 2, 29, 23, 59, 59, 999999)
    trial = FrozenTrial(
        number=0,
        trial_id=0,
        state=TrialState.COMPLETE,
        value=None,
        values=[math.inf, -0.0],
        datetime_start=moment,
        datetime_complete=moment + datetime.timedelta(microseconds=2),
        params={name: value for name, (value, _) in _PARAMS.items()},
        distributions={name: distribution for name, (_, distribution) in _PARAMS.items()},
        user_attrs={"ключ": ["ü", {"a": None}], "b": -math.inf},
        system_attrs={"constraints:c": 1.5},
        intermediate_values={9: 1.0, 1: math.inf, 0: -math.inf},
    )
    (decoded,) = decode_batch(encode_template(trial))
    assert decoded == trial
    assert list(decoded.params) == list(_PARAMS)
    assert list(decoded.intermediate_values) == [9, 1, 0]
    assert [type(value) for value in decoded.params.values()] == [
        type(value) for value, _ in _PARAMS.values()
    ]


def test_not_a_number() -> None:
    trial = FrozenTrial(
        number=0,
        trial_id=0,
        state=TrialState.WAITING,
        value=None,
        datetime_start=None,
        datetime_complete=None,
        params={"c": math.nan},
        distributions={"c": CategoricalDistribution((1.0, math.nan))},
        user_attrs={"n": math.nan},
        system_attrs={},
        intermediate_values={0: math.nan},
    )
    (decoded,) = decode_batch(encode_template(trial))
    assert math.isnan(decoded.params["c"])
    assert math.isnan(decoded.user_attrs["n"])
    assert math.isnan(decoded.intermediate_values[0])
    assert (decoded.values, decoded.datetime_start, decoded.datetime_complete) == (None,) * 3


@pytest.fixture
def berlin() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Berlin"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("local", "utc"),
    [
        (datetime.datetime(2024, 1, 1, 1, 0, 0, 1), "2024-01-01T00:00:00.000001+00:00"),
        (datetime.datetime(2024, 7, 1, 2), "2024-07-01T00:00:00+00:00"),
        (datetime.datetime(1969, 12, 31, 23), "1969-12-31T22:00:00+00:00"),
        (datetime.datetime(2024, 10, 27, 2, 30, fold=0), "2024-10-27T00:30:00+00:00"),
        (datetime.datetime(2024, 10, 27, 2, 30, fold=1), "2024-10-27T01:30:00+00:00"),
    ],
)
def test_times_are_local_and_stored_in_utc(local: datetime.datetime, utc: str) -> None:
    microseconds = encode_time(local)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert (epoch + datetime.timedelta(microseconds=microseconds)).isoformat() == utc
    assert decode_time(microseconds) == local


@pytest.mark.parametrize("second", [0, 1_700_000_000, 2**32 - 1, 2**32, 2**33, -1])
def test_no_microsecond_is_lost(second: int) -> None:
    for microsecond in (0, 1, 499_999, 500_000, 500_001, 999_998, 999_999):
        decoded = decode_time(second * 1_000_000 + microsecond)
        assert decoded.microsecond == microsecond
        assert decoded.replace(microsecond=0) == datetime.datetime.fromtimestamp(second)


@pytest.mark.parametrize("distribution", [distribution for _, distribution in _PARAMS.values()])
def test_the_text_of_a_known_distribution_is_used_again(distribution: BaseDistribution) -> None:
    known = Definition("x", distribution, "the text")
    assert encode_distribution(distribution, known) == "the text"
    assert encode_distribution(distribution, None) == distribution_to_json(distribution)


def test_equal_choices_of_other_types_keep_their_text() -> None:
    known = Definition("x", CategoricalDistribution((1, 0)), "the text")
    assert "[true, false]" in encode_distribution(CategoricalDistribution((True, False)), known)


def test_a_definition() -> None:
    definition = StudyDefinition(
        "s",
        [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE],
        trials=9,
        timeout_s=1.5,
        goals=[Goal(1, 0.5), (0, 2.0)],
        retries=3,
        enqueue=[{"x": 1}],
        metric_names=["a", "b"],
    )
    message = definition.message()
    assert list(message.directions) == [pb.MINIMIZE, pb.MAXIMIZE]
    assert not message.budget.HasField("failed_trials")
    assert (message.budget.trials, message.budget.timeout_s) == (9, 1.5)
    assert [(goal.objective, goal.value) for goal in message.budget.goals] == [(1, 0.5), (0, 2.0)]
    assert (message.retries, list(message.enqueue_json)) == (3, ['{"x": 1}'])
    assert list(message.metric_names) == ["a", "b"]

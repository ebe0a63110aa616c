"""Trials that come from a storage, and what they decode only when it is looked at."""

import copy
import math
import pickle
import threading
from collections.abc import Callable

import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import FrozenTrial, TrialState

from trialfleet.client.trial_batches import DecodedDefinitions, FinishedTrial, decode_batch
from trialfleet.wire.v1 import trialfleet_pb2 as pb

_PARAMS: dict[str, tuple[object, BaseDistribution]] = {
    "x": (0.25, FloatDistribution(0, 1)),
    "int": (3, IntDistribution(1, 9)),
    "choice": ("b", CategoricalDistribution(("a", "b"))),
}
_DEFINITIONS = [
    pb.Definition(name=name, distribution_json=distribution_to_json(distribution))
    for name, (_, distribution) in _PARAMS.items()
]
_MESSAGE = pb.Trial(
    trial_id=70,
    number=7,
    state=pb.PRUNED,
    values=[1.5],
    started_us=1_790_000_000_000_001,
    completed_us=1_790_000_009_000_000,
    definitions=range(3),
    params=[0.25, 3, 1],
    user_attrs=[pb.Attribute(key="u", value_json="[1]")],
    system_attrs=[pb.Attribute(key="s", value_json='{"a": 2}')],
    steps=[0, 5],
    intermediate_values=[0.5, 1.5],
)


@pytest.fixture
def definitions() -> DecodedDefinitions:
    known = DecodedDefinitions()
    known.add(0, _DEFINITIONS)
    return known


@pytest.fixture
def finished(definitions: DecodedDefinitions) -> FinishedTrial:
    return FinishedTrial(_MESSAGE.SerializeToString(), definitions)


@pytest.fixture
def expected() -> FrozenTrial:
    (trial,) = decode_batch(
        pb.TrialBatch(definitions=_DEFINITIONS, trials=[_MESSAGE.SerializeToString()])
    )
    return trial


def test_each_thing_is_that_of_the_whole_trial(
    definitions: DecodedDefinitions, expected: FrozenTrial
) -> None:
    names = [
        name for name in dir(expected) if isinstance(getattr(type(expected), name, None), property)
    ]
    names += [name for name in vars(expected) if not name.startswith("_")]
    assert {"number", "values", "params", "datetime_start", "user_attrs", "duration"} < {*names}
    assert {"state", "datetime_complete", "intermediate_values"} < {*names}
    for name in names:
        finished = FinishedTrial(_MESSAGE.SerializeToString(), definitions)
        assert getattr(finished, name) == getattr(expected, name), name
        assert getattr(finished, name) is not None
    assert finished.last_step == 5
    assert not hasattr(finished, "no_such_thing")


@pytest.mark.parametrize("looked_at", [False, True])
def test_it_is_equal_to_the_whole_trial(
    finished: FinishedTrial, expected: FrozenTrial, definitions: DecodedDefinitions, looked_at: bool
) -> None:
    if looked_at:
        assert finished.intermediate_values == {0: 0.5, 5: 1.5}
    assert finished == expected
    assert expected == finished
    assert finished == FinishedTrial(_MESSAGE.SerializeToString(), definitions)
    assert repr(finished) == repr(expected)
    other = copy.deepcopy(expected)
    other.set_user_attr("more", 1)
    assert finished != other
    assert other != finished
    assert finished != 7
    with pytest.raises(TypeError, match="unhashable"):  # as the whole one
        hash(finished)


def test_it_is_equal_to_itself_whatever_was_reported(definitions: DecodedDefinitions) -> None:
    reported = pb.Trial(state=pb.COMPLETE, steps=[0], intermediate_values=[math.nan])
    finished = FinishedTrial(reported.SerializeToString(), definitions)
    assert finished == finished
    assert [finished] == [finished]


@pytest.mark.parametrize("looked_at", [False, True])
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda trial: pickle.loads(pickle.dumps(trial))]
)
def test_a_copy_is_whole(
    finished: FinishedTrial,
    expected: FrozenTrial,
    duplicate: Callable[[FrozenTrial], FrozenTrial],
    looked_at: bool,
) -> None:
    if looked_at:
        assert finished.system_attrs == {"s": {"a": 2}}
    copied = duplicate(finished)
    assert type(copied) is FrozenTrial
    assert copied == expected
    assert vars(copied) == vars(expected)


def test_a_deep_copy_shares_nothing(
    finished: FinishedTrial, definitions: DecodedDefinitions
) -> None:
    copied = copy.deepcopy(finished)
    assert copied.params is not finished.params
    assert copied.distributions is not finished.distributions
    assert copied.distributions["x"] is not finished.distributions["x"]
    copied.user_attrs["u"].append(2)
    assert finished.user_attrs == {"u": [1]}


def test_what_optuna_calls_another_way_is_decoded_with_the_rest(
    finished: FinishedTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    def __init__(self: FrozenTrial, *args: object, params: object, **others: object) -> None:
        self._parameters = params  # type: ignore[attr-defined]

    monkeypatch.setattr(FrozenTrial, "__init__", __init__)
    monkeypatch.setattr(FrozenTrial, "params", property(lambda self: self._parameters))
    assert finished.params == {name: value for name, (value, _) in _PARAMS.items()}


def test_threads_that_look_at_once_see_the_same(definitions: DecodedDefinitions) -> None:
    for _ in range(100):
        finished = FinishedTrial(_MESSAGE.SerializeToString(), definitions)
        seen: list[dict[int, float]] = []
        together = threading.Barrier(4)

        def look(
            trial: FrozenTrial = finished,
            seen: list[dict[int, float]] = seen,
            together: threading.Barrier = together,
        ) -> None:
            together.wait()
            seen.append(trial.intermediate_values)

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(each) for each in seen}) == 1


def test_a_trial_without_anything(definitions: DecodedDefinitions) -> None:
    finished = FinishedTrial(pb.Trial(state=pb.FAIL).SerializeToString(), definitions)
    assert (finished.number, finished._trial_id, finished.state) == (0, 0, TrialState.FAIL)
    assert (finished.values, finished.params, finished.distributions) == (None, {}, {})
    assert (finished.datetime_start, finished.datetime_complete) == (None, None)
    assert (finished.user_attrs, finished.system_attrs) == ({}, {})
    assert finished.intermediate_values == {}


@pytest.mark.parametrize("layouts", [0, 1, 1000])
def test_trials_that_point_to_definitions(monkeypatch: pytest.MonkeyPatch, layouts: int) -> None:
    monkeypatch.setattr("trialfleet.client.trial_batches._MAX_LAYOUTS", layouts)
    definitions = DecodedDefinitions()
    for first, definition in enumerate(_DEFINITIONS):
        added = definitions.add(first, [definition])
        assert [each.name for each in added] == [definition.name]
    names = list(_PARAMS)
    for used in (names, names[:1], names[::-1], [], names):
        message = pb.Trial(
            state=pb.COMPLETE,
            definitions=[names.index(name) for name in used],
            params=[_PARAMS[name][1].to_internal_repr(_PARAMS[name][0]) for name in used],
        )
        decoded = FinishedTrial(message.SerializeToString(), definitions)
        assert list(decoded.params.items()) == [(name, _PARAMS[name][0]) for name in used]
        assert list(decoded.distributions.items()) == [(name, _PARAMS[name][1]) for name in used]

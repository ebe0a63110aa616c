"""From Optuna's values to the messages of ``trialfleet.v1``, and back."""

import datetime
import functools
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from trialfleet.v1 import trialfleet_pb2 as pb

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND: Final = datetime.timedelta(microseconds=1)
_EXACT_US: Final = 2**32 * 1_000_000
"""Until then, in the year 2106, a float of seconds is right to a quarter of a microsecond."""

_MAX_LAYOUTS: Final = 1000

# The protocol gives Optuna's states and directions Optuna's own names.
_STATES: Final = {pb.State.Value(state.name): state for state in TrialState}
_DIRECTIONS: Final = {
    pb.MINIMIZE: StudyDirection.MINIMIZE,
    pb.MAXIMIZE: StudyDirection.MAXIMIZE,
}


class Definition(NamedTuple):
    """A parameter's name and distribution, and the distribution's JSON text."""

    name: str
    distribution: BaseDistribution
    text: str


# Optuna's parser is slow, and a study has few distributions.
decode_distribution = functools.lru_cache(maxsize=4096)(json_to_distribution)


def encode_distribution(distribution: BaseDistribution, known: Definition | None) -> str:
    """Return a distribution's JSON text: that of the known one if it is the same."""
    if known is not None and known.distribution == distribution:
        if not isinstance(distribution, CategoricalDistribution):
            return known.text
        # Equal choices may be of other types: 1, 1.0 and True.
        choices = known.distribution.choices  # type: ignore[attr-defined]
        if all(a.__class__ is b.__class__ for a, b in zip(choices, distribution.choices)):  # noqa: B905
            return known.text
    return distribution_to_json(distribution)


def encode_time(time: datetime.datetime) -> int:
    """Return the microseconds since 1970, in UTC, of a local time."""
    return (time.astimezone(datetime.UTC) - _EPOCH) // _MICROSECOND


def decode_time(microseconds: int) -> datetime.datetime:
    """Return the local time, without a time zone, that Optuna uses."""
    # Of a history, half of the work if it goes by way of a time zone.
    if 0 <= microseconds < _EXACT_US:
        return datetime.datetime.fromtimestamp(microseconds / 1_000_000)
    seconds, rest = divmod(microseconds, 1_000_000)
    return datetime.datetime.fromtimestamp(seconds).replace(microsecond=rest)


def encode_attributes(attributes: dict[str, str]) -> list[pb.Attribute]:
    """Return attributes, key to JSON text, as messages."""
    return [pb.Attribute(key=key, value_json=text) for key, text in attributes.items()]


def decode_attributes(attributes: Iterable[pb.Attribute]) -> dict[str, Any]:
    """Return attributes, key to value."""
    return {attribute.key: json.loads(attribute.value_json) for attribute in attributes}


def decode_definitions(definitions: Iterable[pb.Definition]) -> list[Definition]:
    """Return the definitions that a batch carries."""
    return [
        Definition(d.name, decode_distribution(d.distribution_json), d.distribution_json)
        for d in definitions
    ]


class _Layout(NamedTuple):
    """What trials with the same parameters have in common."""

    names: tuple[str, ...]
    distributions: dict[str, BaseDistribution]
    changed: tuple[tuple[str, BaseDistribution], ...]
    """Those whose values are not the numbers that stand for them."""


class Definitions:
    """The definitions that trials point into. Belongs to one thread at a time."""

    def __init__(self) -> None:
        self.known: list[Definition] = []
        self._layouts: dict[tuple[int, ...], _Layout] = {}

    def add(self, first: int, definitions: Iterable[pb.Definition]) -> list[Definition]:
        """Add those of a batch, the first of which has a given index; return them."""
        added = decode_definitions(definitions)
        self.known[first : first + len(added)] = added
        return added

    def layout(self, indices: Sequence[int]) -> _Layout:
        """Return that of trials whose parameters have the definitions with given indices."""
        key = tuple(indices)
        found = self._layouts.get(key)
        if found is None:
            used = [self.known[index] for index in key]
            found = _Layout(
                tuple(definition.name for definition in used),
                {definition.name: definition.distribution for definition in used},
                tuple(
                    (name, distribution)
                    for name, distribution, _ in used
                    if not isinstance(distribution, FloatDistribution)
                ),
            )
            if len(self._layouts) < _MAX_LAYOUTS:
                self._layouts[key] = found
        return found


def decode_trial(encoded: bytes, definitions: Definitions) -> FrozenTrial:
    """Return a trial, which shares its ``distributions`` with others: not to be modified."""
    message = pb.Trial.FromString(encoded)
    started_us, completed_us = message.started_us, message.completed_us
    user_attrs, system_attrs, steps = message.user_attrs, message.system_attrs, message.steps
    # By slices, here and below: they are lists, which are read in a third of the time.
    names, distributions, changed = definitions.layout(message.definitions[:])
    params: dict[str, Any] = dict(zip(names, message.params[:], strict=True))
    for name, distribution in changed:
        params[name] = distribution.to_external_repr(params[name])
    return FrozenTrial(
        number=message.number,
        state=_STATES[message.state],
        value=None,
        values=message.values[:] or None,
        datetime_start=(
            decode_time(started_us) if started_us or message.HasField("started_us") else None
        ),
        datetime_complete=(
            decode_time(completed_us) if completed_us or message.HasField("completed_us") else None
        ),
        params=params,
        distributions=distributions,
        user_attrs=decode_attributes(user_attrs) if user_attrs else {},
        system_attrs=decode_attributes(system_attrs) if system_attrs else {},
        intermediate_values=(
            dict(zip(steps[:], message.intermediate_values[:], strict=True)) if steps else {}
        ),
        trial_id=message.trial_id,
    )


def decode_batch(batch: pb.TrialBatch) -> list[FrozenTrial]:
    """Return the trials of a self-contained batch, which share nothing."""
    definitions = Definitions()
    definitions.add(0, batch.definitions)
    trials = [decode_trial(encoded, definitions) for encoded in batch.trials]
    for trial in trials:
        trial.distributions = trial.distributions.copy()
    return trials


def new_trial(trial_id: int, number: int) -> FrozenTrial:
    """Return a trial that begins now."""
    return FrozenTrial(
        number=number,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime.datetime.now(),
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=trial_id,
    )


def floats(values: Sequence[float] | None) -> list[float] | None:
    """Return a trial's values, or none, as they are sent."""
    return None if values is None else [float(value) for value in values]


def encode_template(trial: FrozenTrial) -> pb.TrialBatch:
    """Return a batch of the one trial; its id and number mean nothing."""
    message = pb.Trial(
        state=trial.state.name,
        values=trial.values,
        definitions=range(len(trial.params)),
        params=[
            trial.distributions[name].to_internal_repr(value)
            for name, value in trial.params.items()
        ],
        user_attrs=encode_attributes({k: json.dumps(v) for k, v in trial.user_attrs.items()}),
        system_attrs=encode_attributes({k: json.dumps(v) for k, v in trial.system_attrs.items()}),
        steps=trial.intermediate_values.keys(),
        intermediate_values=trial.intermediate_values.values(),
    )
    if trial.datetime_start is not None:
        message.started_us = encode_time(trial.datetime_start)
    if trial.datetime_complete is not None:
        message.completed_us = encode_time(trial.datetime_complete)
    return pb.TrialBatch(
        definitions=[
            pb.Definition(
                name=name, distribution_json=distribution_to_json(trial.distributions[name])
            )
            for name in trial.params
        ],
        trials=[message.SerializeToString()],
    )


def decode_directions(directions: Iterable["pb.Direction"]) -> list[StudyDirection]:
    """Return the directions of a study."""
    return [_DIRECTIONS[direction] for direction in directions]


def decode_study(message: pb.Study) -> FrozenStudy:
    """Return a study as Optuna sees it."""
    return FrozenStudy(
        study_name=message.name,
        direction=None,
        directions=decode_directions(message.directions),
        user_attrs=decode_attributes(message.user_attrs),
        system_attrs=decode_attributes(message.system_attrs),
        study_id=message.study_id,
    )

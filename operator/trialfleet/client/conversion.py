"""From Optuna's values to the messages of ``trialfleet.v1``, and back.

What may be written is checked here, so that the call that is wrong is the one that fails.
"""

import datetime
import functools
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial

from trialfleet.model.errors import InvalidInput, MessageTooLarge
from trialfleet.wire.v1 import trialfleet_pb2 as pb

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND: Final = datetime.timedelta(microseconds=1)
_EXACT_US: Final = 2**32 * 1_000_000
"""Until then, in the year 2106, a float of seconds is right to a quarter of a microsecond."""

ITEM_BYTES: Final = 32
"""What an item takes in a message beside its name and text, at most."""

_NAME_CHARACTERS: Final = 512
"""As many as the columns of Optuna's tables hold."""

_ENVELOPE_BYTES: Final = 64 * 1024
"""Room in a message for all that is not the one large item."""

# The protocol gives Optuna's directions Optuna's own names.
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


def check_name(name: str, what: str) -> None:
    """Raise :class:`~trialfleet.model.errors.InvalidInput` for a name that no database takes."""
    if len(name) > _NAME_CHARACTERS:
        raise InvalidInput(
            f"{what} {name[:40]!r}...: found a name of {len(name)} characters, accepted: up to "
            f"{_NAME_CHARACTERS}"
        )
    if "\0" in name:
        raise InvalidInput(f"{what} {name!r}: found a NUL character in the name, accepted: none")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{what} {name!r}: found a name that can't be encoded ({error.reason}), accepted: text"
        ) from error


def encode_attribute(owner: str, key: str, value: Any, max_message_bytes: int) -> str:
    """Return an attribute's JSON text; ``owner`` says whose it is, for people.

    Raises ``TypeError`` for a value that is not JSON, ``InvalidInput``,
    and :class:`~trialfleet.model.errors.MessageTooLarge` for one that no message holds.
    """
    text = json.dumps(value)
    check_name(key, f"{owner} attribute")
    size, limit = attribute_bytes(key, text), room(max_message_bytes)
    if size > limit:
        raise MessageTooLarge(
            f"{owner} attribute {key!r}: found {size} bytes, accepted: up to {limit} bytes"
        )
    return text


def encode_new_trial(trial: FrozenTrial, max_message_bytes: int) -> pb.TrialBatch:
    """Return the template of a new trial. Raises as :func:`encode_attribute` does."""
    for name in trial.params:
        check_name(name, "parameter")
    for key in (*trial.user_attrs, *trial.system_attrs):
        check_name(key, "attribute")
    batch = encode_template(trial)
    limit = room(max_message_bytes)
    if batch.ByteSize() > limit:
        sizes = {
            f"{kind} attribute {key!r}": attribute_bytes(key, json.dumps(value))
            for kind, attributes in (("user", trial.user_attrs), ("system", trial.system_attrs))
            for key, value in attributes.items()
        }
        largest = max(sizes, key=sizes.__getitem__, default="")
        most = f", of which {largest} has {sizes[largest]}" if largest else ""
        raise MessageTooLarge(
            f"new trial: found {batch.ByteSize()} bytes{most}, accepted: up to {limit} bytes"
        )
    return batch


def attribute_bytes(key: str, text: str) -> int:
    """Return what an attribute takes in a message, at most."""
    # A key may need 4 bytes for each character; Optuna's JSON text is ASCII.
    return 4 * len(key) + len(text) + ITEM_BYTES


def room(max_message_bytes: int) -> int:
    """Return how many bytes of items a message holds."""
    return max_message_bytes - min(_ENVELOPE_BYTES, max_message_bytes // 4)

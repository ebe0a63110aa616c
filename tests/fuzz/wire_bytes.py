"""Messages of a protocol: whole ones with fields at random, and bytes that are none."""

from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from trialfleet.wire.v1 import trialfleet_pb2 as pb

NAMES: Final = ("a", "b")
"""Of studies, workers and parameters."""


class Known:
    """What there is at a proxy: random ids would lead nowhere."""

    def __init__(self) -> None:
        self.studies = [1, 2]
        self.trials = [1, 2]
        self.sessions = [bytes(16)]


_DISTRIBUTIONS: Final = [
    distribution_to_json(distribution)
    for distribution in (
        FloatDistribution(0, 1),
        FloatDistribution(-1e308, 0.5e308),
        IntDistribution(1, 9),
        CategoricalDistribution([None, True, 1, 2.5, "x"]),
    )
]
_PRUNERS: Final = (
    '{"name": "MedianPruner", "n_startup_trials": 0}',
    '{"name": "PercentilePruner", "percentile": 25.0, "n_startup_trials": 0}',
    '{"name": "PatientPruner", "patience": 1, "min_delta": 0.0, "wrapped": null}',
)
_JSON: Final = ("1", "null", '"x"', "[]", "{}", '{"a": 0.5}', '{"a": [1], "b": null}')
_STRANGE: Final = (
    *("", "\0", "é\u202e\n", "k" * 600, "x" * 300_000, "trialfleet:reason", "fixed_params"),
    *("NaN", "-Infinity", "1e999", '"\\u0000"', '"\\ud800"', "{", "[" * 100_000, "9" * 5_000),
    *('{"a": 1, "a": {}}', '{"\\u0000": 1}', '{"name": "FloatDistribution", "attributes": {}}'),
    '{"name": "FloatDistribution", "attributes": {"low": 2, "high": 1, "log": false}}',
    '{"name": "IntDistribution", "attributes": {"low": 1e400, "high": 2}}',
    '{"name": "CategoricalDistribution", "attributes": {"choices": []}}',
    '{"name": "CategoricalDistribution", "attributes": {"choices": [[1], {}]}}',
    '{"name": "MedianPruner", "n_startup_trials": "x", "interval_steps": 0}',
    '{"name": "PatientPruner", "patience": -1, "wrapped": {"name": []}}',
    *_DISTRIBUTIONS,
)
_NUMBERS: Final = (0, 1, 2, 3, 4, 5, -1, 100, 2**31 - 1, 2**31, -(2**31), 2**63 - 1, 2**64 - 1)
_DOUBLES: Final = (0.0, 1.0, -0.5, 2.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), 1e-9)
_FEW: Final = 3
"""Of a repeated field."""


def _mostly(usual: st.SearchStrategy[Any], else_: st.SearchStrategy[Any]) -> Any:
    return st.integers(0, 31).flatmap(lambda chance: else_ if chance == 17 else usual)


_STRANGE_TEXTS = st.sampled_from(_STRANGE) | st.text(st.characters(codec="utf-8"), max_size=8)


def _texts(*usual: str) -> Any:
    return _mostly(st.sampled_from(usual), _STRANGE_TEXTS)


def _numbers(low: int, high: int) -> Any:
    return st.sampled_from([number for number in _NUMBERS if low <= number <= high])


def _one_of(found: list[Any]) -> Any:
    """One of a list as it is when the message is made."""
    return st.integers(0, 7).map(lambda place: found[place % len(found)])


_SCALARS: Final[dict[int, Any]] = {
    FieldDescriptor.TYPE_INT32: _numbers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_SINT32: _numbers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: _numbers(0, 2**32 - 1),
    FieldDescriptor.TYPE_INT64: _numbers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_SINT64: _numbers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: _numbers(0, 2**64 - 1),
    FieldDescriptor.TYPE_FIXED64: _numbers(0, 2**64 - 1),
    FieldDescriptor.TYPE_DOUBLE: st.sampled_from(_DOUBLES),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_ENUM: _mostly(st.integers(0, 4), st.integers(-1, 7)),
    FieldDescriptor.TYPE_STRING: _texts(*NAMES),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=20),
}


class Messages:
    """Makes messages for a proxy of which something is known."""

    def __init__(self, known: Known) -> None:
        # What the name of a field says of its values.
        self._named: dict[str, Any] = {
            "session": _mostly(_one_of(known.sessions), st.binary(max_size=20)),
            "sequence": _mostly(st.integers(1, 2**40), _numbers(0, 2**64 - 1)),
            "study_id": _mostly(_one_of(known.studies), _numbers(-(2**63), 2**63 - 1)),
            "trial_id": _mostly(_one_of(known.trials), _numbers(-(2**63), 2**63 - 1)),
            "trial_ids": _mostly(_one_of(known.trials), _numbers(-(2**63), 2**63 - 1)),
            "wait_ms": st.integers(0, 5),
            "time_to_live_s": _mostly(st.just(60.0), st.sampled_from((0.001, 1e300, float("nan")))),
            "directions": _mostly(st.just(1), st.sampled_from((2, 7))),
            "pruner": _texts(*_PRUNERS),
            "max_trials": st.integers(0, 20),
            **dict.fromkeys(("distribution_json", "distribution"), _texts(*_DISTRIBUTIONS)),
            **dict.fromkeys(("value_json", "value", "enqueue_json"), _texts(*_JSON)),
            "datetime_start": _texts("", "2020-01-02 03:04:05.000006"),
            "datetime_complete": _texts("", "2020-01-02 03:04:05.000006"),
        }

    def whole(self, kind: Descriptor) -> st.SearchStrategy[Message]:
        """Messages that can be decoded; every field may be there."""
        fields = {field.name: self._field(field) for field in kind.fields}
        choices = [
            st.one_of([st.tuples(st.just(one.name), fields.pop(one.name)) for one in choice.fields])
            for choice in kind.oneofs
            if len(choice.fields) > 1
        ]
        # Without these most messages are refused before anything is done with them.
        given = fields.keys() & _GIVEN
        independent = st.fixed_dictionaries(
            {name: fields[name] for name in sorted(given)},
            optional={name: values for name, values in fields.items() if name not in given},
        )
        return st.tuples(independent, st.tuples(*choices)).map(
            lambda found: _made(kind, {**found[0], **dict(found[1])})
        )

    def _field(self, field: FieldDescriptor) -> Any:
        if _is_map(field) and field.message_type is not None:
            entry = field.message_type.fields_by_name
            keys, values = self._field(entry["key"]), self._field(entry["value"])
            return st.dictionaries(keys, values, max_size=_FEW)
        if field.name == "trials" and field.type == FieldDescriptor.TYPE_BYTES:
            trials = self.whole(pb.DESCRIPTOR.message_types_by_name["Trial"])
            one = _mostly(trials.map(_encoded), st.binary(max_size=20))
            return st.lists(one, min_size=1, max_size=2)
        if field.message_type is not None:
            one = self.whole(field.message_type)
        elif field.name in self._named and _fits(field):
            one = self._named[field.name]
        else:
            one = _SCALARS[field.type]
        if not field.is_repeated:
            return one
        few = st.lists(one, max_size=_FEW)
        return _mostly(st.lists(one, min_size=1, max_size=1), few) if field.name in _GIVEN else few

    def inputs(self, kind: Descriptor) -> st.SearchStrategy[bytes]:
        """Bytes for a method that takes messages of a kind; most of them can be decoded."""
        encoded = self.whole(kind).map(_encoded)
        found: st.SearchStrategy[bytes] = _mostly(
            encoded, _changed(encoded) | st.binary(max_size=64)
        )
        return found


_GIVEN: Final = {
    *("write", "session", "sequence", "name", "study_name", "worker", "reason", "directions"),
    *("study_id", "trial_id", "update", "state", "template", "trials", "definitions", "best"),
    *("params", "distribution_json", "distribution", "value", "value_json", "time_to_live_s"),
    *("steps", "intermediate_values"),
}


def _fits(field: FieldDescriptor) -> bool:
    """Whether a field is of the type that its name makes one expect."""
    if field.name == "session":
        return field.type == FieldDescriptor.TYPE_BYTES
    return field.name != "value" or field.type == FieldDescriptor.TYPE_STRING


def _encoded(message: Message) -> bytes:
    return message.SerializeToString()


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and bool(kind.GetOptions().map_entry)


def _made(kind: Descriptor, found: dict[str, Any]) -> Message:
    message = GetMessageClass(kind)()
    for name, value in found.items():
        field = kind.fields_by_name[name]
        if _is_map(field):
            getattr(message, name).update(value)
        elif field.is_repeated:
            getattr(message, name).extend(value)
        elif field.message_type is not None:
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)
    return message


@st.composite
def _changed(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> bytes:
    """A message with bytes replaced, put in, taken away or sent twice."""
    encoded = bytearray(draw(messages))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(encoded)))
        some = draw(st.binary(max_size=4))
        match draw(st.integers(0, 3)):
            case 0:
                encoded[place : place + len(some)] = some
            case 1:
                encoded[place:place] = some
            case 2:
                del encoded[place:]
            case _:
                encoded += encoded[place:]
    return bytes(encoded)

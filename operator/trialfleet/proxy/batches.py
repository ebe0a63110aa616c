"""Trials as bytes of ``trialfleet.v1``: encoded once, put together by copying.

A :class:`~trialfleet.wire.v1.trialfleet_pb2.TrialBatch` that is made of messages costs as much as
all its trials each time it is sent. Here a trial is encoded once, together with the tag and
length it has inside a batch; a batch is then a concatenation of such entries.
"""

import datetime
from collections.abc import Iterable
from typing import Final

from optuna.trial import TrialState

from trialfleet.model.trial import TrialRecord
from trialfleet.wire.fields import tag, varint
from trialfleet.wire.v1 import trialfleet_pb2 as pb

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND: Final = datetime.timedelta(microseconds=1)

_STATES: Final = {
    TrialState.RUNNING: pb.RUNNING,
    TrialState.COMPLETE: pb.COMPLETE,
    TrialState.PRUNED: pb.PRUNED,
    TrialState.FAIL: pb.FAIL,
    TrialState.WAITING: pb.WAITING,
}
_DEFINITION: Final = tag(pb.TrialBatch, "definitions")
_TRIAL: Final = tag(pb.TrialBatch, "trials")

# Of the texts' objects, the pair of them, and its places in the dictionary and the list.
_DEFINITION_OVERHEAD: Final = 350


class Definitions:
    """The names and distributions of parameters, each numbered once, from 0."""

    __slots__ = ("_indexes", "entries", "size")

    def __init__(self) -> None:
        self._indexes: dict[tuple[str, str], int] = {}
        self.entries: list[bytes] = []
        """Encoded as entries of a batch, in the order of their numbers."""
        self.size = 0
        """Bytes in memory, about."""

    def __len__(self) -> int:
        return len(self.entries)

    def index(self, name: str, distribution_json: str) -> int:
        """Return the number of a definition, a new one if it is new."""
        key = (name, distribution_json)
        found = self._indexes.get(key)
        if found is None:
            found = self._indexes[key] = len(self.entries)
            body = pb.Definition(name=name, distribution_json=distribution_json)
            encoded = body.SerializeToString()
            self.entries.append(_DEFINITION + varint(len(encoded)) + encoded)
            self.size += 2 * len(encoded) + _DEFINITION_OVERHEAD
        return found


def microseconds(moment: datetime.datetime | None) -> int | None:
    """Return the microseconds from 1970 to an aware moment."""
    return None if moment is None else (moment - _EPOCH) // _MICROSECOND


def moment(microseconds: int) -> datetime.datetime:
    """Return the moment, in UTC, so many microseconds after 1970. Raises ``OverflowError``."""
    return _EPOCH + datetime.timedelta(microseconds=microseconds)


def encode_trial(record: TrialRecord, definitions: Definitions) -> bytes:
    """Encode a trial as an entry of a batch; its parameters point into ``definitions``."""
    params = record.params
    steps = record.intermediate_values
    body = pb.Trial(
        trial_id=record.trial_id,
        number=record.number,
        state=_STATES[record.state],
        values=record.values,
        started_us=microseconds(record.started),
        completed_us=microseconds(record.completed),
        definitions=[definitions.index(param.name, param.distribution_json) for param in params],
        params=[param.value for param in params],
        user_attrs=[pb.Attribute(key=k, value_json=v) for k, v in record.user_attrs],
        system_attrs=[pb.Attribute(key=k, value_json=v) for k, v in record.system_attrs],
        steps=[step for step, _ in steps],
        intermediate_values=[value for _, value in steps],
    ).SerializeToString()
    return _TRIAL + varint(len(body)) + body


def encode_batch(records: Iterable[TrialRecord]) -> bytes:
    """Encode trials as a self-contained batch."""
    definitions = Definitions()
    trials = [encode_trial(record, definitions) for record in records]
    return b"".join((*definitions.entries, *trials))


class Page:
    """A batch that takes trials until it has a size; the first one whatever its size."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._definitions = Definitions()
        self._trials: list[bytes] = []

    def add(self, records: Iterable[TrialRecord]) -> bool:
        """Add trials as long as they fit; return whether all did."""
        for record in records:
            encoded = encode_trial(record, self._definitions)
            self._left -= len(encoded)
            if self._left < 0 and self._trials:
                return False
            self._trials.append(encoded)
        return True

    def batch(self) -> bytes:
        """Return the batch, which is self-contained."""
        return b"".join((*self._definitions.entries, *self._trials))

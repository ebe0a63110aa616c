"""What is put together from bytes is what protobuf would have made."""

import datetime
import random

from google.protobuf.internal.encoder import _VarintBytes  # type: ignore[attr-defined]
from optuna.trial import TrialState

from tests.proxy.running import trials_of
from trialfleet.model.trial import Param, TrialRecord
from trialfleet.proxy.batches import (
    Definitions,
    encode_batch,
    encode_trial,
    microseconds,
    moment,
)
from trialfleet.wire.fields import varint
from trialfleet.wire.v1 import trialfleet_pb2 as pb

RECORD = TrialRecord(
    trial_id=7,
    number=3,
    state=TrialState.COMPLETE,
    values=[0.5, 1.5],
    started=datetime.datetime(1969, 12, 31, 23, 59, 59, 999_999, datetime.UTC),
    completed=datetime.datetime(2025, 1, 2, 3, 4, 5, 678_901, datetime.UTC),
    params=[Param("x", 1.0, "X"), Param("y", 2.0, "Y")],
    user_attrs=[("u", "1")],
    system_attrs=[("s", "2")],
    intermediate_values=[(-1, 0.25), (2, 0.75)],
)


def test_varints() -> None:
    chance = random.Random(1)
    for bits in range(64):
        for value in (1 << bits, (1 << bits) - 1, chance.getrandbits(bits + 1)):
            assert varint(value) == _VarintBytes(value)


def test_a_batch_is_self_contained() -> None:
    other = TrialRecord(8, 4, TrialState.RUNNING, params=[Param("y", 3.0, "Y")])
    batch = pb.TrialBatch.FromString(encode_batch([RECORD, other]))
    assert batch.first_definition == 0
    assert [(d.name, d.distribution_json) for d in batch.definitions] == [("x", "X"), ("y", "Y")]
    first, second = trials_of(batch)
    assert first == pb.Trial(
        trial_id=7,
        number=3,
        state=pb.COMPLETE,
        values=[0.5, 1.5],
        started_us=-1,
        completed_us=1_735_787_045_678_901,
        definitions=[0, 1],
        params=[1.0, 2.0],
        user_attrs=[pb.Attribute(key="u", value_json="1")],
        system_attrs=[pb.Attribute(key="s", value_json="2")],
        steps=[-1, 2],
        intermediate_values=[0.25, 0.75],
    )
    assert list(second.definitions) == [1]
    assert not second.HasField("started_us")
    assert encode_batch([]) == b""


def test_a_name_with_another_distribution_is_another_definition() -> None:
    definitions = Definitions()
    indexes = [definitions.index(*pair) for pair in (("x", "1"), ("x", "2"), ("x", "1"))]
    assert indexes == [0, 1, 0]
    encode_trial(RECORD, definitions)
    assert len(definitions) == 4


def test_moments_keep_their_microseconds() -> None:
    for record in (RECORD.started, RECORD.completed):
        counted = microseconds(record)
        assert counted is not None and moment(counted) == record
    assert microseconds(None) is None

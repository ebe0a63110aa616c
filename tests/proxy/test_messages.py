"""A message that no command can be made of is refused, with the field's path."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from optuna.distributions import FloatDistribution, distribution_to_json

from trialfleet.model.budget import Budget, Goal
from trialfleet.model.errors import InvalidInput
from trialfleet.proxy import messages
from trialfleet.wire.v1 import trialfleet_pb2 as pb

FLOAT = distribution_to_json(FloatDistribution(0, 1))
MINIMIZE = [pb.MINIMIZE]


def trial(**fields: Any) -> bytes:
    return pb.Trial(**fields).SerializeToString()


def batch(*trials: bytes, **fields: Any) -> pb.TrialBatch:
    return pb.TrialBatch(trials=trials, **fields)


REFUSED: list[tuple[Callable[..., Any], Message, str]] = [
    (messages.write_id, pb.WriteId(), "write.sequence: found 0, accepted: 1 "),
    (
        messages.write_id,
        pb.WriteId(session=b"abc", sequence=1),
        "write.session: found 3 bytes, accepted: 16 bytes",
    ),
    (messages.write_id, pb.WriteId(session=bytes(16), sequence=2**63), "write.sequence: found 9"),
    (messages.ensure_study, pb.EnsureStudyRequest(directions=MINIMIZE), "name: found none"),
    (messages.ensure_study, pb.EnsureStudyRequest(name="s"), "directions: found none"),
    (
        messages.ensure_study,
        pb.EnsureStudyRequest.FromString(b"\x0a\x01s\x12\x01\x07"),
        "directions: found 7, accepted: MINIMIZE, MAXIMIZE",
    ),
    (
        messages.ensure_study,
        pb.EnsureStudyRequest(name="s", directions=MINIMIZE, metric_names=["a", "b"]),
        "metric_names: found 2, accepted: none, or one for each of the 1 objectives",
    ),
    (
        messages.ensure_study,
        pb.EnsureStudyRequest(name="s", directions=MINIMIZE, enqueue_json=["{}", "[1]"]),
        "enqueue_json[1]: found '[1]', accepted: an object",
    ),
    (
        messages.ensure_study,
        pb.EnsureStudyRequest(name="s", directions=MINIMIZE, enqueue_json=["{"]),
        "enqueue_json[0]: not JSON text: ",
    ),
    (
        messages.ensure_study,
        pb.EnsureStudyRequest(name="s", directions=MINIMIZE, budget=pb.Budget(timeout_s=math.nan)),
        "budget.timeout_s: found nan, accepted: 0 or more seconds",
    ),
    (
        messages.ensure_study,
        pb.EnsureStudyRequest(
            name="s", directions=MINIMIZE, budget=pb.Budget(goals=[pb.Goal(objective=1)])
        ),
        "budget.goals[0].objective: found 1, accepted: 0 to 0",
    ),
    (
        messages.ensure_study,
        pb.EnsureStudyRequest(
            name="s", directions=MINIMIZE, budget=pb.Budget(goals=[pb.Goal(value=math.nan)])
        ),
        "budget.goals[0].value: found NaN",
    ),
    (
        messages.ensure_study,
        pb.EnsureStudyRequest(name="s", directions=MINIMIZE, definition="x" * 257),
        "definition: found 257 characters, accepted: at most 256",
    ),
    (
        messages.open_session,
        pb.OpenSessionRequest(session=bytes(16), time_to_live_s=1),
        "worker: found none",
    ),
    (
        messages.open_session,
        pb.OpenSessionRequest(session=bytes(16), worker="w"),
        "time_to_live_s: found 0.0, accepted: more than 0 seconds",
    ),
    (
        messages.open_session,
        pb.OpenSessionRequest(worker="w", time_to_live_s=1),
        "session: found 0 bytes",
    ),
    (messages.give_up, pb.GiveUpRequest(worker="w"), "reason: found none"),
    (messages.give_up, pb.GiveUpRequest(reason="R"), "whose: found none"),
    (messages.give_up, pb.GiveUpRequest(reason="R", worker=""), "whose: found none"),
    (
        messages.trial_update,
        pb.TrialUpdate(trial_id=1, steps=[1, 2], intermediate_values=[0.5]),
        "intermediate_values: found 1 for 2 steps",
    ),
    (
        messages.trial_update,
        pb.TrialUpdate(trial_id=1, user_attrs=[pb.Attribute(key="k", value_json="nope")]),
        "user_attrs['k']: not JSON text: ",
    ),
    (
        messages.trial_update,
        pb.TrialUpdate(trial_id=1, user_attrs=[pb.Attribute(key="k", value_json="[" * 100_000)]),
        "user_attrs['k']: not JSON text: ",
    ),
    (
        messages.trial_update,
        pb.TrialUpdate(trial_id=1, params=[pb.Param(name="x", distribution_json="[]")]),
        "distribution_json: found '[]', accepted: ",
    ),
    (messages.template, batch(), "template.trials: found 0, accepted: 1"),
    (messages.template, batch(trial(), trial()), "template.trials: found 2, accepted: 1"),
    (messages.template, batch(b"\xff"), "template.trials: found bytes that are no Trial"),
    (
        messages.template,
        batch(trial(), first_definition=1),
        "template.first_definition: found 1, accepted: 0",
    ),
    (
        messages.template,
        batch(trial(params=[1])),
        "template: found 1 params for 0 definitions",
    ),
    (
        messages.template,
        batch(trial(params=[1], definitions=[0])),
        "template: found the definition 0, accepted: less than 0",
    ),
    (
        messages.template,
        batch(trial(started_us=2**62)),
        "template: a time out of range: ",
    ),
    (messages.template, batch(b"\x18\x09"), "state: found 9, accepted: 0 to 4"),
]


@pytest.mark.parametrize(("convert", "message", "line"), REFUSED)
def test_what_is_refused(convert: Callable[..., Any], message: Message, line: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        convert(message)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "null", '{"name": "NoSuch", "attributes": {}}', '{"name": 1}', "1", '"x"'),
        "[" * 100_000,
    ],
    ids=lambda text: text[:20],
)
def test_a_text_that_is_no_distribution(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^distribution_json: found "):
        messages.check_distribution(text)


def test_an_absent_end_of_a_budget_is_none() -> None:
    request = pb.EnsureStudyRequest(name="s", directions=MINIMIZE)
    assert messages.ensure_study(request).budget == Budget()
    request.budget.trials = 0
    request.budget.timeout_s = 0
    request.budget.goals.add(value=-math.inf)
    assert messages.ensure_study(request).budget == Budget(
        trials=0, timeout_s=0, goals=(Goal(0, -math.inf),)
    )

"""Conditions of a status: what is wanted, put beside what was."""

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trialfleet.api.base import Condition
from trialfleet.kube.times import timestamp

LONGEST_MESSAGE = 1024
"""Characters: a status stays small."""

LONGEST_LINE = 256
"""Characters of what a column of a table shows."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a condition says now."""

    type: str
    status: bool
    reason: str
    message: str = ""


def settle(
    old: Iterable[Condition],
    wanted: Iterable[Wanted],
    *,
    generation: int,
    now: datetime.datetime,
) -> list[Condition]:
    """Return the conditions, with the time of the last transition of each.

    A condition that is not wanted is dropped, so that it does not say for ever what once was.
    """
    before = {condition.type: condition for condition in old}
    return [_settled(before.get(one.type), one, generation, now) for one in wanted]


def with_condition(
    status: Mapping[str, Any],
    old: Iterable[Condition],
    wanted: Wanted,
    generation: int,
    now: datetime.datetime,
) -> dict[str, Any]:
    """Return a status in which one condition says something else."""
    (condition,) = settle(old, [wanted], generation=generation, now=now)
    dumped = condition.model_dump(mode="json", by_alias=True, exclude_none=True)
    others = [one for one in status.get("conditions", ()) if one["type"] != wanted.type]
    return {**status, "conditions": [*others, dumped]}


def is_true(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether a condition is there and true."""
    return any(one.type == kind and one.status == "True" for one in conditions)


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """Return the condition of a type."""
    return next((one for one in conditions if one.type == kind), None)


def conditions_of(status: Mapping[str, object]) -> list[Condition]:
    """Return the conditions of a status as it was read; what is none is passed over."""
    found = status.get("conditions")
    if not isinstance(found, list):
        return []
    fields = {field.alias or name for name, field in Condition.model_fields.items()}
    conditions = []
    for one in found:
        if isinstance(one, dict) and {"type", "status", "reason"} <= one.keys():
            known = {key: part for key, part in one.items() if key in fields}
            conditions.append(Condition.model_validate(known))
    return conditions


def short(message: str) -> str:
    """Return a message of at most ``LONGEST_MESSAGE`` characters."""
    text = message.strip()
    return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 3] + "..."


def one_line(message: str) -> str:
    """Return a message as a column of a table shows it."""
    text = " ".join(message.split())
    return text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE - 3] + "..."


def _settled(
    old: Condition | None, wanted: Wanted, generation: int, now: datetime.datetime
) -> Condition:
    status = "True" if wanted.status else "False"
    same = old is not None and old.status == status
    return Condition(
        type=wanted.type,
        status="True" if wanted.status else "False",
        reason=wanted.reason,
        message=short(wanted.message),
        last_transition_time=(
            old.last_transition_time if same and old is not None else timestamp(now)
        ),
        observed_generation=generation,
    )

"""A trial as the data path carries it, as plain values.

States are Optuna's; parameter values are in the internal representation of their distribution,
distributions and attribute values are Optuna's JSON text, times are aware and in UTC.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from optuna.trial import TrialState

UNPICKLED: Final = ("cma:optimizer", "sepcma:optimizer", "cmawm:optimizer")
"""How system attributes of trials begin that a sampler unpickles: Optuna's CmaEsSampler does.

Who can write them runs code in the workers of the study.
"""


class Param(NamedTuple):
    """One parameter of a trial."""

    name: str
    value: float
    """In the internal representation of the distribution."""
    distribution_json: str


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """A trial as it is stored; as a template, ``trial_id`` and ``number`` are ignored."""

    trial_id: int
    number: int
    state: TrialState
    values: Sequence[float] | None = None
    started: datetime.datetime | None = None
    completed: datetime.datetime | None = None
    params: Sequence[Param] = ()
    user_attrs: Sequence[tuple[str, str]] = ()
    system_attrs: Sequence[tuple[str, str]] = ()
    intermediate_values: Sequence[tuple[int, float]] = ()
    """Pairs of step and value; the value may be NaN or infinite."""


@dataclass(frozen=True, slots=True)
class TrialUpdate:
    """What a trial gained since the last write of its owner."""

    trial_id: int
    params: Sequence[Param] = ()
    user_attrs: Sequence[tuple[str, str]] = ()
    system_attrs: Sequence[tuple[str, str]] = ()
    intermediate_values: Sequence[tuple[int, float]] = ()

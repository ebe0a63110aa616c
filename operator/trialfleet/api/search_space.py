"""The search space: what values a parameter may take, as Optuna's distributions."""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Self

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import ConfigDict, Field, model_validator

from trialfleet.api.base import ACCEPTED, RULES, Model, Scalar, broken, found_fields, rule
from trialfleet.api.suggestions import found, listed

_ORDER: Final = "accepted: low <= high"
_LOG_LOW: Final = "accepted with log: a low above 0"
_LOG_LOW_INT: Final = "accepted with log: a low of at least 1"
_LOG_STEP: Final = "log and step exclude each other: leave one out"
_ONE_RANGE: Final = "accepted: exactly one of float, int and categorical"

_LARGEST: Final = 2**53
"""Optuna stores a parameter as a float, which holds each whole number up to here."""
_EXACT: Final = "-2^53 to 2^53"
_INT64: Final = 2**63
"""Kubernetes reads larger integers as floats."""


class FloatRange(Model):
    """Real numbers from low to high, both included."""

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                rule("self.low <= self.high", _ORDER),
                rule("!self.log || self.low > 0.0", _LOG_LOW),
                rule("!self.log || !has(self.step)", _LOG_STEP),
            ]
        }
    )

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Sample the value's logarithm evenly, for ranges over orders of magnitude."""
    step: Annotated[float, Field(gt=0)] | None = None
    """Distance between values; absent: any value in between."""

    @property
    def largest(self) -> float:
        """The largest value that is reached in whole steps."""
        if self.step is None:
            return self.high
        low, high, step = (Decimal(str(x)) for x in (self.low, self.high, self.step))
        return float(low + (high - low) // step * step)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low > self.high:
            raise broken(f"found low {self.low} and high {self.high}, {_ORDER}")
        if self.log and self.low <= 0:
            raise broken(f"found low {self.low}, {_LOG_LOW}")
        if self.log and self.step is not None:
            raise broken(_LOG_STEP)
        width = self.high - self.low
        if not math.isfinite(width):
            raise broken(
                f"found low {self.low} and high {self.high}, accepted: a distance below 1.8e308"
            )
        if self.step is not None and width / self.step > _LARGEST:
            raise broken(
                f"found step {self.step} for a range of {width}, accepted: at most 2^53 steps"
            )
        return self


_Exact = Annotated[
    int,
    Field(
        ge=-_LARGEST,
        le=_LARGEST,
        json_schema_extra={
            ACCEPTED: f"an integer from {_EXACT}: Optuna rounds larger ones when it stores them"
        },
    ),
]


class IntRange(Model):
    """Whole numbers from low to high, both included."""

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                rule("self.low <= self.high", _ORDER),
                rule("!self.log || self.low >= 1", _LOG_LOW_INT),
                rule("!self.log || self.step == 1", _LOG_STEP),
            ]
        }
    )

    low: _Exact
    """Smallest value."""
    high: _Exact
    """Largest value."""
    log: bool = False
    """Sample the value's logarithm evenly, for ranges over orders of magnitude."""
    step: Annotated[int, Field(ge=1)] = 1
    """Distance between values."""

    @property
    def largest(self) -> int:
        """The largest value that is reached in whole steps."""
        return self.low + (self.high - self.low) // self.step * self.step

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low > self.high:
            raise broken(f"found low {self.low} and high {self.high}, {_ORDER}")
        if self.log and self.low < 1:
            raise broken(f"found low {self.low}, {_LOG_LOW_INT}")
        if self.log and self.step != 1:
            raise broken(_LOG_STEP)
        return self


class ParameterSpace(Model):
    """The values of one parameter: exactly one of float, int and categorical."""

    model_config = ConfigDict(
        json_schema_extra={
            # CEL does not see categorical, whose items have no type.
            "minProperties": 1,
            "maxProperties": 1,
            RULES: [rule("!has(self.float) || !has(self.int)", _ONE_RANGE)],
            "examples": [{"float": {"low": 1e-5, "high": 0.1, "log": True}}],
        }
    )

    float_: FloatRange | None = Field(default=None, alias="float")
    """A range of real numbers."""
    int_: IntRange | None = Field(default=None, alias="int")
    """A range of whole numbers."""
    categorical: Annotated[list[Scalar], Field(min_length=1, max_length=1000)] | None = None
    """A choice of values without an order: strings, numbers, booleans or null."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        kinds = ("float_", "int_", "categorical")
        if sum(getattr(self, kind) is not None for kind in kinds) != 1:
            raise broken(f"{found_fields(self, *kinds)}, {_ONE_RANGE}")
        seen = dict[Scalar, Scalar]()
        for choice in self.categorical or ():
            if _is_rounded(choice):
                raise broken(f"found {choice} in categorical, accepted: {_INTEGERS}")
            if choice in seen:
                raise broken(_repeated(seen[choice], choice))
            seen[choice] = choice
        return self

    @property
    def size(self) -> float:
        """How many values there are; infinity for a float without a step."""
        if self.categorical is not None:
            return len(self.categorical)
        range_ = self.float_ or self.int_
        assert range_ is not None
        if range_.step is None:
            return math.inf
        return round((range_.largest - range_.low) / range_.step) + 1

    def distribution(self) -> BaseDistribution:
        """Return the parameter's Optuna distribution."""
        if self.float_ is not None:
            real = self.float_
            return FloatDistribution(real.low, real.largest, log=real.log, step=real.step)
        if self.int_ is not None:
            whole = self.int_
            return IntDistribution(whole.low, whole.largest, log=whole.log, step=whole.step)
        return CategoricalDistribution(self.categorical or ())


def distributions(space: Mapping[str, ParameterSpace]) -> dict[str, BaseDistribution]:
    """Return the Optuna distributions of a search space, in its order."""
    return {name: parameter.distribution() for name, parameter in space.items()}


def is_possible(distribution: BaseDistribution, value: Scalar) -> bool:
    """Return whether a parameter of this distribution can take the value, and store it exactly."""
    if isinstance(distribution, CategoricalDistribution):
        return any(
            value == choice and type(value) is type(choice) for choice in distribution.choices
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(value, int) and abs(value) > _LARGEST and not _is_float(value):
        return False
    if isinstance(distribution, IntDistribution) and not float(value).is_integer():
        return False
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    # Optuna's own check of a range raises for what has no logarithm.
    if not distribution.low <= value <= distribution.high:
        return False
    number: Any = value
    return bool(distribution._contains(distribution.to_internal_repr(number)))


def describe(distribution: BaseDistribution) -> str:
    """Return in words what values a distribution has."""
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        return "one of " + listed(map(found, choices), len(choices))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    kind = "a whole number" if isinstance(distribution, IntDistribution) else "a number"
    step = f" in steps of {distribution.step}" if distribution.step not in (None, 1) else ""
    return f"{kind} from {distribution.low} to {distribution.high}{step}"


def rounded(value: Scalar) -> str:
    """Return what is accepted instead of an integer that a cluster would round, else nothing."""
    return _INTEGERS if _is_rounded(value) else ""


def _is_rounded(value: Scalar) -> bool:
    return isinstance(value, int) and not -_INT64 <= value < _INT64


_INTEGERS: Final = "integers of 64 bits, because a cluster rounds others; or a text, in quotes"


def _is_float(value: int) -> bool:
    return abs(value) < _INT64 and int(float(value)) == value


def _repeated(first: Scalar, second: Scalar) -> str:
    if type(first) is type(second):
        return f"found {found(first)} twice in categorical, accepted: each choice once"
    return (
        f"found {found(first)} and {found(second)} in categorical, which are equal to Optuna: it "
        "would record the first for both; accepted: different choices, such as texts in quotes"
    )

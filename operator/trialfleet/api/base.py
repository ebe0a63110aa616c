"""What every resource is built of: the base model, and strings with a meaning.

A type that is told to people by more than its JSON type carries ``x-accepted`` in its JSON schema:
the words that an error message uses for what is accepted. It is dropped from the CRDs.
"""

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import durationpy
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

ACCEPTED: Final = "x-accepted"
RULES: Final = "x-kubernetes-validations"
OPEN: Final[dict[str, Any]] = {"x-kubernetes-preserve-unknown-fields": True}


class Model(BaseModel):
    """A part of a resource: camelCase on the wire, immutable, no unknown fields."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class OpenModel(Model):
    """A part of one of Kubernetes' own objects: fields that are not known here are kept."""

    model_config = ConfigDict(extra="allow", json_schema_extra=OPEN)


def broken(message: str) -> PydanticCustomError:
    """Return the error of a value that breaks a rule; the message says what is accepted."""
    return PydanticCustomError("rule", "{message}", {"message": message})


@dataclass(frozen=True)
class Finding:
    """A field, relative to the object that was looked at, and what there is to say of it."""

    path: tuple[str | int, ...]
    message: str


def broken_at(title: str, findings: Iterable[Finding]) -> ValidationError:
    """Return the error of several values that break rules, each at a path of its own.

    Raised in a validator, its parts join the other errors of the whole object.
    """
    return ValidationError.from_exception_data(
        title,
        [
            InitErrorDetails(type=broken(finding.message), loc=finding.path, input=None)
            for finding in findings
        ],
    )


def rule(expression: str, message: str, **more: str) -> JsonDict:
    """Return a CEL rule in the form of a CRD's schema.

    A rule and the validator that gives the same verdict share their message.
    """
    return {"rule": expression, "message": message, **more}


def found_fields(model: Model, *fields: str) -> str:
    """Return ``found a and b`` for those of the fields that are given, by their wire names."""
    given = [
        type(model).model_fields[name].alias or name
        for name in fields
        if getattr(model, name) is not None
    ]
    return f"found {' and '.join(given) or 'none'}"


def exactly_one(*fields: str) -> str:
    """Return the CEL expression for an object in which exactly one of the fields is given."""
    return f"{count_given(*fields)} == 1"


def count_given(*fields: str) -> str:
    """Return the CEL expression for the number of fields that an object gives."""
    return f"[{', '.join(f'has(self.{field})' for field in fields)}].filter(given, given).size()"


# -- durations -------------------------------------------------------------------------

_PART: Final = r"([0-9]+(\.[0-9]+)?(ms|s|m|h))"
_POSITIVE_PART: Final = r"([0-9]*[1-9][0-9]*(\.[0-9]+)?|[0-9]+\.[0-9]*[1-9][0-9]*)(ms|s|m|h)"
_DURATION: Final = re.compile(f"{_PART}+")
_DURATION_CHARACTERS: Final = 32
_POSITIVE_DURATION: Final = f"^{_PART}*{_POSITIVE_PART}{_PART}*$"


def parse_duration(text: str) -> datetime.timedelta:
    """Return what a duration such as ``1h30m`` stands for.

    Raises:
        ValueError: the text is no duration of hours, minutes, seconds and milliseconds.
    """
    if not _DURATION.fullmatch(text):
        raise ValueError(f"not a duration: {text!r}")
    return durationpy.from_str(text)


def format_duration(duration: datetime.timedelta) -> str:
    """Return a duration in the form that ``parse_duration`` takes."""
    if not duration:
        return "0s"
    milliseconds = round(duration / datetime.timedelta(milliseconds=1))
    text = ""
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        text += f"{count}{unit}" if count else ""
    return text


def _read_duration(value: object) -> object:
    if isinstance(value, datetime.timedelta):
        return value
    if not isinstance(value, str) or len(value) > _DURATION_CHARACTERS:
        raise PydanticCustomError("duration", "not a duration")
    try:
        duration = parse_duration(value)
    except ValueError:
        raise PydanticCustomError("duration", "not a duration") from None
    if not duration:
        raise PydanticCustomError("duration", "not a duration")
    return duration


Duration = Annotated[
    datetime.timedelta,
    BeforeValidator(_read_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": _POSITIVE_DURATION,
            "maxLength": _DURATION_CHARACTERS,
            ACCEPTED: "a duration such as 90s, 20m or 1h30m",
        }
    ),
]

# -- quantities ------------------------------------------------------------------------

_QUANTITY: Final = (
    r"^([+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+))"
    r"([KMGTPE]i|[numkMGTPE]|[eE][+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+))?$"
)

_QUANTITY_CHARACTERS: Final = 64


def _check_quantity(value: object) -> object:
    good = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, str) and len(value) <= _QUANTITY_CHARACTERS:
        good = re.fullmatch(_QUANTITY, value) is not None
    if not good:
        raise PydanticCustomError("quantity", "not a quantity")
    return value


Quantity = Annotated[
    str | int,
    BeforeValidator(_check_quantity),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "pattern": _QUANTITY,
            "maxLength": _QUANTITY_CHARACTERS,
            ACCEPTED: "a quantity such as 2, 500m or 4Gi (a fraction in quotes: '0.5')",
        }
    ),
]
"""A Kubernetes quantity, as it was written."""

# -- names -----------------------------------------------------------------------------


def _text(pattern: str, max_length: int, accepted: str) -> Any:
    return Field(pattern=pattern, max_length=max_length, json_schema_extra={ACCEPTED: accepted})


DnsLabel = Annotated[
    str,
    _text(
        r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        63,
        "lower-case letters, digits and '-', at most 63, with a letter or digit at both ends",
    ),
]
DnsSubdomain = Annotated[
    str,
    _text(
        r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        253,
        "lower-case letters, digits, '-' and '.', at most 253, with a letter or digit at both ends",
    ),
]
KeyName = Annotated[
    str, _text(r"^[-._a-zA-Z0-9]+$", 253, "a key: letters, digits, '-', '_' and '.', at most 253")
]
MetricName = Annotated[
    str,
    _text(
        r"^[A-Za-z_][A-Za-z0-9_./-]*$",
        64,
        "a name: letters, digits and any of _./-, at most 64, beginning with a letter or '_'",
    ),
]
ParameterName = Annotated[str, Field(min_length=1, max_length=128)]
Text = Annotated[str, Field(min_length=1, max_length=4096)]


class _ScalarSchema:
    """Checks a scalar in pydantic's own code: a study may have thousands of them."""

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        kinds: list[core_schema.CoreSchema | tuple[core_schema.CoreSchema, str]] = [
            core_schema.none_schema(),
            core_schema.bool_schema(strict=True),
            core_schema.int_schema(strict=True),
            core_schema.float_schema(strict=True, allow_inf_nan=False),
            core_schema.str_schema(strict=True),
        ]
        return core_schema.custom_error_schema(
            core_schema.union_schema(kinds, mode="left_to_right"),
            custom_error_type="scalar",
            custom_error_message="not a scalar",
        )


Scalar = Annotated[
    bool | int | float | str | None,
    _ScalarSchema(),
    WithJsonSchema({**OPEN, ACCEPTED: "a string, a number, true, false or null"}),
]
"""A categorical choice or a parameter's value."""

# -- references ------------------------------------------------------------------------


class ConfigMapKey(Model):
    """A key of a ConfigMap in the study's namespace."""

    name: DnsSubdomain
    """Name of the ConfigMap."""
    key: KeyName
    """Key in the ConfigMap's data."""


class SecretKey(Model):
    """A key of a Secret in the same namespace."""

    name: DnsSubdomain
    """Name of the Secret."""
    key: KeyName = "url"
    """Key in the Secret's data."""


class LabelledMetadata(OpenModel):
    """Labels and annotations that are passed on to pods."""

    labels: dict[str, str] | None = Field(default=None, max_length=64)
    """Labels, for example Kueue's `kueue.x-k8s.io/queue-name`."""
    annotations: dict[str, str] | None = Field(default=None, max_length=64)
    """Annotations."""


class Condition(Model):
    """One aspect of a resource's state, as in Kubernetes' own `metav1.Condition`."""

    type: Annotated[str, Field(max_length=316)]
    """What the condition says, in CamelCase."""
    status: Literal["True", "False", "Unknown"]
    """Whether it is so."""
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    """Why, as one word in CamelCase for programs."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Why, for people."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When the status last changed."""
    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """The generation of the spec that the condition was made for."""


class ObjectMeta(Model):
    """Kubernetes' own fields of every object."""

    model_config = ConfigDict(json_schema_extra={ACCEPTED: "an object with a name"})

    name: DnsSubdomain
    """Name, unique in the namespace."""
    namespace: DnsLabel | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    generate_name: str | None = None
    finalizers: list[str] | None = None
    owner_references: list[dict[str, Any]] | None = None
    managed_fields: list[dict[str, Any]] | None = None
    uid: str | None = None
    resource_version: str | None = None
    generation: int | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    self_link: str | None = None

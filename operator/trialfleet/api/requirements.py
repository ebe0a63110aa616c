"""Python packages that an objective asks for: single requirements, and files of them."""

from collections.abc import Iterator
from typing import Annotated, Final, Self

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import BeforeValidator, ConfigDict, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from trialfleet.api.base import (
    ACCEPTED,
    RULES,
    ConfigMapKey,
    Model,
    Text,
    broken,
    exactly_one,
    found_fields,
    rule,
)

_CHARACTERS: Final = 512

_INCLUDES: Final = (
    "-r",
    "--requirement",
    "-c",
    "--constraint",
    "-e",
    "--editable",
    "--requirements",
)

_ONE_SOURCE: Final = "accepted: exactly one of configMap and file"
_FILE: Final = "file is read on one machine only, by 'trialfleet run'; on a cluster give configMap"


def _check(value: object) -> object:
    if not isinstance(value, str) or len(value) > _CHARACTERS or not is_requirement(value):
        raise PydanticCustomError("requirement", "not a requirement")
    return value


PackageRequirement = Annotated[
    str,
    BeforeValidator(_check),
    WithJsonSchema(
        {
            "type": "string",
            # An option of pip's is none. The rest is for who can read versions and markers.
            "pattern": r"^[A-Za-z0-9][^\r\n]*$",
            "maxLength": _CHARACTERS,
            ACCEPTED: "a requirement as pip takes it, such as scikit-learn==1.7.*",
        }
    ),
]
"""A package and the versions of it, as in ``pip install``."""


def is_requirement(text: str) -> bool:
    """Whether a text is one package with its versions, extras, URL and marker, and no option."""
    try:
        Requirement(text)
    except InvalidRequirement:
        return False
    return "\n" not in text and "\r" not in text and text[:1].isalnum()


def requirements_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield the requirements of a requirements file, each with its line, without its options.

    Raises:
        ValueError: A line is no requirement and no option that counts for all of them. The message
            has the line, what was found, and what is accepted.
    """
    number, kept = 0, ""
    for at, raw in enumerate(text.splitlines(), 1):
        number = number or at
        line = raw.split(" #")[0].strip()
        if line.endswith("\\"):
            kept += line[:-1]
            continue
        line, kept, began, number = (kept + line).strip(), "", number, 0
        if not line or line.startswith("#"):
            continue
        word = line.split("=")[0].split()[0]
        if word in _INCLUDES or (word[:2] in _INCLUDES and not word.startswith("--")):
            raise ValueError(
                f"line {began}: found {line!r:.80}, accepted: requirements and options, but no "
                "other file or folder"
            )
        if line.startswith("-"):
            continue
        requirement = line.split(" --")[0].strip()
        if not is_requirement(requirement):
            raise ValueError(
                f"line {began}: found {requirement!r:.80}, accepted: a requirement such as "
                "scikit-learn==1.7.*"
            )
        yield began, requirement


class RequirementsFile(Model):
    """A requirements file, as pip reads it: of requirements and options, and no other files."""

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                rule("!has(self.file)", _FILE),
                rule(exactly_one("configMap", "file"), _ONE_SOURCE),
            ],
            "examples": [{"configMap": {"name": "digits", "key": "requirements.txt"}}],
        }
    )

    config_map: ConfigMapKey | None = None
    """The key of a ConfigMap that holds the file."""
    file: Text | None = None
    """A file beside the manifest. Read by `trialfleet run`, on one machine only: a cluster does
    not have the file, so it wants configMap."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.config_map is None) == (self.file is None):
            raise broken(f"{found_fields(self, 'config_map', 'file')}, {_ONE_SOURCE}")
        return self

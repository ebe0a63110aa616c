"""The kinds of objective: Python, any program, or one Kubernetes object a trial."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Self

from pydantic import ConfigDict, Field, model_validator

from trialfleet.api.base import (
    ACCEPTED,
    OPEN,
    RULES,
    ConfigMapKey,
    MetricName,
    Model,
    Scalar,
    Text,
    broken,
    exactly_one,
    found_fields,
    rule,
)
from trialfleet.api.requirements import PackageRequirement, RequirementsFile
from trialfleet.api.suggestions import found

_ONE_KIND: Final = "accepted: exactly one of python, command and job"
_ONE_SOURCE: Final = "accepted: exactly one of source, configMap, callable and file"
_FILE: Final = (
    "file is read on one machine only, by 'trialfleet run'; on a cluster give source, configMap "
    "or callable"
)
_CALLABLE_FUNCTION: Final = "function has no effect beside callable, which names the function"
_ONE_METRIC: Final = "accepted: at most one of file and tensorboard"
_REGEX_KEY: Final = "key has no effect beside regex, whose group is the value"
_STEP: Final = "step has no effect beside regex, in which it is a group called step"
_EVENTS: Final = "regex and step have no effect beside tensorboard, whose values have steps"

_PLACEHOLDER: Final = re.compile(r"\$\$|\$\(([^()]*)\)")
_MAX_DOLLARS: Final = 10_000
_TOO_MANY_DOLLARS: Final = f"dollar signs, accepted: at most {_MAX_DOLLARS}"
_VARIABLE: Final = re.compile(r"\$\$|\$(?:(\w+)|\{(\w+)\})")
_SHELLS: Final = frozenset({"sh", "ash", "bash", "dash", "fish", "ksh", "zsh", "envsubst"})

# Python takes milliseconds to compile each range of thousands of characters.
_WIDE_RANGE: Final = re.compile(r"\[.*-([^\x00-\x7f]|\\[uUN])", re.DOTALL)


def placeholders(template: object) -> Iterator[str]:
    """Yield the names in all `$(name)` of a nested value's strings; `$$(name)` is none."""
    if isinstance(template, str):
        for match in _PLACEHOLDER.finditer(template):
            if match[1] is not None:
                yield match[1]
    elif isinstance(template, dict):
        for value in template.values():
            yield from placeholders(value)
    elif isinstance(template, list):
        for value in template:
            yield from placeholders(value)


def variables(texts: Iterable[str]) -> Iterator[str]:
    """Yield the names in all `$NAME` and `${NAME}`; `$$NAME` is none."""
    for text in texts:
        for match in _VARIABLE.finditer(text):
            name = match[1] or match[2]
            if name is not None and not name[0].isdigit():
                yield name


def _check_dollars(template: object) -> None:
    count, waiting = 0, [template]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            count += part.count("$")
        elif isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    if count > _MAX_DOLLARS:
        raise broken(f"found {count} {_TOO_MANY_DOLLARS}")


def fill(text: str, values: Mapping[str, Scalar]) -> str:
    """Return a text with each `$(name)` replaced by the value of that name, and `$$` by `$`.

    Values are written as in JSON (`0.001`, `true`, `null`), but strings without quotes.

    Raises:
        KeyError: There is no value of that name.
    """

    def replace(match: re.Match[str]) -> str:
        if match[1] is None:
            return "$"
        value = values[match[1]]
        return value if isinstance(value, str) else json.dumps(value)

    return _PLACEHOLDER.sub(replace, text)


class PythonObjective(Model):
    """A Python function of an Optuna trial."""

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                rule("!has(self.file)", _FILE),
                rule(exactly_one("source", "configMap", "callable", "file"), _ONE_SOURCE),
                rule("!has(self.callable) || !has(self.__function__)", _CALLABLE_FUNCTION),
            ],
        }
    )

    source: Annotated[str, Field(min_length=1, max_length=262_144)] | None = None
    """Python source text that defines the function."""
    config_map: ConfigMapKey | None = None
    """The key of a ConfigMap that holds the source text."""
    callable: (
        Annotated[
            str,
            Field(
                pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$",
                max_length=512,
                json_schema_extra={ACCEPTED: "module:function, such as 'package.module:objective'"},
            ),
        ]
        | None
    ) = Field(default=None, examples=["package.module:objective"])
    """A function that the worker's image has installed, as `package.module:function`."""
    file: Text | None = None
    """A Python file beside the manifest that defines the function. Read by `trialfleet run`, on
    one machine only: a cluster does not have the file, so it wants source or configMap."""
    function: (
        Annotated[
            str,
            Field(
                pattern=r"^[A-Za-z_]\w*$",
                max_length=128,
                json_schema_extra={ACCEPTED: "the name of a Python function"},
            ),
        ]
        | None
    ) = Field(default=None, examples=["objective"])
    """Name of the function in the source text; absent: `objective`."""
    packages: Annotated[list[PackageRequirement], Field(min_length=1, max_length=64)] | None = (
        Field(default=None, examples=[["scikit-learn==1.7.*"]])
    )
    """Packages that are installed for the objective, as in `pip install`. Those that Trialfleet
    itself needs stay as they are."""
    requirements: RequirementsFile | None = None
    """A requirements file with packages, in place of packages or beside it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        sources = ("source", "config_map", "callable", "file")
        if sum(getattr(self, source) is not None for source in sources) != 1:
            raise broken(f"{found_fields(self, *sources)}, {_ONE_SOURCE}")
        if self.callable is not None and self.function is not None:
            raise broken(_CALLABLE_FUNCTION)
        return self


class Metric(Model):
    """Where a program's output holds a metric.

    Without regex and file: the last line of standard output that is a JSON object with the key.
    """

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                rule("!has(self.file) || !has(self.tensorboard)", _ONE_METRIC),
                rule("!has(self.tensorboard) || !(has(self.regex) || has(self.step))", _EVENTS),
                rule("!has(self.regex) || !has(self.key)", _REGEX_KEY),
                rule("!has(self.step) || !has(self.regex)", _STEP),
            ],
            "examples": [{"regex": r"accuracy=(\S+)"}, {"file": "metrics.json"}],
        }
    )

    regex: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=1024,
                json_schema_extra={ACCEPTED: "a regular expression with one group"},
            ),
        ]
        | None
    ) = None
    """A regular expression with one group, the value; the last match in standard output counts.
    Another group called step, as in `epoch (?P<step>\\d+) loss=(\\S+)`, says of which step the
    value is, as the field step does for JSON."""
    file: Text | None = None
    """A file that the program writes, a JSON object or lines as it would print them; in the trial's
    checkpoint folder, which the environment variable TRIALFLEET_CHECKPOINT_DIR names, or relative
    to the working directory.
    Where several workers share a working directory, as on one machine, only the former tells their
    trials apart."""
    tensorboard: Text | None = Field(default=None, examples=["runs"])
    """A folder into which the program writes event files of TensorBoard, or into folders below it;
    where it may be is as for file, and key is the tag. Each value is of a step. Needs the package
    tensorboard where workers run, as `trialfleet[tensorboard]` has it."""
    key: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Key in the JSON object, or tag; absent: the metric's name."""
    step: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Key in the JSON object that says of which step the value is, a whole number; absent: `step`.
    A value with a step is an intermediate value, after which the pruner may give the trial up: the
    program gets SIGTERM then. For studies of one objective."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.file is not None and self.tensorboard is not None:
            raise broken(f"found file and tensorboard, {_ONE_METRIC}")
        if self.tensorboard is not None and (self.regex is not None or self.step is not None):
            raise broken(_EVENTS)
        if self.regex is not None and self.key is not None:
            raise broken(_REGEX_KEY)
        if self.step is not None and self.regex is not None:
            raise broken(_STEP)
        if self.regex is not None:
            shown = found(self.regex)
            if _WIDE_RANGE.search(self.regex):
                raise broken(f"found regex {shown}, accepted: ranges [a-z] of ASCII characters")
            try:
                compiled = re.compile(self.regex)
                groups = compiled.groups
            except (re.error, RecursionError, OverflowError) as error:
                reason = "too deeply nested" if isinstance(error, RecursionError) else error
                raise broken(f"found regex {shown}: {reason}") from None
            if groups != (2 if "step" in compiled.groupindex else 1):
                raise broken(
                    f"found regex {shown} with {groups} groups, accepted: exactly one, "
                    "which matches the value, and one called step beside it"
                )
        return self


Metrics = Annotated[dict[MetricName, Metric], Field(max_length=16)]


class CommandObjective(Model):
    """Any program: parameters go in as arguments, metrics come out."""

    args: Annotated[list[Text], Field(min_length=1, max_length=256)] = Field(
        examples=[["python", "train.py", "--lr=$(lr)"]]
    )
    """The program and its arguments. `$(name)` is the value of a parameter, or of a variable such
    as TRIALFLEET_CHECKPOINT_DIR; `$$` is a dollar sign. All parameters are also in the environment
    variable TRIALFLEET_PARAMS, as a JSON object."""
    env: Annotated[dict[str, str], Field(max_length=256)] | None = None
    """Environment variables to add; `$(name)` works as in args."""
    metrics: Metrics | None = None
    """Where each objective's value is found, by its name. Absent: the last line of standard output
    that is a JSON object with the objectives' names as keys."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_dollars([self.args, self.env or {}])
        return self

    def unexpanded(self) -> Iterator[tuple[str, str]]:
        """Yield each ``$NAME`` that nothing expands: the field it is in, and the name."""
        if not any(PurePosixPath(argument).name in _SHELLS for argument in self.args):
            yield from (("args", name) for name in dict.fromkeys(variables(self.args)))
        yield from (("env", name) for name in dict.fromkeys(variables((self.env or {}).values())))


class JobTemplate(Model):
    """A Kubernetes object of any kind that runs to an end."""

    model_config = ConfigDict(extra="allow", json_schema_extra=OPEN)

    api_version: Text = Field(examples=["batch/v1"])
    """Group and version of the object."""
    kind: Text = Field(examples=["Job"])
    """Kind of the object: Job, JobSet, PyTorchJob, TrainJob and others."""
    metadata: Annotated[dict[str, Any], Field(json_schema_extra=OPEN)] | None = None
    """Labels and annotations; the name and namespace are set for each trial."""
    spec: Annotated[dict[str, Any], Field(json_schema_extra=OPEN)]
    """The object's own spec. `$(name)` in any string is the value of a parameter."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_dollars(self.parts)
        return self

    @property
    def parts(self) -> list[Any]:
        """All that may hold `$(name)`."""
        return [self.api_version, self.kind, self.metadata or {}, self.spec, self.model_extra or {}]


class JobObjective(Model):
    """One Kubernetes object for each trial."""

    template: JobTemplate
    """The object; `$(name)` in any string is the value of a parameter, `$$` a dollar sign."""
    metrics: Metrics | None = None
    """As for command, found in the log of the object's pods."""


class Objective(Model):
    """What a trial runs: exactly one of python, command and job."""

    model_config = ConfigDict(
        json_schema_extra={RULES: [rule(exactly_one("python", "command", "job"), _ONE_KIND)]}
    )

    python: PythonObjective | None = None
    """A Python function of an Optuna trial."""
    command: CommandObjective | None = None
    """Any program: parameters in, metrics out."""
    job: JobObjective | None = None
    """One Kubernetes object for each trial."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        kinds = ("python", "command", "job")
        if sum(getattr(self, kind) is not None for kind in kinds) != 1:
            raise broken(f"{found_fields(self, *kinds)}, {_ONE_KIND}")
        return self

    @property
    def metrics(self) -> dict[str, Metric] | None:
        """Where the metrics are found, if the kind of objective says so."""
        kind = self.command or self.job
        return kind.metrics if kind is not None else None

    def placeholders(self) -> set[str]:
        """Return the names of the parameters that the objective asks for by `$(name)`."""
        if self.command is not None:
            return set(placeholders([self.command.args, self.command.env or {}]))
        if self.job is not None:
            return set(placeholders(self.job.template.parts))
        return set()

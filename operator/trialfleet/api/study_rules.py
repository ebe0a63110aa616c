"""Rules of a Study that concern several of its fields, for the cluster (CEL) and for people.

The cluster checks what CEL can see. Options of samplers and pruners, points of the search space
and placeholders lie in open parts of the schema: they are checked here only, by the command line
and by the operator.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from pydantic import JsonValue

from trialfleet import names
from trialfleet.api.base import Finding, OpenModel, rule
from trialfleet.api.grid import grid_problems, too_many_to_try
from trialfleet.api.points import point_errors
from trialfleet.api.suggestions import did_you_mean, found, listed

if TYPE_CHECKING:
    from trialfleet.api.study import StudySpec

STUDY_NAME: Final = (
    "accepted: at most 48 characters without '.', as Jobs and pods are named after it"
)
WORKER: Final = "accepted: one container called 'worker', which runs the objective"

_NO_END: Final = (
    "accepted: at least one of trials, failedTrials, timeout, patience, or an objective's goal"
)
_NO_SPACE: Final = (
    "missing: a command or job can't define its parameters itself, so list them with their values"
)
_TWO_SOURCES_OF_TRIALS: Final = "trials and trialsFrom exclude each other: leave one out"
_METRICS: Final = "accepted: one metric for each objective, by its name, and no other"
_IMMUTABLE: Final = "can't change once the study exists: make a study of another name"

_FIXED_FIELDS: Final = (
    "sampler",
    "pruner",
    "trials",
    "trialsFrom",
    "searchSpace",
    "objective",
    "prepare",
    "collate",
)


def spec_rules() -> list[JsonValue]:
    """Return the CEL rules of a study's spec."""
    rules: list[JsonValue] = [
        rule(
            f"has(self.{name}) == has(oldSelf.{name}) && "
            f"(!has(self.{name}) || self.{name} == oldSelf.{name})",
            f"{name} {_IMMUTABLE}",
            fieldPath=f".{name}",
        )
        for name in _FIXED_FIELDS
    ]
    # What it does while it is idle may change.
    rules.append(
        rule(
            "(has(self.storage) && has(self.storage.name)) == "
            "(has(oldSelf.storage) && has(oldSelf.storage.name)) && (!has(self.storage) || "
            "!has(self.storage.name) || self.storage.name == oldSelf.storage.name)",
            f"storage.name {_IMMUTABLE}",
            fieldPath=".storage",
        )
    )
    rules.append(
        rule(
            "self.objectives.size() == oldSelf.objectives.size() && "
            "self.objectives.all(o, oldSelf.objectives.exists("
            "p, p.name == o.name && p.direction == o.direction))",
            f"names and directions of objectives {_IMMUTABLE}",
            fieldPath=".objectives",
        )
    )
    rules.append(
        rule(
            "has(self.budget.trials) || has(self.budget.failedTrials) || has(self.budget.timeout) "
            "|| has(self.budget.patience) || self.objectives.exists(o, has(o.goal))",
            _NO_END,
            fieldPath=".budget",
        )
    )
    rules.append(
        rule(
            "has(self.objective.python) || has(self.searchSpace)",
            _NO_SPACE,
            fieldPath=".searchSpace",
        )
    )
    rules.append(
        rule(
            "!has(self.trials) || !has(self.trialsFrom)",
            _TWO_SOURCES_OF_TRIALS,
            fieldPath=".trialsFrom",
        )
    )
    for kind in ("command", "job"):
        metrics = f"self.objective.{kind}.metrics"
        rules.append(
            rule(
                f"!has(self.objective.{kind}) || !has({metrics}) || "
                f"({metrics}.size() == self.objectives.size() && "
                f"self.objectives.all(o, o.name in {metrics}))",
                _METRICS,
                fieldPath=f".objective.{kind}",
            )
        )
    rules.append(
        rule(
            "!has(self.template) || !has(self.template.spec.containers) || "
            "self.template.spec.containers.exists(c, c.name == 'worker')",
            WORKER,
            fieldPath=".template",
        )
    )
    return rules


def spec_errors(spec: "StudySpec") -> Iterator[Finding]:
    """Yield what is wrong between the fields of a spec, whose single fields are right."""
    budget = spec.budget
    ends = (budget.trials, budget.failed_trials, budget.timeout, budget.patience)
    goals = [objective.goal for objective in spec.objectives]
    if all(end is None for end in (*ends, *goals)):
        yield Finding(("budget",), f"found no end of the study, {_NO_END}")
    seen = set[str]()
    for index, objective in enumerate(spec.objectives):
        if objective.name in seen:
            yield Finding(
                ("objectives", index, "name"),
                f"found {objective.name!r} again, accepted: unique names",
            )
        seen.add(objective.name)
    yield from _sampler_errors(spec)
    if spec.objective.python is None and spec.search_space is None:
        yield Finding(("searchSpace",), _NO_SPACE)
    if spec.trials is not None and spec.trials_from is not None:
        yield Finding(("trialsFrom",), _TWO_SOURCES_OF_TRIALS)
    yield from _point_errors(spec)
    yield from _metric_errors(spec)
    yield from _placeholder_errors(spec)
    containers = spec.template.spec.containers if spec.template is not None else None
    if containers is not None and all(container.name != "worker" for container in containers):
        named = ", ".join(repr(container.name) for container in containers) or "none"
        yield Finding(("template", "spec", "containers"), f"found {named}, {WORKER}")


def _sampler_errors(spec: "StudySpec") -> Iterator[Finding]:
    for problem in grid_problems(spec.sampler.name, spec.sampler.options, spec.search_space):
        yield Finding(("sampler", *problem.path), problem.message)
    # Both would fail in each trial, long after the study was accepted.
    if spec.sampler.name == "CmaEsSampler" and len(spec.objectives) > 1:
        yield Finding(
            ("sampler", "name"),
            f"found 'CmaEsSampler' with {len(spec.objectives)} objectives, accepted: a sampler for "
            "several, such as TPESampler or NSGAIISampler",
        )
    if spec.sampler.name == "BruteForceSampler":
        for name, parameter in (spec.search_space or {}).items():
            listing = too_many_to_try(name, parameter)
            if listing is not None:
                yield Finding(("searchSpace", *listing.path), listing.message)


def _point_errors(spec: "StudySpec") -> Iterator[Finding]:
    for finding in point_errors(spec.trials or (), spec.search_space):
        yield Finding(("trials", *finding.path), finding.message)


def _metric_errors(spec: "StudySpec") -> Iterator[Finding]:
    metrics = spec.objective.metrics
    if metrics is None:
        return
    kind = "command" if spec.objective.command is not None else "job"
    wanted = [objective.name for objective in spec.objectives]
    for name in metrics:
        if name not in wanted:
            yield Finding(
                ("objective", kind, "metrics", name),
                f"no objective of that name, {_METRICS}" + did_you_mean(name, wanted),
            )
    for name in wanted:
        if name not in metrics:
            yield Finding(("objective", kind, "metrics"), f"{name!r} is missing, {_METRICS}")


def _placeholder_errors(spec: "StudySpec") -> Iterator[Finding]:
    if spec.search_space is None:
        return
    command = spec.objective.command is not None
    known = {*spec.search_space, *(names.TRIAL_VARIABLES if command else ())}
    for name in sorted(spec.objective.placeholders() - known):
        shown = found(name)[1:-1]
        variables = f", or of {', '.join(names.TRIAL_VARIABLES)}" if command else ""
        yield Finding(
            ("objective", "command" if command else "job"),
            f"found $({shown}), accepted: a parameter of searchSpace: "
            f"{listed(spec.search_space, len(spec.search_space))}{variables}; "
            f"for the text itself write $$({shown})" + did_you_mean(name, known),
        )


def spec_notices(spec: "StudySpec") -> Iterator[Finding]:
    """Yield what is accepted but has no effect, or not everywhere."""
    python = spec.objective.python
    if python is not None and python.file is not None:
        yield Finding(
            ("objective", "python", "file"),
            "read on one machine only; a cluster accepts source, configMap or callable",
        )
    if spec.trials_from is not None and spec.trials_from.file is not None:
        yield Finding(
            ("trialsFrom", "file"), "read on one machine only; a cluster accepts configMap"
        )
    yield from _unexpanded(spec)
    for name, parameter in (spec.search_space or {}).items():
        for kind, values in (("float", parameter.float_), ("int", parameter.int_)):
            if values is not None and values.largest != values.high:
                yield Finding(
                    ("searchSpace", name, kind, "high"),
                    f"{values.high} is not reached in steps of {values.step} from {values.low}: "
                    f"the largest value is {values.largest}",
                )
    if "pruner" in spec.model_fields_set and len(spec.objectives) > 1:
        yield Finding(("pruner",), "no effect: Optuna prunes no trial of several objectives")
    if spec.objective.job is not None and spec.search_space is not None:
        for name in spec.search_space.keys() - spec.objective.placeholders():
            yield Finding(("searchSpace", name), f"no effect: no $({name}) in the job's template")
    for part in ("template", "prepare", "collate"):
        template = getattr(spec, part)
        if template is not None:
            yield from unknown_fields(template, (part,))


def _unexpanded(spec: "StudySpec") -> Iterator[Finding]:
    command = spec.objective.command
    if command is None:
        return
    known = {*(spec.search_space or ()), *names.TRIAL_VARIABLES}
    for field, name in command.unexpanded():
        meant = f"$({name})" if name in known else "a shell in args: [sh, -c, ...]"
        yield Finding(
            ("objective", "command", field),
            f"found ${name}, which is passed on as it is, because no shell runs; "
            f"accepted for its value: {meant}",
        )


def unknown_fields(value: object, path: tuple[str | int, ...]) -> Iterator[Finding]:
    """Yield the fields of an open object that are probably misspelt."""
    if isinstance(value, OpenModel):
        known = [field.alias or name for name, field in type(value).model_fields.items()]
        for name in value.model_extra or {}:
            meant = did_you_mean(name, known)
            if meant:
                yield Finding((*path, name), f"unknown here, passed on to Kubernetes{meant}")
        for name, field in type(value).model_fields.items():
            yield from unknown_fields(getattr(value, name), (*path, field.alias or name))
    elif isinstance(value, list):
        yield from _unknown_in_list(value, path)


def _unknown_in_list(values: Iterable[object], path: tuple[str | int, ...]) -> Iterator[Finding]:
    for index, value in enumerate(values):
        yield from unknown_fields(value, (*path, index))

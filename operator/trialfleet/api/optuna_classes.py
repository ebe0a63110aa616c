"""Samplers and pruners: any class of Optuna by name, its options checked against its signature.

An option whose type is itself one of Optuna's classes (``independent_sampler``, ``base_sampler``,
``wrapped_pruner``, ``crossover``, ``mutation``) is given as ``{name: ..., options: {...}}`` too.
"""

import inspect
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import islice
from types import ModuleType
from typing import Annotated, Any, Final, Protocol, Self

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, GridSampler
from pydantic import Field, model_validator

from trialfleet.api.base import ACCEPTED, OPEN, Finding, Model, broken_at
from trialfleet.api.grid import MISSING_GRID, grid, grid_problems, grid_refusal
from trialfleet.api.search_space import ParameterSpace
from trialfleet.api.suggestions import did_you_mean, found, listed
from trialfleet.model.errors import InvalidInput

Path = tuple[str | int, ...]

_MAX_FINDINGS: Final = 60
"""More are not told."""
_MAX_REASON: Final = 300

_MAX_NESTED: Final = 4
"""Samplers or pruners in one another."""

_GRID: Final = ("GridSampler", "search_space")
"""The one required option that may come from elsewhere."""


class OptunaClass(Model):
    """A class of Optuna and the options of its constructor."""

    name: Annotated[
        str, Field(max_length=64, json_schema_extra={ACCEPTED: "the name of an Optuna class"})
    ]
    """Name of the class, as in Optuna's documentation."""
    options: Annotated[dict[str, Any], Field(json_schema_extra=OPEN)] = Field(default_factory=dict)
    """Arguments of the constructor by name."""


class Sampler(OptunaClass):
    """How parameters are chosen: a class of optuna.samplers.

    With `options.seed`, the first worker ever of a study uses the seed itself, and each later one
    a stream of its own derived from it.
    """

    @model_validator(mode="after")
    def _check(self) -> Self:
        # A grid may come from the study's search space, which is not seen here.
        _raise("Sampler", _problems(_SAMPLERS, self.name, self.options, (), grid_is_given=False))
        return self


class Pruner(OptunaClass):
    """When a trial is given up early: a class of optuna.pruners."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _raise("Pruner", _problems(_PRUNERS, self.name, self.options, ()))
        return self


def _raise(title: str, problems: Iterator[Finding]) -> None:
    findings = list(islice(problems, _MAX_FINDINGS))
    if findings:
        raise broken_at(title, findings)


@dataclass(frozen=True)
class _Family:
    """Classes of one kind, and what stands for them in an annotation."""

    base: str
    modules: tuple[ModuleType, ...]
    words: str

    @cache  # noqa: B019 - there are four families, as long as the process lives
    def classes(self) -> dict[str, type[Any]]:
        base = next(found for module in self.modules if (found := getattr(module, self.base, None)))
        return {
            name: kind
            for module in self.modules
            for name in module.__all__
            if inspect.isclass(kind := getattr(module, name))
            and issubclass(kind, base)
            and not name.startswith("Base")
        }


_SAMPLERS: Final = _Family("BaseSampler", (optuna.samplers,), "any class of optuna.samplers")
_PRUNERS: Final = _Family("BasePruner", (optuna.pruners,), "any class of optuna.pruners")
_CROSSOVERS: Final = _Family(
    "BaseCrossover", (optuna.samplers.nsgaii,), "a crossover of optuna.samplers.nsgaii"
)
_MUTATIONS: Final = _Family(
    "BaseMutation", (optuna.samplers.nsgaii,), "a mutation of optuna.samplers.nsgaii"
)
_FAMILIES: Final = {f.base: f for f in (_SAMPLERS, _PRUNERS, _CROSSOVERS, _MUTATIONS)}

_PLAIN: Final[dict[str, tuple[type[Any] | tuple[type[Any], ...], str]]] = {
    "bool": (bool, "true or false"),
    "int": (int, "an integer"),
    "float": ((int, float), "a number"),
    "str": (str, "a string"),
    "dict": (dict, "an object"),
    "Mapping": (dict, "an object"),
    "list": (list, "a list"),
    "Sequence": (list, "a list"),
}


# Optuna imports these when a class is first asked, in the middle of a trial.
_PACKAGES: Final = {
    "CmaEsSampler": ("cmaes",),
    "GPSampler": ("torch", "scipy"),
    "QMCSampler": ("scipy",),
    "WilcoxonPruner": ("scipy",),
}


class SeedStream(Protocol):
    """Gives each object that takes a seed a seed of its own."""

    def __call__(self, seed: int) -> int:
        """Return what stands for the seed of the options."""


def seed_stream(ordinal: int) -> SeedStream:
    """Return the seeds of a worker's session.

    The study's first session (ordinal 0) uses the seed as it is, which makes a study with one
    worker reproducible; any other derives 32 bits from the seed and its ordinal.
    """

    def derive(seed: int) -> int:
        if ordinal == 0:
            return seed
        return int(np.random.SeedSequence([seed, ordinal]).generate_state(1, np.uint32)[0])

    return derive


def build_sampler(
    spec: Sampler, ordinal: int = 0, search_space: Mapping[str, ParameterSpace] | None = None
) -> BaseSampler:
    """Return the sampler for one worker.

    Args:
        spec: The class and its options.
        ordinal: Which session of the study this is, from 0; see ``seed_stream``.
        search_space: The study's search space: a GridSampler that names none takes it.

    Raises:
        InvalidInput: A GridSampler finds no grid, or the class needs a package that is not
            installed.
    """
    problems = list(grid_problems(spec.name, spec.options, search_space))
    if problems:
        raise InvalidInput("\n".join(f"spec.sampler: {p.message}" for p in problems))
    options = _with_grid(spec, search_space)
    kind = _SAMPLERS.classes()[spec.name]
    _check_packages(kind, options)
    sampler: BaseSampler = _construct(kind, options, seed_stream(ordinal))
    return sampler


def build_pruner(spec: Pruner) -> BasePruner:
    """Return the pruner.

    Raises:
        InvalidInput: The class needs a package that is not installed.
    """
    kind = _PRUNERS.classes()[spec.name]
    _check_packages(kind, spec.options)
    pruner: BasePruner = _construct(kind, spec.options, seed_stream(0))
    return pruner


def _with_grid(
    spec: OptunaClass, search_space: Mapping[str, ParameterSpace] | None
) -> dict[str, Any]:
    options = dict(spec.options)
    if spec.name == "GridSampler" and "search_space" not in options and search_space:
        values = grid(search_space)
        if values is not None:
            options["search_space"] = values
    return options


def _construct(kind: type[Any], options: Mapping[str, Any], stream: SeedStream) -> Any:
    arguments = dict(options)
    parameters = _parameters(kind)
    for name, value in options.items():
        family = _family_of(parameters[name])
        if family is not None and value is not None:
            inner = family.classes()[value["name"]]
            arguments[name] = _construct(inner, value.get("options", {}), stream)
        elif name == "seed" and value is not None:
            arguments[name] = stream(value)
    with warnings.catch_warnings():
        # Whoever names an experimental class in a manifest has chosen it.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return kind(**arguments)


def _check_packages(kind: type[Any], options: Mapping[str, Any]) -> None:
    """Raise ``InvalidInput`` if a class needs a package that is not installed here."""
    missing = [name for name in _PACKAGES.get(kind.__name__, ()) if find_spec(name) is None]
    if missing:
        raise InvalidInput(
            f"{kind.__name__} needs {' and '.join(missing)}, not installed here: "
            f"pip install {' '.join(missing)}"
        )
    parameters = _parameters(kind)
    for name, value in options.items():
        family = _family_of(parameters[name])
        if family is not None and value is not None:
            _check_packages(family.classes()[value["name"]], value.get("options", {}))


def _problems(
    family: _Family,
    name: object,
    options: Mapping[str, Any],
    path: Path,
    *,
    grid_is_given: bool = True,
) -> Iterator[Finding]:
    classes = family.classes()
    nested = path.count("options")
    if nested > _MAX_NESTED:
        message = f"found more than {_MAX_NESTED} in one another, accepted: at most {_MAX_NESTED}"
        yield Finding(path, message)
        return
    if not isinstance(name, str) or name not in classes:
        text = f"found {found(name)}, accepted: {family.words}"
        yield Finding((*path, "name"), text + did_you_mean(name, classes))
        return
    kind = classes[name]
    parameters = _parameters(kind)
    complete = True
    for option, value in options.items():
        where = (*path, "options", option)
        if option not in parameters:
            complete = False
            accepted = listed(parameters, len(parameters)) or "none"
            text = f"unknown option of {name}, accepted: {accepted}"
            yield Finding(where, text + did_you_mean(option, parameters))
            continue
        for problem in _option_problems(name, parameters[option], value, where):
            complete = False
            yield problem
    for option, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and option not in options:
            complete = False
            if grid_is_given or (name, option) != _GRID:
                yield Finding((*path, "options", option), _missing(name, option))
    if complete:
        yield from _refusal(kind, options, (*path, "options"))


def _missing(name: str, option: str) -> str:
    return MISSING_GRID if (name, option) == _GRID else f"missing, {name} needs it"


def _refusal(kind: type[Any], options: Mapping[str, Any], path: Path) -> Iterator[Finding]:
    """Yield what the class itself says against values of the right type."""
    if kind is GridSampler:
        yield from grid_refusal(options["search_space"], (*path, "search_space"))
        # It would list all points.
        options = {**options, "search_space": {}}
    try:
        _construct(kind, options, seed_stream(0))
    except (ValueError, TypeError, AssertionError, OverflowError) as error:
        reason = " ".join(str(error).split()) or "not accepted"
        yield Finding(path, f"refused by {kind.__name__}: {reason[:_MAX_REASON]}")


def _parameters(kind: type[Any]) -> dict[str, inspect.Parameter]:
    if kind.__init__ is object.__init__:
        return {}
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return {
        parameter.name: parameter
        for parameter in parameters
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def _words(parameter: inspect.Parameter) -> list[str]:
    """Return the names of the alternatives of an annotation, without their own parameters."""
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    while "[" in text:
        text, before = re.sub(r"\[[^\[\]]*\]", "", text), text
        if text == before:
            break
    return [part.strip().rsplit(".", 1)[-1] for part in text.split("|")]


def _family_of(parameter: inspect.Parameter) -> _Family | None:
    return next((_FAMILIES[word] for word in _words(parameter) if word in _FAMILIES), None)


def _option_problems(
    name: str, parameter: inspect.Parameter, value: object, path: Path
) -> Iterator[Finding]:
    words = _words(parameter)
    family = _family_of(parameter)
    if value is None and "None" in words:
        return
    if family is not None:
        yield from _nested_problems(family, value, path)
        return
    plain = [word for word in words if word in _PLAIN]
    if not plain:
        yield Finding(
            path,
            f"found {found(value)}, accepted: nothing in a manifest: {name} wants a Python object "
            "here, so leave the option out",
        )
        return
    if not any(_fits(word, value) for word in plain):
        accepted = " or ".join(_PLAIN[word][1] for word in plain)
        yield Finding(path, f"found {found(value)}, accepted: {accepted}")


def _fits(word: str, value: object) -> bool:
    if isinstance(value, bool):
        return word == "bool"
    return isinstance(value, _PLAIN[word][0])


def _nested_problems(family: _Family, value: object, path: Path) -> Iterator[Finding]:
    options = value.get("options", {}) if isinstance(value, dict) else None
    if not isinstance(value, dict) or "name" not in value or not isinstance(options, dict):
        yield Finding(
            path,
            f"found {found(value)}, accepted: {family.words} as an object "
            "{name: ..., options: {...}}",
        )
        return
    unknown: Sequence[str] = [key for key in value if key not in ("name", "options")]
    for key in unknown:
        text = "unknown field, accepted: name, options"
        yield Finding((*path, key), text + did_you_mean(key, ("name", "options")))
    yield from _problems(family, value["name"], options, path)

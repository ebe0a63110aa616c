"""Katib's parameters and algorithms, as search space, sampler and pruner."""

from typing import Any, Final

from trialfleet.api.suggestions import found
from trialfleet.transfer.katib.fields import Fields

_SAMPLERS: Final = {
    "random": "RandomSampler",
    "grid": "GridSampler",
    "tpe": "TPESampler",
    "multivariate-tpe": "TPESampler",
    "cmaes": "CmaEsSampler",
    "sobol": "QMCSampler",
    "bayesianoptimization": "GPSampler",
    "hyperband": "RandomSampler",
}
_OPTIONS: Final[dict[str, dict[str, str]]] = {
    "TPESampler": {
        "n_startup_trials": "n_startup_trials",
        "n_ei_candidates": "n_ei_candidates",
    },
    "GPSampler": {"n_initial_points": "n_startup_trials"},
}
_NO_SAMPLER: Final = {
    "enas": "neural architecture search has no equivalent",
    "darts": "neural architecture search has no equivalent",
    "pbt": "population based training has no equivalent",
}
_DIFFERS: Final = {
    "bayesianoptimization": "became GPSampler, another implementation of a Gaussian process; "
    "workers need the packages torch and scipy",
    "cmaes": "became CmaEsSampler; workers need the package cmaes, and it chooses categorical "
    "and discrete parameters at random",
    "sobol": "became QMCSampler, another implementation of Sobol's sequence; workers need the "
    "package scipy, and it chooses categorical and discrete parameters at random",
    "hyperband": "became RandomSampler: the resource is a parameter like any other; for "
    "HyperbandPruner a Python objective that reports is needed",
}
_SHAPED: Final = {"normal": "uniform", "logNormal": "logUniform"}


def search_space(spec: Fields) -> dict[str, Any]:
    """Return ``spec.searchSpace`` of an experiment's parameters.

    Raises:
        InvalidInput: A parameter can't be read.
    """
    space: dict[str, Any] = {}
    for parameter in spec.objects("parameters"):
        name = parameter.text("name")
        if name in space:
            raise parameter.refusal("name", f"found {found(name)} again, accepted: unique names")
        kind = parameter.text("parameterType")
        feasible = parameter.object("feasibleSpace")
        if feasible is None:
            raise parameter.refusal("feasibleSpace", "missing, accepted: an object")
        if kind in ("double", "int"):
            space[name] = _range(feasible, "float" if kind == "double" else "int")
        elif kind in ("discrete", "categorical"):
            space[name] = {"categorical": _choices(feasible, kind)}
        else:
            raise parameter.refusal(
                "parameterType",
                f"found {found(kind)}, accepted: double, int, discrete or categorical",
            )
        feasible.close()
        parameter.close()
    return space


def _range(feasible: Fields, kind: str) -> dict[str, Any]:
    take = feasible.number if kind == "float" else feasible.integer
    low, high, step = take("min"), take("max"), take("step")
    for key, bound in (("min", low), ("max", high)):
        if bound is None:
            raise feasible.refusal(key, "missing, accepted: a number")
    distribution = feasible.text("distribution", "uniform")
    if distribution in _SHAPED:
        near = _SHAPED[distribution]
        feasible.tell("distribution", f"Optuna has no {distribution}: became {near}")
        distribution = near
    if distribution not in ("uniform", "logUniform"):
        raise feasible.refusal(
            "distribution",
            f"found {found(distribution)}, accepted: uniform, logUniform, normal or logNormal",
        )
    values: dict[str, Any] = {"low": low, "high": high}
    if distribution == "logUniform":
        values["log"] = True
        smallest: float = 1e-10 if kind == "float" else 1
        if low is not None and low < smallest:
            # As Katib's own service for Optuna does.
            feasible.tell("min", f"a logarithmic range begins above 0: became {smallest}")
            values["low"] = smallest
        if step is not None:
            feasible.tell("step", "a logarithmic range of Optuna has no steps: left out")
    elif step is not None:
        values["step"] = step
    return {kind: values}


def _choices(feasible: Fields, kind: str) -> list[Any]:
    values = feasible.items("list")
    if not values:
        raise feasible.refusal("list", "missing, accepted: a list of values")
    if kind == "categorical":
        # Katib's are strings: a number without quotes is none to it.
        return [value if isinstance(value, str) else str(value) for value in values]
    numbers: list[float] = []
    for index, value in enumerate(values):
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise feasible.refusal(
                "list", f"found {found(value)} at {index}, accepted: numbers"
            ) from None
        numbers.append(int(number) if number.is_integer() and "." not in str(value) else number)
    return numbers


def sampler(spec: Fields) -> dict[str, Any]:
    """Return ``spec.sampler`` of an experiment's algorithm.

    Raises:
        InvalidInput: It is missing, or Optuna has nothing like it.
    """
    algorithm = spec.object("algorithm")
    if algorithm is None:
        raise spec.refusal("algorithm", "missing, accepted: an object with algorithmName")
    name = algorithm.text("algorithmName")
    if name not in _SAMPLERS:
        why = _NO_SAMPLER.get(name, "unknown algorithm")
        raise algorithm.refusal(
            "algorithmName", f"found {found(name)}: {why}; accepted: {', '.join(_SAMPLERS)}"
        )
    kind = _SAMPLERS[name]
    options: dict[str, Any] = {}
    if name in ("tpe", "multivariate-tpe"):
        options["constant_liar"] = True  # as Katib sets it
    if name == "multivariate-tpe":
        options["multivariate"] = True
    known = {**_OPTIONS.get(kind, {}), "random_state": "seed"}
    if name in _DIFFERS:
        algorithm.tell("algorithmName", f"{name} {_DIFFERS[name]}")
    for setting in algorithm.objects("algorithmSettings"):
        key = setting.text("name")
        if key in known:
            options[known[key]] = setting.integer("value")
        else:
            value = setting.any("value")
            setting.tell(
                None, f"{key} = {value}: {kind} has no such option, or a deprecated one; left out"
            )
        setting.close()
    algorithm.close()
    return {"name": kind, **({"options": options} if options else {})}


def pruner(spec: Fields) -> dict[str, Any]:
    """Return ``spec.pruner`` of an experiment's earlyStopping.

    Raises:
        InvalidInput: A setting is no number.
    """
    stopping = spec.object("earlyStopping")
    if stopping is None:
        return {"name": "NopPruner"}
    name = stopping.text("algorithmName")
    if name != "medianstop":
        stopping.tell("algorithmName", f"{name} has no equivalent: no trial is stopped early")
        stopping.any("algorithmSettings")
        stopping.close()
        return {"name": "NopPruner"}
    given = {"min_trials_required": 3, "start_step": 4}  # Katib's defaults
    for setting in stopping.objects("algorithmSettings"):
        key = setting.text("name")
        if key in given:
            given[key] = setting.integer("value") or 0
        else:
            setting.any("value")
            setting.tell(None, f"{key}: MedianPruner has no such option, left out")
        setting.close()
    stopping.close()
    stopping.tell(
        None,
        "became MedianPruner, which compares with the median of the values at the same step: the "
        "program has to say the step, by a group (?P<step>...) of the regex, a key step in JSON, "
        "event files or trialfleet report",
    )
    options = {
        "n_startup_trials": given["min_trials_required"],
        # Katib compares from the report of this number on; Optuna's steps begin at 0.
        "n_warmup_steps": max(0, given["start_step"] - 1),
    }
    return {"name": "MedianPruner", "options": options}

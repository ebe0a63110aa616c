import re
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.pruners import MedianPruner, PatientPruner
from optuna.samplers import GridSampler, PartialFixedSampler, QMCSampler, RandomSampler, TPESampler

from trialfleet.api.grid import grid
from trialfleet.api.optuna_classes import Pruner, Sampler, build_pruner, build_sampler
from trialfleet.api.search_space import ParameterSpace, distributions
from trialfleet.model.errors import InvalidInput


def space(**parameters: dict[str, Any]) -> dict[str, ParameterSpace]:
    return {name: ParameterSpace.model_validate(value) for name, value in parameters.items()}


def draws(ordinal: int, **options: Any) -> list[float]:
    sampler = build_sampler(Sampler(name="RandomSampler", options=options), ordinal)
    study = optuna.create_study(sampler=sampler)
    return [study.ask().suggest_float("x", 0, 1) for _ in range(3)]


def test_first_worker_uses_the_seed_itself() -> None:
    study = optuna.create_study(sampler=RandomSampler(seed=7))
    assert draws(0, seed=7) == [study.ask().suggest_float("x", 0, 1) for _ in range(3)]


def test_each_worker_has_a_stream_of_its_own() -> None:
    streams = [tuple(draws(ordinal, seed=7)) for ordinal in range(5)]
    assert len(set(streams)) == 5
    assert streams == [tuple(draws(ordinal, seed=7)) for ordinal in range(5)]
    derived = int(np.random.SeedSequence([7, 2]).generate_state(1, np.uint32)[0])
    assert tuple(draws(0, seed=derived)) == streams[2]


def test_without_a_seed_no_stream_repeats() -> None:
    assert draws(0) != draws(0)


def test_seeds_of_nested_samplers_are_derived_too() -> None:
    def inner(ordinal: int) -> float:
        base = {"name": "RandomSampler", "options": {"seed": 3}}
        spec = Sampler(
            name="PartialFixedSampler",
            options={"fixed_params": {"depth": 2}, "base_sampler": base},
        )
        sampler = build_sampler(spec, ordinal)
        assert isinstance(sampler, PartialFixedSampler)
        trial = optuna.create_study(sampler=sampler).ask()
        assert trial.suggest_int("depth", 1, 9) == 2
        return trial.suggest_float("x", 0, 1)

    assert inner(0) == draws(0, seed=3)[0]
    assert inner(1) == draws(1, seed=3)[0]


def test_default_is_optunas_default() -> None:
    study = optuna.create_study()
    assert type(build_sampler(Sampler(name="TPESampler"))) is type(study.sampler) is TPESampler
    assert type(build_pruner(Pruner(name="MedianPruner"))) is type(study.pruner) is MedianPruner


def test_wrapped_pruner_is_built() -> None:
    wrapped = {"name": "PercentilePruner", "options": {"percentile": 25}}
    spec = Pruner(name="PatientPruner", options={"wrapped_pruner": wrapped, "patience": 3})
    pruner = build_pruner(spec)
    assert isinstance(pruner, PatientPruner)


def test_wrapped_pruner_may_be_null() -> None:
    spec = Pruner(name="PatientPruner", options={"wrapped_pruner": None, "patience": 3})
    assert isinstance(build_pruner(spec), PatientPruner)


EVERY_SAMPLER: dict[str, dict[str, Any]] = {
    "BruteForceSampler": {},
    "CmaEsSampler": {"popsize": 8, "independent_sampler": {"name": "RandomSampler"}},
    "GPSampler": {"deterministic_objective": True},
    "GridSampler": {"search_space": {"x": [1, 2]}},
    "NSGAIISampler": {"population_size": 10, "mutation": {"name": "PolynomialMutation"}},
    "NSGAIIISampler": {"crossover": {"name": "SBXCrossover", "options": {"eta": 2}}},
    "PartialFixedSampler": {"fixed_params": {"x": 1}, "base_sampler": {"name": "TPESampler"}},
    "QMCSampler": {"qmc_type": "halton", "scramble": True},
    "RandomSampler": {"seed": 1},
    "TPESampler": {"multivariate": True, "group": True, "n_startup_trials": 20},
}
EVERY_PRUNER: dict[str, dict[str, Any]] = {
    "HyperbandPruner": {"min_resource": 1, "max_resource": "auto"},
    "MedianPruner": {"n_startup_trials": 5},
    "NopPruner": {},
    "PatientPruner": {"wrapped_pruner": {"name": "MedianPruner"}, "patience": 2},
    "PercentilePruner": {"percentile": 25.0},
    "SuccessiveHalvingPruner": {"min_resource": 2},
    "ThresholdPruner": {"upper": 1},
    "WilcoxonPruner": {"p_threshold": 0.2},
}


@pytest.mark.parametrize("name", sorted(EVERY_SAMPLER))
def test_takes_every_sampler(name: str) -> None:
    Sampler(name=name, options=EVERY_SAMPLER[name])


@pytest.mark.parametrize("name", sorted(EVERY_PRUNER))
def test_takes_every_pruner(name: str) -> None:
    assert type(build_pruner(Pruner(name=name, options=EVERY_PRUNER[name]))).__name__ == name


def test_optuna_has_no_other_classes() -> None:
    samplers = {name for name in optuna.samplers.__all__ if name.endswith("Sampler")}
    assert samplers - {"BaseSampler", "BaseGASampler"} == set(EVERY_SAMPLER)
    pruners = {name for name in optuna.pruners.__all__ if name.endswith("Pruner")}
    assert pruners - {"BasePruner"} == set(EVERY_PRUNER)


def test_says_which_package_is_missing() -> None:
    """PyTorch is no dependency of anything here."""
    inner = {"name": "GPSampler"}
    spec = Sampler(name="PartialFixedSampler", options={"fixed_params": {}, "base_sampler": inner})
    message = "GPSampler needs torch, not installed here: pip install torch"
    with pytest.raises(InvalidInput, match=f"^{message}$"):
        build_sampler(spec)


def test_grid_comes_from_the_search_space() -> None:
    parameters = space(
        a={"categorical": ["x", None]},
        b={"int": {"low": 1, "high": 6, "step": 2}},
        c={"float": {"low": 0.0, "high": 0.3, "step": 0.1}},
    )
    values = grid(parameters)
    assert values is not None
    assert values["a"] == ["x", None]
    assert values["b"] == [1, 3, 5]
    assert values["c"] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    sampler = build_sampler(Sampler(name="GridSampler"), 0, parameters)
    assert isinstance(sampler, GridSampler)
    study = optuna.create_study(sampler=sampler)
    study.optimize(
        lambda trial: sum(
            isinstance(trial._suggest(name, distribution), float)
            for name, distribution in distributions(parameters).items()
        )
    )
    assert len(study.trials) == 2 * 3 * 4


def test_grid_sampler_needs_a_grid() -> None:
    message = "spec.sampler: missing, GridSampler needs a list of values for each parameter"
    with pytest.raises(InvalidInput, match="^" + re.escape(message)):
        build_sampler(Sampler(name="GridSampler"), 0, space(a={"float": {"low": 0, "high": 1}}))


def test_experimental_classes_warn_nobody() -> None:
    assert isinstance(build_sampler(Sampler(name="QMCSampler")), QMCSampler)

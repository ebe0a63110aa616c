"""Pruners as text: how a worker says which one it has, so that the proxy decides in its place."""

import json
import warnings
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, PatientPruner, PercentilePruner

from trialfleet.model.errors import InvalidInput


def encode_pruner(pruner: BasePruner) -> str | None:
    """Return a pruner as JSON text, or None for one that only its own process can ask.

    A proxy decides for MedianPruner, PercentilePruner, and PatientPruner around one of them or
    around none: what they compare is the intermediate values of trials, and nothing else.
    """
    spec = _spec(pruner)
    return None if spec is None else json.dumps(spec, separators=(",", ":"))


def _spec(pruner: BasePruner) -> dict[str, Any] | None:
    # By its exact class: one that is derived from it may decide in another way.
    if type(pruner) in (MedianPruner, PercentilePruner):
        assert isinstance(pruner, PercentilePruner)
        return {
            "percentile": pruner._percentile,
            "n_startup_trials": pruner._n_startup_trials,
            "n_warmup_steps": pruner._n_warmup_steps,
            "interval_steps": pruner._interval_steps,
            "n_min_trials": pruner._n_min_trials,
        }
    if type(pruner) is PatientPruner:
        wrapped = pruner._wrapped_pruner
        inner = None if wrapped is None else _spec(wrapped)
        if wrapped is None or inner is not None:
            return {
                "patience": pruner._patience,
                "min_delta": pruner._min_delta,
                "wrapped": inner,
            }
    return None


def decode_pruner(text: str) -> BasePruner:
    """Return the pruner of a text that :func:`encode_pruner` returned.

    Raises :class:`InvalidInput` for any other text.
    """
    try:
        with warnings.catch_warnings():
            # The worker's process has said already that a PatientPruner is experimental.
            warnings.simplefilter("ignore", ExperimentalWarning)
            return _pruner(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        shown = text if len(text) <= 200 else f"{text[:200]}..."
        raise InvalidInput(
            f"pruner: found {shown!r}, accepted: the options of a PercentilePruner or of a "
            f"PatientPruner ({error})"
        ) from error


def _pruner(spec: dict[str, Any]) -> BasePruner:
    if "percentile" in spec:
        return PercentilePruner(**spec)
    wrapped = spec["wrapped"]
    return PatientPruner(
        None if wrapped is None else _pruner(wrapped), spec["patience"], spec["min_delta"]
    )

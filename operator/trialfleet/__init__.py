"""Hyperparameter optimization as a fleet of workers on one storage."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trialfleet.local.optimize import optimize

__all__ = ["optimize"]


def __getattr__(name: str) -> Any:
    # Optuna and gRPC take half a second to import, which a worker or a tool may not need.
    if name == "optimize":
        from trialfleet.local.optimize import optimize

        return optimize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

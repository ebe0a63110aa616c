"""Hyperparameter optimization as a fleet of workers on one storage."""

from typing import TYPE_CHECKING, Any

from trialfleet.polling import let_callers_poll

if TYPE_CHECKING:
    from trialfleet.local.optimize import optimize

__all__ = ["optimize"]

let_callers_poll()


def __getattr__(name: str) -> Any:
    # Optuna takes half a second to import, which a worker or a tool may not need.
    if name == "optimize":
        from trialfleet.local.optimize import optimize

        return optimize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Hyperparameter optimization as a fleet of workers on one storage."""

import os
from typing import TYPE_CHECKING, Any

# Before gRPC is imported. Its handlers of a fork can't end what its asynchronous API has begun:
# they write to standard error, and of the forked children some crash at once. Without them a
# child is well as long as it leaves gRPC alone, see wire/background.py.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Of a proxy that goes away people hear from us.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

if TYPE_CHECKING:
    from trialfleet.cluster.notebook import connect, submit
    from trialfleet.local.optimize import optimize
    from trialfleet.worker.reporting import report

__all__ = ["connect", "optimize", "report", "submit"]


def __getattr__(name: str) -> Any:
    # Optuna and gRPC take half a second to import, which a worker or a tool may not need.
    if name == "optimize":
        from trialfleet.local.optimize import optimize

        return optimize
    if name == "report":
        from trialfleet.worker.reporting import report

        return report
    if name in ("connect", "submit"):
        from trialfleet.cluster import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

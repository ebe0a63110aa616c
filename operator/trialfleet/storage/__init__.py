"""Trials in PostgreSQL: Optuna's own tables, group commit, shared reads.

:class:`Storage` is the interface to everything else. It lives on one asyncio event loop.
"""

from trialfleet.storage.storage import Storage

__all__ = ["Storage"]

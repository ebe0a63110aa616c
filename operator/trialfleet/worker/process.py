"""A worker process: from its settings to its exit code."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler

from trialfleet.api.optuna_classes import build_pruner, build_sampler
from trialfleet.api.search_space import distributions
from trialfleet.client import FleetStorage
from trialfleet.model import errors
from trialfleet.model.errors import NotFound
from trialfleet.worker import callbacks, forks
from trialfleet.worker.assignment import Assignment
from trialfleet.worker.loop import End, Outcome, run_worker
from trialfleet.worker.watchdog import GRACE_S, Watch

PATIENCE_S: Final = 600.0
"""For a proxy to answer; then the worker ends and whoever runs it may start another."""

_STUDY_S: Final = 0.2
"""Between two questions whether the storage knows the study."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker process is given beside its assignment."""

    proxies: str
    """``HOST:PORT[,HOST:PORT...]``, the nearest first."""
    worker: str = ""
    """The name under which its session can be given up; host and process if empty."""
    checkpoint_root: Path | None = None
    grace_s: float = GRACE_S
    patience_s: float = PATIENCE_S
    token_file: Path | None = None
    """File with the token to show to proxies; the environment's if absent."""
    ca_file: Path | None = None
    """Authorities to trust, in PEM; the environment's if absent."""
    definition: str = ""
    """The study's, if the worker is for no other one of that name; empty for any."""


def run(assignment: Assignment, settings: Settings) -> int:
    """Run trials until there are no more, and return the exit code of the process.

    Main thread only; handles SIGTERM and SIGINT meanwhile, see :class:`Watch`.

    Raises:
        ObjectiveImportError: The objective can't be loaded; no trial was opened.
        InvalidInput: The sampler or pruner can't be built, or the objective's kind is not
            available.
        NotFound: The storage holds no such study, for as long as the worker is patient.
        StorageUnavailable: No proxy answered.
    """
    storage = FleetStorage(
        settings.proxies,
        study=assignment.study_name,
        worker=settings.worker,
        patience_s=settings.patience_s,
        token_file=settings.token_file,
        ca_file=settings.ca_file,
        definition=settings.definition,
    )
    with Watch(storage, grace_s=settings.grace_s) as watch:
        try:
            outcome = _work(assignment, settings, storage, watch)
        finally:
            storage.close()
    _log.info("%s after %d trials", _ENDS[outcome.end] % outcome.reason, outcome.trials)
    return errors.EXIT_DRAINED if outcome.end is End.LEFT else errors.EXIT_OK


def _work(
    assignment: Assignment, settings: Settings, storage: FleetStorage, watch: Watch
) -> Outcome:
    with forks.end_here():
        objective = assignment.load()
        spec = assignment.spec
        called = callbacks.load((spec and spec.callbacks) or ())
    ordinal = _open(storage, settings)
    study_id = storage.study_id
    assert study_id is not None
    timeout = None if spec is None else spec.budget.trial_timeout
    return run_worker(
        storage,
        study_id,
        assignment.study_name,
        objective,
        TPESampler() if spec is None else build_sampler(spec.sampler, ordinal, spec.search_space),
        MedianPruner() if spec is None else build_pruner(spec.pruner),
        trial_timeout_s=None if timeout is None else timeout.total_seconds(),
        checkpoint_root=settings.checkpoint_root,
        search_space=None if spec is None else distributions(spec.search_space or {}),
        watch=watch,
        callbacks=called,
        mark_output=True,
    )


def _open(storage: FleetStorage, settings: Settings) -> int:
    """Return the session's ordinal, as soon as the storage knows the study.

    A worker starts together with its storage: it is there, with the objective loaded, when whoever
    made the study has told the storage of it.
    """
    give_up_at = time.monotonic() + settings.patience_s
    told = False
    while True:
        try:
            return storage.ordinal
        except NotFound as error:
            if not settings.definition or time.monotonic() >= give_up_at:
                raise
            if not told:
                _log.info("waiting for the study: %s", error)
            told = True
            time.sleep(_STUDY_S)


_ENDS: Final = {
    End.STUDY_ENDED: "the study has ended (%s)",
    End.LEFT: "left%s",
}

"""A worker of ``trialfleet.optimize``: a process that gets its objective as a pickle.

Started by ``optimize.py`` as ``python -m trialfleet.local.optimize_worker FILE``; the proxy's
address and the worker's name are in its environment.
"""

import os
import pickle
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cloudpickle

from trialfleet import names
from trialfleet.client import FleetStorage
from trialfleet.local.callback_order import Turn
from trialfleet.model import errors
from trialfleet.worker import failure, forks, log, pickling
from trialfleet.worker.loop import End, run_worker
from trialfleet.worker.packages import activate
from trialfleet.worker.watchdog import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial

GRACE_S: Final = 2.0
"""For a running trial when the caller has been interrupted."""

ENV_LOADING: Final = "TRIALFLEET_LOADING_OBJECTIVE"
"""Set while the objective is being unpickled, which may import the caller's module."""

FAILURE_GLOB: Final = "failure-*"


@dataclass(frozen=True)
class OptimizeAssignment:
    """What the caller wants to be run."""

    study: str
    objective: "Callable[[Trial], object]"
    sampler: "BaseSampler"
    pruner: "BasePruner"
    catch: tuple[type[BaseException], ...]
    has_callbacks: bool
    """Whether to wait for the caller's callbacks after each trial."""


@dataclass(frozen=True)
class OptimizeFailure:
    """An exception that ``catch`` does not name, on its way to the caller."""

    message: str
    traceback: str
    exception: bytes
    """Pickled; empty if that is not possible."""


def main() -> int:
    """Run trials until there are no more; return the process's exit code."""
    file = Path(sys.argv[1])
    log.configure(log.Level.WARNING)
    try:
        assignment = load(file)
        return run(assignment, file.parent)
    except errors.TrialfleetError as error:
        print(error, file=sys.stderr)
        return errors.exit_code(error)


def load(file: Path) -> OptimizeAssignment:
    """Read the assignment. Raises ``ObjectiveImportError``."""
    os.environ[ENV_LOADING] = "1"
    try:
        with file.open("rb") as opened:
            # First where the caller's modules are, then what may refer to them.
            sys.path[:], sources = pickle.load(opened)
            if names.ENV_PACKAGES in os.environ:
                activate(os.environ[names.ENV_PACKAGES])
            pickling.show_sources(sources)
            with forks.end_here():
                found = pickle.load(opened)
    except Exception as error:
        raise errors.ObjectiveImportError(
            f"the objective can't be loaded in a worker process: {failure.describe(error)}"
        ) from error
    finally:
        del os.environ[ENV_LOADING]
    assert isinstance(found, OptimizeAssignment)
    return found


def run(assignment: OptimizeAssignment, folder: Path) -> int:
    """Run trials; an exception that ends the run is left in ``folder`` for the caller."""
    storage = FleetStorage(
        os.environ[names.ENV_PROXY],
        study=assignment.study,
        worker=os.environ[names.ENV_WORKER],
    )
    with Watch(storage, grace_s=GRACE_S) as watch:
        try:
            if storage.ordinal > 0:
                assignment.sampler.reseed_rng()
            assert storage.study_id is not None
            outcome = run_worker(
                storage,
                storage.study_id,
                assignment.study,
                assignment.objective,
                assignment.sampler,
                assignment.pruner,
                catch=assignment.catch,
                watch=watch,
                after_trial=Turn(folder) if assignment.has_callbacks else None,
            )
        except errors.TrialfleetError:
            raise
        except BaseException as error:
            leave_failure(error, folder)
            return errors.EXIT_OBJECTIVE
        finally:
            storage.close()
    return errors.EXIT_DRAINED if outcome.end is End.LEFT else errors.EXIT_OK


def leave_failure(error: BaseException, folder: Path) -> None:
    """Write an exception to a file that the caller reads."""
    told = OptimizeFailure(
        message=failure.one_line(error),
        traceback=failure.user_traceback(error),
        exception=_pickled(error),
    )
    handle, unfinished = tempfile.mkstemp(dir=folder)
    with open(handle, "wb") as file:
        pickle.dump(told, file)
    Path(unfinished).rename(folder / f"failure-{os.getpid()}")


def _pickled(error: BaseException) -> bytes:
    try:
        pickled: Any = cloudpickle.dumps(error)
        pickle.loads(pickled)
    except Exception:  # a user's exception may fail at being pickled in any way
        return b""
    return bytes(pickled)


if __name__ == "__main__":
    # Pickles name this module by its own name, and not as the program that it is.
    from trialfleet.local import optimize_worker

    sys.exit(optimize_worker.main())

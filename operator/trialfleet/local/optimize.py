"""``trialfleet.optimize``: an objective in worker processes, from a script or a notebook."""

import contextlib
import copy
import dataclasses
import importlib.util
import os
import pickle
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import cloudpickle
import optuna
from optuna.pruners import BasePruner, MedianPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial

from trialfleet import names
from trialfleet.client import FleetStorage, StudyDefinition, Summary
from trialfleet.local import arguments, optimize_worker
from trialfleet.local.callback_order import CallbackOrder
from trialfleet.local.crew import Workforce
from trialfleet.local.dry_plan import proxy_command, share_of_cores
from trialfleet.local.failures import is_lost
from trialfleet.local.packages import LocalPackages
from trialfleet.local.progress import ProgressView, Shown, make_view, progress_console
from trialfleet.local.supervisor import Fleet, RunPlan
from trialfleet.local.text_output import print_line
from trialfleet.model import errors
from trialfleet.worker import pickling

Objective = Callable[[Trial], float | Sequence[float]]
Callback = Callable[[optuna.Study, FrozenTrial], None]

POLL_S: Final = 0.05

_TRIALS: Final = "1 or more, or None"

RETRIES: Final = 3
"""Of a trial whose process was killed from outside."""


class WorkerTraceback(Exception):
    """Where an objective raised in its worker process: the cause of what the caller gets."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"


class _Prints(ProgressView):
    """Shows no progress, only what workers write."""

    def update(self, summary: Summary, workers: int) -> None:
        """See :class:`ProgressView`."""

    def line(self, text: str) -> None:
        """See :class:`ProgressView`."""
        print_line(text)

    def close(self) -> None:
        """See :class:`ProgressView`."""


class _CallersStudy(optuna.Study):
    """The study as callbacks see it; Optuna's own ``stop`` wants Optuna's own loop."""

    def __init__(self, *args: Any, on_stop: Callable[[], None]) -> None:
        super().__init__(*args)
        self._on_stop = on_stop

    def stop(self) -> None:
        self._on_stop()


def optimize(
    objective: Objective,
    n_trials: int | None = None,
    *,
    n_jobs: int = 1,
    timeout: float | None = None,
    catch: Iterable[type[Exception]] | type[Exception] = (),
    callbacks: Iterable[Callback] | None = None,
    show_progress_bar: bool = False,
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
    direction: str | StudyDirection | None = None,
    directions: Sequence[str | StudyDirection] | None = None,
    study_name: str | None = None,
    storage: str | None = None,
    parallelism: int | None = None,
    name: str | None = None,
    packages: Sequence[str] | None = None,
) -> optuna.Study:
    """Optimize an objective in worker processes; there is no storage to set up.

    The objective may be defined anywhere, in a script or a notebook, as a closure or a lambda:
    it is pickled by value where it can't be imported. Each worker process has its own copy of
    it and of the sampler; what an objective changes outside the trial stays in its process.

    Args:
        objective: Is called with each trial and returns its value, or one value for each
            direction; raises ``optuna.TrialPruned`` for a trial that is given up.
        n_trials: So many trials are run, beyond those that a storage already holds. None:
            until ``timeout``, or a callback or the objective calls ``study.stop()``.
        n_jobs: Worker processes; -1 for one on each core.
        timeout: Seconds after which no new trial is begun; running ones finish. Counted from
            when the first worker is ready.
        catch: Exceptions of the objective that only fail their trial. Any other one ends the
            run and is raised here.
        callbacks: Each is called with the study and each finished trial, one after the other
            in this thread, and may call ``study.stop()`` or ``study.enqueue_trial()``: the worker
            that ran the trial waits for them before it opens another one.
        show_progress_bar: Whether to show one.
        sampler: Seeded as given in the first worker, and by itself in each further one: with
            one job and a seed, trials are those of Optuna with that seed.
        pruner: As in ``optuna.create_study``.
        direction: As in ``optuna.create_study``.
        directions: As in ``optuna.create_study``.
        study_name: Name of the study; one is made up if absent.
        storage: URL of a PostgreSQL database to keep the trials in. Absent: they are in the
            returned study only.
        parallelism: As ``n_jobs``, by the word of ``trialfleet.submit``.
        name: As ``study_name``, by the word of ``trialfleet.submit``.
        packages: What to install for the objective, as in ``pip install``, once, into
            ``.trialfleet/packages`` of the current folder. Worker processes import it; what this
            process has loaded stays as it is.

    Returns:
        An ordinary study with all trials: in memory, or of the storage.

    Raises:
        BaseException: What the objective raised, with ``WorkerTraceback`` as its cause; what a
            callback raised; ``KeyboardInterrupt``.
        TypeError: An argument is of a wrong type.
        ValueError: An argument is out of its range.
        TrialfleetError: The objective can't be pickled or loaded, the storage can't be used, or
            worker processes die one after the other.
    """
    if optimize_worker.ENV_LOADING in os.environ:
        raise RuntimeError(
            "trialfleet.optimize is called by a module that a worker imports for its objective; "
            "call it under: if __name__ == '__main__':"
        )
    if study_name is not None and name is not None:
        raise ValueError("name: found beside study_name, accepted: one of the two")
    study_name = name if study_name is None else study_name
    jobs = arguments.jobs(n_jobs, parallelism)
    if n_trials is not None:
        n_trials = arguments.count("n_trials", n_trials, _TRIALS)
        if n_trials < 1:
            raise ValueError(f"n_trials: found {n_trials}, accepted: {_TRIALS}")
    arguments.check_objects(
        objective=objective, sampler=sampler, pruner=pruner, study_name=study_name
    )
    arguments.check_timeout(timeout)
    arguments.check_storage(storage)
    run = _Run(
        name=study_name if study_name is not None else f"study-{uuid.uuid4().hex[:12]}",
        directions=arguments.directions(direction, directions),
        sampler=sampler if sampler is not None else TPESampler(),
        pruner=pruner if pruner is not None else MedianPruner(),
        trials=n_trials,
        timeout_s=timeout,
        callbacks=arguments.callbacks(callbacks),
        show_progress_bar=show_progress_bar,
        storage=storage,
        packages=arguments.packages(packages),
    )
    caught = arguments.caught(catch)
    with tempfile.TemporaryDirectory(prefix="trialfleet-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        assignment = optimize_worker.OptimizeAssignment(
            run.name, objective, run.sampler, run.pruner, caught, bool(run.callbacks)
        )
        write_assignment(assignment, folder / "assignment")
        return run(folder, (os.cpu_count() or 1) if jobs == -1 else jobs)


@dataclasses.dataclass
class _Run:
    name: str
    directions: list[StudyDirection]
    sampler: BaseSampler
    pruner: BasePruner
    trials: int | None
    timeout_s: float | None
    callbacks: list[Callback]
    show_progress_bar: bool
    storage: str | None
    packages: LocalPackages | None
    stopped: bool = False

    def __call__(self, folder: Path, jobs: int) -> optuna.Study:
        """Run workers until there is no more to do, and return the study."""
        plan = RunPlan(
            define=self._define,
            folder=folder,
            proxy=proxy_command,
            workforce=lambda address: _workforce(address, folder, jobs, self.packages),
            packages=self.packages,
            storage=self.storage,
            ephemeral=True,
        )
        order = CallbackOrder(folder)
        view: ProgressView = _Prints()
        if self.show_progress_bar:
            view = make_view(Shown(self.name, self._metrics(), self.trials), progress_console())
        with (
            contextlib.closing(view),
            Fleet(
                plan, on_output=lambda worker, line: view.line(line), on_event=view.line
            ) as fleet,
        ):
            with contextlib.closing(order):
                self._attend(fleet, view, order)
            if fleet.crew.error is not None:
                raise_failure(folder, fleet.crew.error)
            if self.storage is None:
                try:
                    return copy_study(
                        fleet.client, fleet.study_id, self.name, self.sampler, self.pruner
                    )
                except KeyError:
                    raise errors.deleted(self.name) from None
        assert self.storage is not None
        storage = RDBStorage(self.storage)
        try:
            # By its id: it may have got another name.
            name = storage.get_study_name_from_id(fleet.study_id)
        except KeyError:
            raise errors.deleted(self.name) from None
        return optuna.load_study(
            study_name=name, storage=storage, sampler=self.sampler, pruner=self.pruner
        )

    def _define(self, client: FleetStorage) -> StudyDefinition:
        definition = StudyDefinition(
            name=self.name, directions=self.directions, trials=self.trials, retries=RETRIES
        )
        try:
            counted = client.summary(client.get_study_id_from_name(self.name)).counts.counted
        except KeyError:
            return definition
        if self.trials is not None:
            return dataclasses.replace(definition, trials=counted + self.trials)
        # A study that was stopped goes on when its budget changes: here from one to none.
        client.ensure_study(dataclasses.replace(definition, trials=counted + 1))
        return definition

    def _metrics(self) -> tuple[str, ...]:
        return ("value",) * len(self.directions)

    def _attend(self, fleet: Fleet, view: ProgressView, order: CallbackOrder) -> None:
        """Call callbacks and show progress until all workers have ended."""
        began = time.time()
        deadline: float | None = None
        study = _CallersStudy(
            self.name, fleet.client, self.sampler, self.pruner, on_stop=self._stop
        )
        told = False
        while True:
            order.wait(POLL_S)
            ended = fleet.crew.join(0)
            if fleet.crew.error is not None:
                return
            for trial in self._finished(fleet, began):
                for callback in self.callbacks:
                    callback(study, trial)
            view.update(fleet.crew.summary, fleet.crew.running)
            if ended:
                return
            if deadline is None and self.timeout_s is not None and fleet.crew.is_up:
                deadline = time.monotonic() + self.timeout_s
            if deadline is not None and time.monotonic() > deadline:
                self._stop()
            if self.stopped and not told:
                fleet.client.stop_study(fleet.study_id)
                told = True
            order.go_on()

    def _finished(self, fleet: Fleet, began: float) -> Iterator[FrozenTrial]:
        """Yield the trials that have finished since the last time; not those of earlier runs."""
        if not self.callbacks:
            return
        try:
            news = fleet.client.news(fleet.study_id)
        except errors.NotFound:
            raise errors.deleted(self.name) from None
        for trial in news:
            completed = trial.datetime_complete
            earlier = completed is not None and completed.timestamp() < began
            if not earlier and not is_lost(trial):
                # Callbacks may do with it what they like.
                yield copy.deepcopy(trial)

    def _stop(self) -> None:
        self.stopped = True


def write_assignment(assignment: optimize_worker.OptimizeAssignment, file: Path) -> None:
    """Pickle the objective and all that a worker needs beside it.

    Raises ``InvalidInput`` if that is not possible.
    """
    try:
        with by_value(assignment.objective):
            pickled, sources = pickling.dumps(assignment)
    except Exception as error:
        with by_value(assignment.objective):
            raise pickling.unpicklable(
                error,
                objective=assignment.objective,
                sampler=assignment.sampler,
                pruner=assignment.pruner,
                catch=assignment.catch,
            ) from error
    file.write_bytes(pickle.dumps((sys.path, sources)) + pickled)


@contextlib.contextmanager
def by_value(objective: Callable[..., object]) -> Iterator[None]:
    """Have the objective's module pickled by value if a worker could not import it.

    That is a module that no import would find, or that is itself being imported right now:
    imported again in a worker, it would call ``optimize`` again.
    """
    name = getattr(objective, "__module__", None) or type(objective).__module__
    module = sys.modules.get(name)
    if module is None or name == "__main__" or _is_importable(module):
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def copy_study(
    client: FleetStorage, source: int, name: str, sampler: BaseSampler, pruner: BasePruner
) -> optuna.Study:
    """Return a study in memory with all that a storage holds of one. Raises ``KeyError``."""
    storage = InMemoryStorage()
    target = storage.create_new_study(client.get_study_directions(source), name)
    for key, value in client.get_study_user_attrs(source).items():
        storage.set_study_user_attr(target, key, value)
    for key, value in client.get_study_system_attrs(source).items():
        storage.set_study_system_attr(target, key, value)
    trials = client.get_all_trials(source, deepcopy=False)
    for trial in sorted(trials, key=lambda trial: trial.number):
        storage.create_new_trial(target, template_trial=trial)
    return optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)


def raise_failure(folder: Path, error: errors.TrialfleetError) -> None:
    """Raise what ended the workers: the objective's own exception, or else ``error``."""
    left = sorted(folder.glob(optimize_worker.FAILURE_GLOB), key=lambda file: file.stat().st_mtime)
    if not left:
        raise error
    told: optimize_worker.OptimizeFailure = pickle.loads(left[0].read_bytes())
    cause = WorkerTraceback(told.traceback)
    raised: BaseException = errors.TrialfleetError(f"the objective raised {told.message}")
    if told.exception:
        # Some exceptions can be pickled but not unpickled.
        with contextlib.suppress(Exception):
            raised = pickle.loads(told.exception)
    raise raised from cause


def _workforce(address: str, folder: Path, jobs: int, packages: LocalPackages | None) -> Workforce:
    command = [sys.executable, "-m", optimize_worker.__name__, str(folder / "assignment")]
    return Workforce(
        parallelism=jobs,
        command=command,
        environment={
            **share_of_cores(jobs, os.environ),
            **(packages.environment if packages is not None else {}),
            names.ENV_PROXY: address,
        },
    )


def _is_importable(module: Any) -> bool:
    spec = getattr(module, "__spec__", None)
    if spec is None or getattr(spec, "_initializing", False):
        return False
    try:
        found = importlib.util.find_spec(module.__name__)
    except (ImportError, ValueError):
        return False
    return found is not None and found.origin == spec.origin

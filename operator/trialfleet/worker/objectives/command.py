"""Objectives that are programs: parameters in, metrics out."""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optuna.trial import Trial

from trialfleet import names
from trialfleet.api.manifest import Manifest
from trialfleet.api.objective import CommandObjective, fill, placeholders
from trialfleet.api.study import StudySpec
from trialfleet.model.errors import ObjectiveImportError
from trialfleet.worker import event_files, failure, program
from trialfleet.worker.failure import Failed, ObjectiveFailure
from trialfleet.worker.group import NotStarted
from trialfleet.worker.interrupts import Interrupt
from trialfleet.worker.program_metrics import ProgramMetrics
from trialfleet.worker.program_progress import ProgramProgress
from trialfleet.worker.program_reports import Inbox

_log = logging.getLogger(__name__)

_ARGS: Final = "spec.objective.command.args"

_STOPS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)
"""Signals that a program and its worker get together when somebody ends them both."""


def load(spec: StudySpec, manifest: Manifest) -> "Command":
    """Return the function that runs a manifest's ``spec.objective.command``.

    Raises:
        ObjectiveImportError: There is no such program.
    """
    command = spec.objective.command
    assert command is not None
    folder = manifest.path.parent.absolute()
    if folder == Path(names.STUDY_FOLDER):
        folder = Path.cwd()  # of the container: an image says by itself where its programs run
    _check_program(command, folder)
    for name, metric in (command.metrics or {}).items():
        if metric.tensorboard is not None:
            event_files.check_reader(f"spec.objective.command.metrics.{name}.tensorboard")
    return Command(
        command=command,
        objectives=[objective.name for objective in spec.objectives],
        folder=folder,
        presence=_Presence(manifest.path),
    )


@dataclass(frozen=True, slots=True)
class Command:
    """Runs a program for each trial.

    A call raises ``Failed`` for a program that failed or left no metrics. An :class:`Interrupt`
    ends the program, and so does the pruner, by ``TrialPruned``.
    """

    command: CommandObjective
    objectives: Sequence[str]
    folder: Path
    """The program's working directory."""
    presence: "_Presence"

    def __call__(self, trial: Trial) -> list[float]:
        """Return the values of the objectives in their order."""
        parameters = trial.params
        checkpoints = os.environ.get(names.ENV_CHECKPOINT_DIR)
        metrics = ProgramMetrics(
            self.objectives,
            self.command.metrics,
            folder=self.folder,
            checkpoints=None if checkpoints is None else Path(checkpoints),
            is_alone=self.presence.is_alone,
            on_step=ProgramProgress(trial).report,
        )
        arguments, environment = self._filled(parameters)
        try:
            with _inbox(environment) as inbox:
                ended = program.run(
                    arguments,
                    environment=environment,
                    folder=self.folder,
                    on_line=metrics.see,
                    on_error=metrics.see_error,
                    on_long_line=metrics.see_length,
                    inbox=inbox,
                    on_report=metrics.see_report,
                    look=metrics.look if metrics.has_files else None,
                )
        except NotStarted as error:
            message = f"{arguments[0]} can't be started: {error}"
            raise Failed(ObjectiveFailure(names.REASON_OBJECTIVE_RAISED, message)) from error
        except Interrupt as interrupt:
            # Where this worker was when it was interrupted says nothing about the program.
            raise interrupt.with_traceback(None) from None
        if ended.code != 0:
            raise Failed(_failure(ended), was_stopped=-ended.code in _STOPS)
        return metrics.values()

    def _filled(self, parameters: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
        """Return the program's arguments and environment."""
        given: dict[str, str] = {
            names.ENV_PARAMS: json.dumps(parameters),
            names.ENV_OBJECTIVES: json.dumps(self.objectives),
        }
        surrounding = {**os.environ, **given}
        known: dict[str, Any] = {
            name: surrounding[name] for name in names.TRIAL_VARIABLES if name in surrounding
        }
        values = {**known, **parameters}
        added = self.command.env or {}
        try:
            arguments = [fill(argument, values) for argument in self.command.args]
            own = {name: fill(value, values) for name, value in added.items()}
        except KeyError as missing:
            message = f"$({missing.args[0]}) has no value: this worker has no checkpoint folder"
            raise Failed(ObjectiveFailure(names.REASON_OBJECTIVE_RAISED, message)) from None
        return arguments, {**os.environ, **own, **given}


@contextlib.contextmanager
def _inbox(environment: dict[str, str]) -> Iterator[Inbox | None]:
    """Have a program's reports in between; none where there can be no named pipe."""
    with contextlib.ExitStack() as stack:
        try:
            inbox = stack.enter_context(Inbox())
        except OSError as error:
            _log.warning("'trialfleet report' has no effect: no named pipe can be made, %s", error)
            yield None
            return
        environment[names.ENV_REPORT] = str(inbox.path)
        yield inbox


def _failure(ended: program.ProgramEnd) -> ObjectiveFailure:
    if ended.code < 0:
        message = f"the program was killed by {_signal_name(-ended.code)}"
    else:
        message = f"the program ended with exit code {ended.code}"
    if ended.errors:
        message += f": {ended.errors[-1].strip()}"
    return ObjectiveFailure(
        reason=names.REASON_CRASHED,
        message=failure.shortened(message),
        traceback=failure.bounded("\n".join(ended.errors)),
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _check_program(command: CommandObjective, folder: Path) -> None:
    name = command.args[0]
    path = (command.env or {}).get("PATH") or os.environ.get("PATH") or os.defpath
    if any(placeholders([name, path])):
        return  # each trial has its own
    name, path = fill(name, {}), fill(path, {})
    given = folder / name
    if "/" not in name:
        if shutil.which(name, path=path) is None:
            hint = f"; for the file {given} write './{name}'" if given.is_file() else ""
            raise ObjectiveImportError(f"{_ARGS}: found no program {name!r} in PATH, {path}{hint}")
    elif not given.is_file():
        raise ObjectiveImportError(f"{_ARGS}: found {name!r}, but there is no file {given}")
    elif not os.access(given, os.X_OK):
        raise ObjectiveImportError(f"{_ARGS}: found {name!r}, but {given} is not executable")


class _Presence:
    """Tells workers of one manifest on this machine of each other, for as long as they live.

    Where files can't be locked, each takes itself to be alone.
    """

    def __init__(self, manifest: Path) -> None:
        self._descriptor = os.open(manifest, os.O_RDONLY)
        self._announce()

    def is_alone(self) -> bool:
        """Whether no other worker of the manifest lives on this machine."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return not isinstance(error, BlockingIOError)
        finally:
            self._announce()
        return True

    def _announce(self) -> None:
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)

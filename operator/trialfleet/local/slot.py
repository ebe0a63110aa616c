"""A place for one worker process after another."""

import os
import platform
import signal
import threading
from typing import TYPE_CHECKING, Final

from trialfleet import names
from trialfleet.local import exits
from trialfleet.local.processes import Child, inherited_environment
from trialfleet.model import errors
from trialfleet.model.ends import EndKind, end_of_exit
from trialfleet.model.trial_marks import is_mark

if TYPE_CHECKING:
    from trialfleet.local.crew import Crew

RANK: Final = 0
"""Orphaned workers are ended first."""


class Slot(threading.Thread):
    """A place for one worker after another."""

    def __init__(self, crew: "Crew", index: int) -> None:
        super().__init__(name=f"trialfleet-worker-{index}", daemon=True)
        self._crew = crew
        self._index = index
        self._worker = f"local-{platform.node() or 'host'}-{os.getpid()}-{index}"
        self._child: Child | None = None
        self._sent: signal.Signals | None = None
        self._hearing = threading.Lock()
        self._has_run = False
        """Whether the process has begun a trial, as far as its output says."""
        self._is_dismissed = False
        self._held: str | None = None
        self._last_line = "a worker can't start"

    @property
    def running(self) -> bool:
        """Whether there is a process now."""
        return self._child is not None

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the process, also to one that is only just being started."""
        self._sent = signum
        child = self._child
        if child is not None:
            child.send(signum)

    def dismiss(self) -> None:
        """End a process that has not begun a trial: the study has ended and no trial runs.

        One that is only just being started would take a second to find that out by itself. One that
        has run trials may have something to finish, and ends when it has.
        """
        child = self._child
        if child is not None and not self._has_run and not self._is_dismissed:
            self._is_dismissed = True
            child.send(signal.SIGTERM)

    def run(self) -> None:
        """Run one worker after another until there is no more work."""
        try:
            if self._crew.wait_for_turn(self._index):
                while self._live():
                    pass
        except errors.TrialfleetError as error:
            self._crew.fail(error)
        except OSError as error:
            self._crew.fail(errors.TrialfleetError(f"can't start a worker: {error}"))

    def _live(self) -> bool:
        """Run one worker to its end; return whether another one is to follow."""
        crew = self._crew
        oom_kills = exits.oom_kills()
        self._has_run = False
        self._child = Child(
            crew.workforce.command,
            reaper=crew.reaper,
            rank=RANK,
            environment={
                **inherited_environment(),
                **crew.workforce.environment,
                **crew.workforce.own(self._index),
                names.ENV_WORKER: self._worker,
            },
            on_line=self._hear,
            folder=crew.workforce.folder,
        )
        if self._sent is not None:
            self._child.send(self._sent)
        code = self._child.wait()
        self._child = None
        if self._is_dismissed:
            crew.report_end(self._worker, end_of_exit(errors.EXIT_DRAINED))
            return False
        end = exits.end_of_process(code, out_of_memory=exits.oom_kills() > oom_kills)
        if end.kind is EndKind.OBJECTIVE_UNUSABLE:
            raise errors.ObjectiveImportError(self._last_line)
        if end.kind is EndKind.UNUSABLE:
            raise errors.InvalidInput(self._last_line)
        if end.kind is not EndKind.NO_MORE_WORK and not crew.stopping.is_set():
            crew.look()  # that the study was deleted is no failure of the worker
        self.flush()
        was_open = crew.report_end(self._worker, end)
        if crew.stopping.is_set() or (end.kind is EndKind.NO_MORE_WORK and not was_open):
            return False
        return not crew.stopping.wait(0.0 if end.kind is EndKind.LEFT else crew.pause_s(end))

    def flush(self) -> None:
        """Pass on the line that is held back."""
        with self._hearing:
            held, self._held = self._held, None
            if held is not None and self._crew.error is None:
                self._crew.output(self._worker, held)

    def _hear(self, line: str) -> None:
        # The last line of a worker that can't begin says why, and is told as the run's error.
        self._has_run = self._has_run or is_mark(line)
        self.flush()
        with self._hearing:
            self._last_line = self._held = line
        if self._crew.is_up:
            self.flush()

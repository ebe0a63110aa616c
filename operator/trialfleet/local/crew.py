"""The workers of a local run: each is watched, and what it leaves is taken care of."""

import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trialfleet.local.processes import Reaper
from trialfleet.local.slot import Slot
from trialfleet.model import errors
from trialfleet.model.ends import EndKind, WorkerEnd

if TYPE_CHECKING:
    from trialfleet.client import FleetStorage, StudyDefinition, Summary
    from trialfleet.local.stages import Stage

FRUITLESS_DEATHS: Final = 10
"""So many workers that die in a row without a trial finished end the run, or two for each
worker where that is more."""

WATCH_S: Final = 0.25
"""Between two looks at the study's counts."""

GIVE_UP_S: Final = 5.0
"""For the storage to hear of workers that were killed; it may be away for good."""

START_S: Final = 3.0
"""For a worker to open its session; then the next one is started anyway."""

_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 4.0


@dataclasses.dataclass(frozen=True)
class Workforce:
    """How many workers there are, and what one is."""

    parallelism: int
    command: Sequence[str]
    """Of a worker, whose name is in its environment."""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    folder: Path | None = None
    """Their current folder; absent: the supervisor's."""
    own_environments: Sequence[Mapping[str, str]] = ()
    """What each worker has in its environment beside the others', such as its GPUs; by index."""
    marks_trials: bool = False
    """Whether a worker's output says where a trial begins."""

    def own(self, index: int) -> Mapping[str, str]:
        """Return what only one worker has in its environment."""
        return self.own_environments[index] if self.own_environments else {}


class Crew:
    """Keeps workers running until the study has no more work for them.

    ``on_output`` gets a worker's name and a line of its output, ``on_event`` what happened to a
    worker, in one line for people; both are called from other threads, one call at a time.
    Every method may be called by any thread.
    """

    def __init__(
        self,
        workforce: Workforce,
        client: "FleetStorage",
        definition: "StudyDefinition",
        study_id: int,
        reaper: Reaper,
        *,
        on_output: Callable[[str, str], None],
        on_event: Callable[[str], None],
        prepare: "Stage | None" = None,
        collate: "Stage | None" = None,
    ) -> None:
        self.workforce = workforce
        self.reaper = reaper
        self.stopping = threading.Event()
        self.error: errors.TrialfleetError | None = None
        """Why the crew stopped by itself although there may be more to do."""
        self.collate_error: errors.TrialfleetError | None = None
        """Why the last step, after all trials, has failed."""
        self._client = client
        self._definition = definition
        self._study_id = study_id
        self._on_output = on_output
        self._on_event = on_event
        self._telling = threading.Lock()
        self._changed = threading.Condition()
        self._deaths = 0
        self._crashed_trials = 0
        self._fruit = 0
        self._is_up = False
        self._prepare = prepare
        self._collate = collate
        self._is_prepared = prepare is None
        self._slots: list[Slot] = []
        self._threads: list[threading.Thread] = []
        """All that has to end before the crew has."""
        self._watching = threading.Thread(target=self._watch, name="trialfleet-watch", daemon=True)
        self.summary: Summary = client.summary(study_id)
        """The study, about ``WATCH_S`` seconds ago at most."""

    def start(self) -> None:
        """Start ``prepare``, then as many workers as there may be work for, then ``collate``."""
        self._watching.start()
        if not self.summary.ended:
            self._fruit = self.summary.counts.counted
            count = self.workforce.parallelism
            if self._definition.trials is not None:
                count = min(count, max(1, self._definition.trials - self._fruit))
            self._slots += [Slot(self, index) for index in range(count)]
            self._threads += self._slots
            if self._prepare is not None:
                self._threads.append(
                    threading.Thread(
                        target=self._run_prepare, args=(self._prepare,), name="prepare", daemon=True
                    )
                )
        if self._collate is not None:
            self._threads.append(
                threading.Thread(
                    target=self._run_collate,
                    args=(self._collate, list(self._threads)),
                    name="collate",
                    daemon=True,
                )
            )
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> int:
        """How many worker processes there are."""
        return sum(slot.running for slot in self._slots)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until every worker has ended for good, and ``collate``; return whether they have."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                return False
        return True

    def leave(self) -> None:
        """Ask the workers to leave: after their trial or, asked a second time, at once."""
        self._stop(signal.SIGTERM)

    def kill(self) -> None:
        """End the workers and all that they started; what they ran is lost and retried."""
        self._stop(signal.SIGKILL)

    def close(self) -> None:
        """Kill what still runs; return when all has ended, and the storage has heard of it."""
        if not self.join(0):
            self.kill()
        self.stopping.set()
        if not self._settle(GIVE_UP_S):
            self._client.close()
            self._settle(None)

    def _settle(self, timeout_s: float | None) -> bool:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        settled = self.join(timeout_s)
        if self._watching.ident is not None:
            self._watching.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return settled and not self._watching.is_alive()

    def look(self) -> "Summary":
        """Fetch the study's summary. Raises ``NotFound`` if the study was deleted."""
        try:
            summary = self._client.summary(self._study_id)
        except errors.NotFound:
            raise errors.deleted(self._definition.name) from None
        with self._changed:
            self.summary = summary
            self._is_up = self._is_up or summary.sessions > 0
            self._changed.notify_all()
        return summary

    # -- for the slots -----------------------------------------------------------------------

    def wait_for_turn(self, index: int) -> bool:
        """Wait until the first worker of a slot may start; False if it should not any more.

        Starting one takes a core for about a second. The first one is given that, so that the
        first trial begins soon and an objective that can't be loaded is told once; then each
        that is up lets as many begin as there are cores.
        """
        cores = os.cpu_count() or 1
        with self._changed:
            self._changed.wait_for(lambda: self._is_prepared or self.stopping.is_set())
            deadline = time.monotonic() + START_S * math.ceil(index / cores)
            while not self.stopping.is_set():
                if self.summary.ended:
                    return False
                up = self.summary.sessions
                left_s = deadline - time.monotonic()
                if index < (up + cores if up else 1) or left_s <= 0:
                    return True
                self._changed.wait(left_s)
        return False

    @property
    def is_up(self) -> bool:
        """Whether a worker has got as far as opening a session."""
        return self._is_up

    def output(self, worker: str, line: str) -> None:
        """Pass on a line that a worker wrote."""
        with self._telling:
            self._on_output(worker, line)

    def report_end(self, worker: str, end: WorkerEnd) -> bool:
        """Take from a dead worker what it was running, and tell what became of it.

        Returns whether it had not closed its session itself.
        """
        given_up = self._client.give_up(
            worker=worker,
            reason=end.reason,
            message=end.message,
            failed=end.kind in (EndKind.FAILED, EndKind.NO_MORE_WORK),
        )
        with self._changed:
            self._crashed_trials += len(given_up.failed)
        quiet = end.kind in (EndKind.NO_MORE_WORK, EndKind.LEFT) and not given_up.sessions
        if not quiet and not self.stopping.is_set():
            outcome = [f"trial {number} failed" for number in given_up.failed]
            outcome += [f"trial {number} is lost" for number in given_up.lost]
            outcome += [f"it runs again as trial {number}" for number in given_up.requeued]
            with self._telling:
                self._on_event("; ".join([f"{worker}: {end.message}", *outcome]))
        return given_up.sessions > 0

    def pause_s(self, end: WorkerEnd) -> float:
        """Seconds to wait after a death before the next start.

        Raises ``TrialfleetError`` if too many have died without a trial finished.
        """
        counted = self.look().counts.counted
        with self._changed:
            fruit = counted - self._crashed_trials
            if fruit > self._fruit:
                self._fruit, self._deaths = fruit, 0
            self._deaths += 1
            deaths = self._deaths
        if deaths >= max(FRUITLESS_DEATHS, 2 * self.workforce.parallelism):
            raise errors.TrialfleetError(
                f"{deaths} workers in a row have died and no trial has finished in between; "
                f"the last one: {end.message}"
            )
        return min(_FIRST_PAUSE_S * 2.0 ** (deaths - 2), _LONGEST_PAUSE_S) if deaths > 1 else 0.0

    def fail(self, error: errors.TrialfleetError) -> None:
        """End the run with an error; only the first one counts."""
        with self._changed:
            first, self.error = self.error is None, self.error or error
        if first:
            self.kill()

    # -- the rest ----------------------------------------------------------------------------

    def _stop(self, signum: signal.Signals) -> None:
        self.stopping.set()
        with self._changed:
            self._changed.notify_all()
        for stage in (self._prepare, self._collate):
            if stage is not None:
                stage.send(signum)
        for slot in self._slots:
            slot.send(signum)

    def _run_prepare(self, stage: "Stage") -> None:
        try:
            done = stage.run(trials=0)
        except errors.TrialfleetError as error:
            self.fail(error)
            return
        except OSError as error:
            self.fail(errors.TrialfleetError(f"spec.prepare: can't be run: {error}"))
            return
        with self._changed:
            self._is_prepared = done
            self._changed.notify_all()

    def _run_collate(self, stage: "Stage", before: Sequence[threading.Thread]) -> None:
        for thread in before:
            thread.join()
        if self.stopping.is_set():
            return
        try:
            summary = self.look()
            if summary.ended:
                stage.run(trials=summary.counts.counted)
        except errors.TrialfleetError as error:
            self.collate_error = error
        except OSError as error:
            self.collate_error = errors.TrialfleetError(f"spec.collate: can't be run: {error}")

    def _watch(self) -> None:
        while not self.stopping.wait(WATCH_S):
            try:
                self.look()
            except errors.TrialfleetError as error:
                self.fail(error)
            is_over = self.summary.ended and not self.summary.counts.running
            for slot in self._slots:
                if self.is_up:
                    slot.flush()
                if is_over and self.workforce.marks_trials:
                    slot.dismiss()

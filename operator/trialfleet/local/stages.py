"""``prepare`` and ``collate`` of a local run: done once, and that is kept with the study."""

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialfleet import names
from trialfleet.local.processes import Reaper
from trialfleet.local.run_once import Running, RunOnce

if TYPE_CHECKING:
    from trialfleet.client import FleetStorage

WriteResults = Callable[["FleetStorage", int, Path], None]
"""Writes all trials of a study into a folder, as ``trials.json`` and ``trials.csv``."""


class Stage:
    """``prepare`` or ``collate`` of one study. One thread runs it, any may send a signal."""

    def __init__(
        self,
        task: RunOnce,
        client: "FleetStorage",
        study_id: int,
        environment: Mapping[str, str],
        reaper: Reaper,
        *,
        on_event: Callable[[str], None],
        write_results: Callable[[], None] | None = None,
    ) -> None:
        self._task = task
        self._client = client
        self._study_id = study_id
        self._write_results = write_results
        self._running = Running(
            task, environment, reaper, lambda line: on_event(f"{task.name}: {line}")
        )

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the program that runs, and begin no other."""
        self._running.send(signum)

    def run(self, trials: int) -> bool:
        """Run it unless it was done for so many trials; return False if a signal stopped it.

        That it was done is kept in the study's attributes: a study that is deleted begins anew.

        Raises:
            TrialfleetError: It has failed, or the storage is out of reach.
            OSError: A program or a file can't be written or started.
        """
        key = names.attr_of_stage(self._task.name)
        done: dict[str, Any] = {"digest": self._task.digest, "trials": trials}
        if self._client.get_study_system_attrs(self._study_id).get(key) == done:
            return True
        if self._write_results is not None:
            self._write_results()
        if not self._running.run():
            return False
        self._client.set_study_system_attr(self._study_id, key, done)
        return True

"""What the tests run: studies in a storage, and real worker processes."""

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from trialfleet.client import FleetStorage, StudyDefinition, Summary
from trialfleet.model.trial_marks import is_mark

TIMEOUT_S = 60.0


class Study:
    """A study in a storage, and its manifest in a folder."""

    def __init__(
        self,
        storage: FleetStorage,
        folder: Path,
        objective: dict[str, Any],
        *,
        trials: int = 1,
        objectives: int = 1,
        retries: int = 0,
        trial_timeout: str | None = None,
        enqueue: Sequence[dict[str, Any]] = (),
        **spec: Any,
    ) -> None:
        self.name = folder.name.replace("_", "-")[-40:].strip("-") + f"-{os.urandom(3).hex()}"
        self.storage = storage
        self.manifest = folder / f"{self.name}.json"
        budget: dict[str, Any] = {"trials": trials}
        if trial_timeout is not None:
            budget["trialTimeout"] = trial_timeout
        document = {
            "apiVersion": "trialfleet.dev/v1alpha1",
            "kind": "Study",
            "metadata": {"name": self.name},
            "spec": {
                "objectives": [
                    {"name": f"value{n}", "direction": "minimize"} for n in range(objectives)
                ],
                "budget": budget,
                "objective": objective,
                **spec,
            },
        }
        self.manifest.write_text(json.dumps(document))
        self.study_id, _ = storage.ensure_study(
            StudyDefinition(
                name=self.name,
                directions=[StudyDirection.MINIMIZE] * objectives,
                trials=trials,
                retries=retries,
                enqueue=enqueue,
            )
        )

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.storage.get_all_trials(self.study_id)

    @property
    def summary(self) -> Summary:
        return self.storage.summary(self.study_id)


def source(text: str) -> dict[str, Any]:
    """Return an objective of inline Python."""
    return {"python": {"source": textwrap.dedent(text)}}


class Worker:
    """``trialfleet worker`` as a process."""

    def __init__(
        self, study: Study | None, proxy: str, log: Path, *arguments: str, **environment: str
    ) -> None:
        self._log = log
        chosen = [] if study is None else ["--study", str(study.manifest)]
        with log.open("ab") as stderr:
            self.popen = subprocess.Popen(
                [
                    *(sys.executable, "-m", "trialfleet.cli.main", "worker"),
                    *(*chosen, "--proxy", proxy, *arguments),
                ],
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=log.parent,
                env={**os.environ, **environment},
            )
        self._output = b""

    def line(self) -> str:
        """Return the next line that the objective prints."""
        while is_mark(line := self._next_line()):
            pass
        return line

    def _next_line(self) -> str:
        assert self.popen.stdout is not None
        deadline = time.monotonic() + TIMEOUT_S
        while b"\n" not in self._output:
            ready, _, _ = select.select([self.popen.stdout], [], [], deadline - time.monotonic())
            data = os.read(self.popen.stdout.fileno(), 65536) if ready else b""
            assert data, f"no further line: {self.errors}"
            self._output += data
        line, _, self._output = self._output.partition(b"\n")
        return line.decode()

    def wait(self) -> int:
        """Return the exit code."""
        return self.popen.wait(TIMEOUT_S)

    def terminate(self) -> None:
        self.popen.send_signal(signal.SIGTERM)

    @property
    def errors(self) -> str:
        """What it wrote to standard error."""
        return self._log.read_text()

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.communicate()

    def until_logged(self, text: str) -> None:
        """Return when it has written a text to standard error."""
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.errors:
            assert time.monotonic() < deadline, self.errors
            assert self.popen.poll() is None, self.errors
            time.sleep(0.01)

"""The proxy of a local run: started, and started again on the same socket when it dies."""

import collections
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from trialfleet.local.processes import Child, Reaper
from trialfleet.model import errors

STOP_S: Final = 10.0
"""For the calls in flight; after it a proxy that was asked to stop is killed."""

RANK: Final = 1
"""An orphaned proxy is ended after the workers, which hand their trials back through it."""

_LISTENING: Final = "listening on "
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0


class ProxyProcess:
    """Keeps one proxy up from ``start`` to ``stop``.

    ``command`` is called with the address to listen on and returns the proxy's command line.
    ``on_death`` is told each time, in one line for people.
    """

    def __init__(
        self,
        command: Callable[[str], Sequence[str]],
        *,
        reaper: Reaper,
        environment: Mapping[str, str],
        log: Path,
        on_death: Callable[[str], None],
    ) -> None:
        self._command = command
        self._reaper = reaper
        self._environment = environment
        self._log_path = log
        self._on_death = on_death
        # In a folder of this user's own: who reaches a proxy without tokens can do anything.
        self._address = f"unix:{reaper.folder / 'proxy'}"
        self._settled = threading.Event()
        self._stopping = threading.Event()
        self._child: Child | None = None
        self._last_lines: collections.deque[str] = collections.deque(maxlen=5)
        self._failed: errors.TrialfleetError | None = None
        self._thread = threading.Thread(target=self._keep, name="trialfleet-proxy", daemon=True)

    def start(self) -> None:
        """Begin to start it."""
        self._thread.start()

    def wait(self) -> str:
        """Return its address when it serves, which waits for the database.

        Raises ``InvalidInput`` or ``StorageUnavailable`` with what the proxy says is wrong.
        """
        self._settled.wait()
        if self._failed is not None:
            raise self._failed
        return self._address

    def stop(self) -> None:
        """Let the proxy finish its calls and end; return when it has."""
        self._stopping.set()
        if self._child is not None:
            self._child.send(signal.SIGTERM)
            self._thread.join(STOP_S)
            if self._thread.is_alive():
                self._child.send(signal.SIGKILL)
        if self._thread.is_alive():
            self._thread.join()

    def _keep(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            with self._log_path.open("a", encoding="utf-8") as log:
                code = self._live(log.write)
            if self._stopping.is_set():
                break
            if not self._settled.is_set():
                self._failed = self._failure(code)
                break
            self._on_death(f"the proxy ended with code {code}; starting it again")
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self._settled.set()

    def _live(self, write: Callable[[str], object]) -> int:
        def on_line(line: str) -> None:
            write(line + "\n")
            self._last_lines.append(line)
            if line.startswith(_LISTENING):
                self._address = line.removeprefix(_LISTENING).strip()
                self._settled.set()

        self._child = Child(
            self._command(self._address),
            reaper=self._reaper,
            rank=RANK,
            environment=self._environment,
            on_line=on_line,
        )
        if self._stopping.is_set():
            self._child.send(signal.SIGTERM)
        return self._child.wait()

    def _failure(self, code: int) -> errors.TrialfleetError:
        said = self._last_lines[-1] if self._last_lines else f"it ended with code {code}"
        kind = errors.InvalidInput if code == errors.EXIT_INVALID else errors.StorageUnavailable
        return kind(f"the proxy does not start: {said} (log: {self._log_path})")

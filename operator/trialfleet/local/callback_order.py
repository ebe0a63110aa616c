"""Callbacks before the next trial: a worker waits for the caller's before it opens another one.

So what a callback does, to stop the study or to enqueue a trial, comes before the next trial that
this worker opens: with one job as with stock Optuna. The two ends speak over a socket in the run's
folder: a byte for a trial that was told, and a byte back.
"""

import contextlib
import selectors
import socket
from pathlib import Path
from typing import Final

NAME: Final = "callbacks"
"""Of the socket."""


class CallbackOrder:
    """The caller's end: hears of trials that workers have told, and lets the workers go on.

    To be used by one thread.
    """

    def __init__(self, folder: Path) -> None:
        self._selector = selectors.DefaultSelector()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(folder / NAME))
        self._listening.listen(128)
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._waiting: list[socket.socket] = []

    def wait(self, timeout_s: float) -> None:
        """Wait until a worker waits, for so long at most."""
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._listening:
                worker, _ = self._listening.accept()
                self._selector.register(worker, selectors.EVENT_READ)
                continue
            worker = key.fileobj  # type: ignore[assignment]
            if _receive(worker):
                self._waiting.append(worker)
            else:
                self._forget(worker)

    def go_on(self) -> None:
        """Let the workers that wait open their next trials."""
        waiting, self._waiting = self._waiting, []
        for worker in waiting:
            with contextlib.suppress(OSError):
                worker.sendall(b"\n")

    def close(self) -> None:
        """Let all workers go on, for good."""
        for key in list(self._selector.get_map().values()):
            self._forget(key.fileobj)  # type: ignore[arg-type]
        self._selector.close()

    def _forget(self, end: socket.socket) -> None:
        self._selector.unregister(end)
        end.close()


class Turn:
    """A worker's end."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(folder / NAME))

    def __call__(self) -> None:
        """Say that a trial was told, and wait until its callbacks were called."""
        with contextlib.suppress(OSError):
            self._socket.sendall(b"\n")
            _receive(self._socket)


def _receive(end: socket.socket) -> bytes:
    try:
        return end.recv(1)
    except OSError:
        return b""

"""Group commit: the writes of many callers share a transaction."""

import asyncio
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import sqlalchemy as sa

from trialfleet.errors import Overloaded, StorageUnavailable
from trialfleet.storage.batch import Writer
from trialfleet.storage.records import Command

_log = logging.getLogger(__name__)

_MAX_BATCH = 1_000
"""Commands a transaction, about: bounds the time for which it holds its locks."""

_Submitted = tuple[Sequence[Command], asyncio.Future[list[Any]]]
"""One caller's commands, and the future of their answers."""


class Committer:
    """Applies commands in batches, on a thread of its own.

    While one batch commits the next gathers, so a batch is as large as the load makes it and a
    lone command never waits for company but that of the commands that came at the same time.
    Create and use it on one event loop.
    """

    def __init__(
        self, engine: sa.Engine, max_waiting: int, on_commit: Callable[[Sequence[Command]], None]
    ) -> None:
        """Start the thread. ``on_commit`` gets each batch on the loop, before its answers."""
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(engine)
        self._max_waiting = max_waiting
        self._on_commit = on_commit
        self._waiting: deque[_Submitted] = deque()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._waking = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many callers wait for a transaction."""
        return len(self._waiting)

    def submit(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Return a future of the commands' answers or errors; done when they are committed.

        They are applied in their order, in one transaction as far as they can share one.
        Raises :class:`Overloaded` if too many callers wait already.
        """
        if self._closed:
            raise StorageUnavailable("the proxy is stopping")
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} writes are waiting already")
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._waiting.append((commands, future))
        if not self._waking:
            # Not before the loop has read all that arrived: a batch takes it all.
            self._waking = True
            self._loop.call_soon(self._go)
        return future

    async def close(self) -> None:
        """Apply what waits, then end the thread."""
        self._closed = True
        self._wake.put(None)
        await asyncio.to_thread(self._thread.join)

    def _go(self) -> None:
        self._waking = False
        self._wake.put(None)

    def _run(self) -> None:
        while True:
            self._wake.get()
            batch: list[_Submitted] = []
            commands: list[Command] = []
            while self._waiting and len(commands) < _MAX_BATCH:
                batch.append(self._waiting.popleft())
                commands.extend(batch[-1][0])
            if len(commands) >= _MAX_BATCH:
                self._wake.put(None)  # there may be more, which nobody will say again
            if batch:
                answers = self._apply(commands)
                self._loop.call_soon_threadsafe(self._answer, batch, commands, answers)
            elif self._closed:
                self._writer.close()
                return

    def _apply(self, commands: Sequence[Command]) -> list[Any]:
        try:
            return self._writer.apply(commands)
        except Exception as error:
            # A defect of ours must not leave callers waiting for ever.
            _log.exception("a batch of %d commands failed", len(commands))
            return [error] * len(commands)

    def _answer(
        self, batch: Sequence[_Submitted], commands: Sequence[Command], answers: Sequence[Any]
    ) -> None:
        self._on_commit(commands)
        remaining = iter(answers)
        for mine, future in batch:
            given = list(itertools.islice(remaining, len(mine)))
            if not future.done():
                future.set_result(given)

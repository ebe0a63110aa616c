"""Group commit: the writes of many callers share a transaction."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from trialfleet.errors import Overloaded, StorageUnavailable
from trialfleet.storage.batch import Writer
from trialfleet.storage.records import Command

_log = logging.getLogger(__name__)

_MAX_BATCH = 1_000
"""Commands a transaction: bounds the time for which it holds its locks."""


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
        self._waiting: deque[tuple[Command, asyncio.Future[Any]]] = deque()
        self._wake = threading.Semaphore(0)
        self._waking = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many commands wait for a transaction."""
        return len(self._waiting)

    def submit(self, commands: Sequence[Command]) -> list[asyncio.Future[Any]]:
        """Return futures of the commands' answers or errors; done when they are committed.

        They are applied in their order, in one transaction as far as they can share one.
        Raises :class:`Overloaded` if too many wait already.
        """
        if self._closed:
            raise StorageUnavailable("the proxy is stopping")
        if len(self._waiting) + len(commands) > self._max_waiting:
            raise Overloaded(f"{self._max_waiting} writes are waiting already")
        submitted = [(command, self._loop.create_future()) for command in commands]
        self._waiting.extend(submitted)  # at once: the thread takes all or none
        if not self._waking:
            # Not before the loop has read all that arrived: a batch takes it all.
            self._waking = True
            self._loop.call_soon(self._go)
        return [future for _, future in submitted]

    async def close(self) -> None:
        """Apply what waits, then end the thread."""
        self._closed = True
        self._wake.release()
        await asyncio.to_thread(self._thread.join)

    def _go(self) -> None:
        self._waking = False
        self._wake.release()

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            batch: list[tuple[Command, asyncio.Future[Any]]] = []
            while self._waiting and len(batch) < _MAX_BATCH:
                batch.append(self._waiting.popleft())
            if len(batch) == _MAX_BATCH:
                self._wake.release()  # there may be more, which nobody will say again
            if batch:
                answers = self._apply([command for command, _ in batch])
                self._loop.call_soon_threadsafe(self._answer, batch, answers)
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
        self, batch: Sequence[tuple[Command, asyncio.Future[Any]]], answers: Sequence[Any]
    ) -> None:
        self._on_commit([command for command, _ in batch])
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

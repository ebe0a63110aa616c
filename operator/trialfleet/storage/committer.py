"""Group commit: the writes of many callers share a transaction."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

from trialfleet.model.errors import Overloaded, StorageUnavailable
from trialfleet.storage.commands import Command
from trialfleet.storage.writer import Writer

_log = logging.getLogger(__name__)

_MAX_BATCH = 1_000
"""Commands a transaction, about: bounds the time for which it holds its locks."""

_DELAY_S: Final = 0.1
"""How long a command that nobody waits for may wait for others to share a transaction with."""


class _Submitted(NamedTuple):
    """One caller's commands, and the future of their answers."""

    commands: Sequence[Command]
    future: asyncio.Future[list[Any]]


class Committer:
    """Applies commands in batches, in a thread.

    While one batch commits the next gathers, so a batch is as large as the load makes it, and a
    lone command waits for no other but those that came at the same time. Create and use it on one
    event loop.
    """

    def __init__(
        self,
        writer: Writer,
        max_waiting: int,
        on_commit: Callable[[Sequence[Command]], None],
    ) -> None:
        """Start the thread. ``on_commit`` gets each batch on the loop, before its answers."""
        self._loop = asyncio.get_running_loop()
        self._writer = writer
        self._max_waiting = max_waiting
        self._on_commit = on_commit
        self._waiting: deque[_Submitted] = deque()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._waking = False
        self._delayed: asyncio.TimerHandle | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many callers wait for a transaction."""
        return len(self._waiting)

    def submit(
        self, commands: Sequence[Command], *, urgent: bool = True
    ) -> asyncio.Future[list[Any]]:
        """Return a future of the commands' answers or errors; done when they are committed.

        They are applied in their order, in one transaction as far as they can share one. What is
        not urgent waits up to 0.1 s for the next batch that somebody waits for. Raises
        :class:`Overloaded` if too many callers wait already.
        """
        if self._closed:
            raise StorageUnavailable("the proxy is stopping")
        if self.waiting >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} writes are waiting already")
        future = self._loop.create_future()
        self._waiting.append(_Submitted(commands, future))
        if urgent:
            self._wake_soon()
        elif self._delayed is None:
            self._delayed = self._loop.call_later(_DELAY_S, self._wake_soon)
        return future

    async def close(self) -> None:
        """Apply what waits, then end the thread."""
        self._closed = True
        self._wake_soon()
        await asyncio.to_thread(self._thread.join)

    def _wake_soon(self) -> None:
        if self._delayed is not None:
            self._delayed.cancel()
            self._delayed = None
        if not self._waking:
            # Not before the loop has read all that arrived: a batch takes it all.
            self._waking = True
            self._loop.call_soon(self._wake_thread)

    def _wake_thread(self) -> None:
        self._waking = False
        self._wake.put(None)

    def _run(self) -> None:
        while not (self._closed and not self._waiting):
            self._wake.get()
            batch: list[_Submitted] = []
            commands: list[Command] = []
            while self._waiting and len(commands) < _MAX_BATCH:
                submitted = self._waiting.popleft()
                batch.append(submitted)
                commands.extend(submitted.commands)
            if self._waiting:
                self._wake.put(None)  # for the rest, which nobody will announce again
            if batch:
                answers = self._apply(commands)
                self._loop.call_soon_threadsafe(self._answer, batch, commands, answers)
        self._writer.close()

    def _apply(self, commands: Sequence[Command]) -> list[Any]:
        try:
            return self._writer.apply(commands)
        except Exception as error:
            # A defect of ours must not leave callers waiting for ever.
            _log.exception("a batch of %d commands failed", len(commands))
            return [error] * len(commands)

    def _answer(
        self,
        batch: Sequence[_Submitted],
        commands: Sequence[Command],
        answers: Sequence[Any],
    ) -> None:
        applied = [
            command
            for command, answer in zip(commands, answers, strict=True)
            if not isinstance(answer, StorageUnavailable)
        ]
        if applied:
            self._on_commit(applied)
        given = iter(answers)
        for submitted in batch:
            own = [next(given) for _ in submitted.commands]
            if not submitted.future.done():
                submitted.future.set_result(own)

"""Work that many share."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial


class SharedFlight:
    """Runs one piece of work at a time, for all who asked before it began.

    Who asks while a run is under way waits for the next one: what the run found may be older
    than the question. A run goes on when those who wait for it are cancelled. Use it on one
    event loop.
    """

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._task: asyncio.Task[None] | None = None
        self._next: asyncio.Future[None] | None = None

    @property
    def under_way(self) -> bool:
        """Whether a run has begun and not ended."""
        return self._task is not None

    async def __call__(self) -> None:
        """Return after a run that began after this call; raise what it raised."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            # Everyone who waits may be gone by the time it fails.
            self._next.add_done_callback(lambda done: done.cancelled() or done.exception())
        waiting = self._next
        if self._task is None:
            self._begin(waiting)
        await asyncio.shield(waiting)

    async def close(self) -> None:
        """Cancel the run under way; those who wait are cancelled."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        await self._work()

    def _begin(self, waiting: asyncio.Future[None]) -> None:
        self._next = None
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(partial(self._end, waiting))

    def _end(self, waiting: asyncio.Future[None], task: asyncio.Task[None]) -> None:
        self._task = None
        if not waiting.done():
            if task.cancelled():
                waiting.cancel()
            elif (error := task.exception()) is not None:
                waiting.set_exception(error)
            else:
                waiting.set_result(None)
        if self._next is not None:
            self._begin(self._next)

"""Single flight, as Go calls it: the reads of many callers share a query."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class SharedReads(Generic[K, V]):
    """Gathers the keys that callers ask for while a query runs into the next query.

    What a caller gets was read after it asked: a query that is under way already is never
    joined. Belongs to one event loop.
    """

    def __init__(self, read: Callable[[Sequence[K]], Awaitable[dict[K, V]]]) -> None:
        """Take what reads many keys; a key without a value is left out of its answer."""
        self._read = read
        self._waiting: dict[K, asyncio.Future[V | None]] = {}
        self._running: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V | None:
        """Return the key's value, None if it has none. Raises what the read raised."""
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        # Callers share the future: one that is cancelled must not cancel the others'.
        return await asyncio.shield(future)

    async def _run(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, {}
            try:
                values = await self._read(list(waiting))
            except Exception as error:
                for future in waiting.values():
                    future.set_exception(error)
                    # Its caller may be gone; an error that nobody fetches is no defect.
                    future.exception()
            else:
                for key, future in waiting.items():
                    future.set_result(values.get(key))
        self._running = None

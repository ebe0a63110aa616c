"""Which study or storage to look at, and when: wake-ups merge, failures are tried later."""

import asyncio
import contextlib
import heapq
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from trialfleet.controller.store import Key
from trialfleet.kube.cluster import ClusterError
from trialfleet.model.errors import TrialfleetError

_log = logging.getLogger(__name__)

GAP_S: Final = 0.1
"""Between two looks at the same object: what happens in between is seen at once."""

_AT_ONCE: Final = 16
"""Objects that are looked at at the same time."""

_EXPECTED: Final = (ConnectionError, TrialfleetError)
"""What a look may end with, beside requests that are refused for a while: one line says it, where
of anything else it has to be known whence."""

_FIRST_RETRY_S: Final = 1.0
_LAST_RETRY_S: Final = 60.0


class Wakeups:
    """Calls a function for each object that was woken, never twice at once for the same one."""

    def __init__(self, look: Callable[[Key], Awaitable[float | None]]) -> None:
        """``look`` returns after how many seconds to look again, or None."""
        self._look = look
        self._due: dict[Key, float] = {}
        self._order: list[tuple[float, Key]] = []
        self._busy: set[Key] = set()
        self._last: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def wake(self, key: Key, after_s: float = 0.0) -> None:
        """Look at an object then, or sooner if that was asked for."""
        now = asyncio.get_running_loop().time()
        due = max(now + after_s, self._last.get(key, 0.0) + GAP_S)
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._order, (due, key))
        self._changed.set()

    def forget(self, key: Key) -> None:
        """Take note that an object is gone."""
        for known in (self._due, self._last, self._failures):
            known.pop(key, None)

    async def run(self) -> None:
        """Call until cancelled; calls under way are then cancelled too."""
        try:
            while True:
                wait_s = self._start_due()
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start_due(self) -> float | None:
        """Start what is due; return for how long nothing more will be, None without an end."""
        loop = asyncio.get_running_loop()
        put_off = []
        wait_s = None
        while self._order and len(self._tasks) < _AT_ONCE:
            due, key = self._order[0]
            if self._due.get(key) == due and due > loop.time():
                wait_s = due - loop.time()
                break
            heapq.heappop(self._order)
            if self._due.get(key) != due:
                continue
            if key in self._busy:
                put_off.append((due, key))
                continue
            del self._due[key]
            if loop.time() < self._last.get(key, 0.0) + GAP_S:
                # Woken while it was looked at.
                self.wake(key)
                continue
            self._busy.add(key)
            task = loop.create_task(self._run_one(key), name=f"look at {key.kind} {key.name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        for entry in put_off:
            heapq.heappush(self._order, entry)
        return wait_s

    async def _run_one(self, key: Key) -> None:
        loop = asyncio.get_running_loop()
        again_s: float | None = None
        try:
            again_s = await self._look(key)
            self._failures.pop(key, None)
        except Exception as error:
            failures = self._failures.get(key, 0)
            self._failures[key] = failures + 1
            again_s = min(_FIRST_RETRY_S * 2**failures, _LAST_RETRY_S)
            _log.warning(
                "%s %s/%s: %s; again in %.0f s",
                *(key.kind, key.namespace, key.name, error, again_s),
                exc_info=not _is_expected(error) and failures == 0,
            )
        finally:
            self._busy.discard(key)
            self._last[key] = loop.time()
            if again_s is not None:
                self.wake(key, again_s)
            self._changed.set()


def _is_expected(error: Exception) -> bool:
    if isinstance(error, ClusterError):
        return error.passing
    return isinstance(error, _EXPECTED)

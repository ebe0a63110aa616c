"""The event loop, in a thread of its own, on which this process makes its calls to proxies.

One for all storage objects of the process. gRPC's threads do not live on in a forked child, and
what it had begun there can't be ended: a child of a process that has used this may do anything
but call a proxy.
"""

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from trialfleet.model.errors import ForkedProcess

T = TypeVar("T")

FORKED: Final = (
    "a process that was forked from one that uses a storage can't call a proxy (gRPC's threads are "
    "not in it); accepted: processes that are started by spawn or forkserver"
)

_LAST_S: Final = 5.0
"""For the loop to end when the process does."""


class _Background:
    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="trialfleet-calls", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._finish(), self.loop)
        self._thread.join(_LAST_S)

    async def _finish(self) -> None:
        """Let what was cancelled end: asyncio and gRPC complain of tasks that did not."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_S / 2)
        self.loop.stop()

    def _run(self) -> None:
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()


_lock: Final = threading.Lock()
_current: _Background | None = None


def start(coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
    """Run a coroutine on the loop; return at once.

    Raises :class:`~trialfleet.model.errors.ForkedProcess` in a child of a process that used it.
    """
    try:
        loop = _loop()
    except ForkedProcess:
        coroutine.close()
        raise
    return asyncio.run_coroutine_threadsafe(coroutine, loop)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop and return its result. Raises as it does, and :func:`start`.

    An exception that interrupts the waiting, such as ``KeyboardInterrupt``, cancels it.
    """
    future = start(coroutine)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def is_running() -> bool:
    """Whether this process has used it."""
    return _current is not None and _current.pid == os.getpid()


def _loop() -> asyncio.AbstractEventLoop:
    global _current
    background = _current
    if background is None:
        with _lock:
            background = _current
            if background is None:
                background = _current = _Background()
    if background.pid != os.getpid():
        raise ForkedProcess(FORKED)
    return background.loop


def _stop() -> None:
    if _current is not None and is_running():
        _current.stop()


atexit.register(_stop)

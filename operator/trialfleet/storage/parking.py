"""Callers that wait until a study has a trial for them."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from trialfleet.errors import TrialfleetError
from trialfleet.storage.reading import Standing

_POLL_S: Final = 0.5
"""How often to look for what another proxy or a stock client did."""

_MIN_INTERVAL_S: Final = 0.05
"""Between two looks, however often somebody commits."""


class Parking:
    """Wakes as many of the parked callers as there are trials to open.

    One query looks for all studies, however many callers are parked. Belongs to one event loop.
    """

    def __init__(self, read: Callable[[Sequence[int]], Awaitable[dict[int, Standing]]]) -> None:
        """Take what reads where studies stand."""
        self._read = read
        self._parked: dict[int, dict[asyncio.Future[bool], None]] = {}
        self._poked = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._closed = False

    def poke(self) -> None:
        """Say that something was committed here: look soon."""
        if self._watch is not None:
            self._poked.set()

    def close(self) -> None:
        """Send all parked callers home, and whoever still comes."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
        for callers in self._parked.values():
            _wake(list(callers), False)

    async def wait(self, study_id: int, deadline: float) -> bool:
        """Wait until a trial may be opened or the study is over; False at the deadline.

        The deadline is in the event loop's time, in seconds.
        """
        loop = asyncio.get_running_loop()
        if self._closed or deadline <= loop.time():
            return False
        future: asyncio.Future[bool] = loop.create_future()
        callers = self._parked.setdefault(study_id, {})
        callers[future] = None
        timer = loop.call_at(deadline, _wake, [future], False)
        if self._watch is None:
            self._watch = asyncio.create_task(self._look())
        try:
            return await future
        finally:
            timer.cancel()
            callers.pop(future, None)
            if not callers and self._parked.get(study_id) is callers:
                del self._parked[study_id]

    async def _look(self) -> None:
        while self._parked:
            await asyncio.sleep(_MIN_INTERVAL_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poked.wait(), _POLL_S - _MIN_INTERVAL_S)
            self._poked.clear()
            try:
                standings = await self._read(list(self._parked))
            except TrialfleetError:
                continue
            for study_id, callers in list(self._parked.items()):
                standing = standings.get(study_id)
                if standing is None or standing.over or standing.free is None:
                    _wake(list(callers), True)
                else:
                    _wake(list(callers)[: standing.free], True)
        self._watch = None


def _wake(callers: Sequence[asyncio.Future[bool]], value: bool) -> None:
    for future in callers:
        if not future.done():
            future.set_result(value)

"""Callers that wait until a study has a trial for them."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from trialfleet.model.errors import TrialfleetError
from trialfleet.storage.commands import Ended, Wait
from trialfleet.storage.standing import Standing

_MIN_INTERVAL_S: Final = 0.05
"""Between two looks, however often somebody commits."""

_MAX_INTERVAL_S: Final = 0.5
"""Between two looks for what another proxy or a stock client did, when little happens."""

_Answer = asyncio.Future[Ended | Wait | None]


class LongPoll:
    """Wakes as many of the waiting callers as there are trials to open.

    One query looks for all studies, however many callers wait. Belongs to one event loop.
    """

    def __init__(self, read: Callable[[Sequence[int]], Awaitable[dict[int, Standing]]]) -> None:
        """Take what reads where studies stand."""
        self._read = read
        self._callers: dict[int, dict[_Answer, None]] = {}
        self._notified = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._closed = False

    def notify(self) -> None:
        """Say that something was committed here: look soon."""
        if self._watch is not None:
            self._notified.set()

    def close(self) -> None:
        """Answer all callers, and whoever still comes: there is no trial now."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
        for callers in self._callers.values():
            _wake(list(callers), Wait.WAIT)

    async def wait(self, study_id: int, deadline: float) -> Ended | Wait | None:
        """Wait until the study is over, or the deadline, in the event loop's time, in seconds.

        Returns None where a trial may be opened, or the study is gone: try again.
        """
        loop = asyncio.get_running_loop()
        if self._closed or deadline <= loop.time():
            return Wait.WAIT
        future: _Answer = loop.create_future()
        callers = self._callers.setdefault(study_id, {})
        callers[future] = None
        timer = loop.call_at(deadline, _wake, [future], Wait.WAIT)
        if self._watch is None:
            self._watch = asyncio.create_task(self._look())
        try:
            return await future
        finally:
            timer.cancel()
            callers.pop(future, None)
            if not callers and self._callers.get(study_id) is callers:
                del self._callers[study_id]

    async def _look(self) -> None:
        interval_s = _MIN_INTERVAL_S
        while self._callers:
            await asyncio.sleep(_MIN_INTERVAL_S)
            interval_s = min(2 * interval_s, _MAX_INTERVAL_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._notified.wait(), interval_s - _MIN_INTERVAL_S)
                interval_s = _MIN_INTERVAL_S
            self._notified.clear()
            try:
                standings = await self._read(list(self._callers))
            except TrialfleetError:
                continue
            for study_id, callers in list(self._callers.items()):
                standing = standings.get(study_id)
                if standing is not None and standing.over:
                    _wake(list(callers), Ended(standing.ended))
                elif standing is None or standing.free is None:
                    _wake(list(callers), None)
                else:
                    _wake(list(callers)[: standing.free], None)
        self._watch = None


def _wake(callers: Sequence[_Answer], answer: Ended | Wait | None) -> None:
    for future in callers:
        if not future.done():
            future.set_result(answer)

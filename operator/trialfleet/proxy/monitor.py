"""Whether the database is there, and what depends on it."""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Final

from trialfleet import names
from trialfleet.model.errors import DataLost, StorageUnavailable, TrialfleetError
from trialfleet.model.session import GivenUp
from trialfleet.proxy.health import Health
from trialfleet.proxy.history import Histories
from trialfleet.proxy.log_events import event
from trialfleet.proxy.silence import Silence
from trialfleet.storage import Storage
from trialfleet.storage.commands import GiveUp

_log = logging.getLogger(__name__)

_ANSWER_S: Final = 5.0
"""A database that takes longer to answer the simplest query counts as away."""

_IDENTIFY_EVERY_S: Final = 5.0
"""Between two looks which database it is, while it commits."""

_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 0.5
"""A study's first trial waits for it, and a connection that is refused costs nothing."""


_PURGE_EVERY_S: Final = 600.0
"""Between two looks for sessions that ended long ago."""


class Monitor:
    """Connects the storage, then watches it: health, expired sessions, unused logs."""

    def __init__(
        self,
        storage: Storage,
        health: Health,
        histories: Histories,
        silence: Silence,
        interval_s: float,
    ) -> None:
        self._storage = storage
        self._health = health
        self._histories = histories
        self._silence = silence
        self._interval_s = interval_s
        self._identified_at = float("-inf")
        self._purge_at = float("-inf")
        self.trouble = "the proxy has not reached its database yet"
        """Why no call is let through; empty while calls are."""

    async def run(self, connected: Callable[[], None]) -> None:
        """Run until cancelled; call ``connected`` when the proxy begins to serve.

        Raises :class:`~trialfleet.model.errors.SchemaMismatch`.
        """
        await self._connect()
        self.trouble = ""
        await self._tell(True)
        connected()
        while True:
            await asyncio.sleep(self._interval_s)
            reachable = await self._reachable()
            await self._tell(reachable)
            self._histories.drop_idle()
            if self._silence.due(reachable=reachable, now_s=monotonic()):
                await self._sweep()
            if reachable and monotonic() >= self._purge_at:
                await self._purge()

    async def _connect(self) -> None:
        pause_s, last = _FIRST_RETRY_S, ""
        while True:
            try:
                await self._storage.__aenter__()
                return
            except StorageUnavailable as error:
                if str(error) != last:
                    event(_log, logging.WARNING, "database away", error=error)
                last = self.trouble = str(error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_RETRY_S)

    async def _reachable(self) -> bool:
        now_s = monotonic()
        committed = self._storage.committed_at > now_s - self._interval_s
        if committed and self._identified_at > now_s - _IDENTIFY_EVERY_S:
            return True  # it has answered something else since the last look
        try:
            async with asyncio.timeout(_ANSWER_S):
                ready = await self._storage.ready()
        except DataLost as error:
            if not self.trouble:
                event(_log, logging.ERROR, "data lost", error=error)
            self.trouble = str(error)
            return False
        except TimeoutError:
            return False
        if ready:
            self._identified_at, self.trouble = now_s, ""
        return ready

    async def _tell(self, serving: bool) -> None:
        if serving != self._health.serving:
            name = "serving" if serving else "database away"
            event(_log, logging.INFO if serving else logging.WARNING, name)
        await self._health.tell(serving)

    async def _purge(self) -> None:
        removed = 0
        try:
            async with asyncio.timeout(_ANSWER_S):
                removed = await self._storage.purge()
        except (TrialfleetError, TimeoutError) as error:
            event(_log, logging.WARNING, "purge of sessions failed", error=repr(error))
        # While there is more, a little with every look at the database.
        self._purge_at = monotonic() + (0.0 if removed else _PURGE_EVERY_S)

    async def _sweep(self) -> None:
        try:
            # What takes longer is applied all the same; the watch has to go on. While it waited
            # nobody may have been able to say that he is alive: it is about what was seen before.
            async with asyncio.timeout(_ANSWER_S):
                dead = self._silence.look(await self._storage.silent_sessions(), monotonic())
                if not dead:
                    return
                sweep = GiveUp(reason=names.REASON_KEEP_ALIVE, silent=dead)
                given_up = await self._storage.apply(sweep)
        except (TrialfleetError, TimeoutError) as error:
            event(_log, logging.WARNING, "sweep of sessions failed", error=repr(error))
            return
        assert isinstance(given_up, GivenUp)
        if given_up.sessions:
            event(
                _log,
                logging.INFO,
                "sessions expired",
                sessions=given_up.sessions,
                lost=len(given_up.lost),
                requeued=len(given_up.requeued),
            )

"""How long sessions are silent, by the clock of this process."""

from collections.abc import Iterable
from typing import Final

from trialfleet.model.session import SILENT, SilentSession

_LONGEST_LOOK_S: Final = 15.0
"""A proxy that stood still for longer heard nobody meanwhile: no more of that time counts."""


class Silence:
    """Decides when to look for silent sessions, and which have been silent for their whole life.

    A decision from what it is told. The database's clock may be set an hour forward or back, and
    still no session that lives may end, and each that is dead has to. So the time in which a
    session's stamp stays the same is counted here, in seconds of a monotonic clock.

    While no proxy reached the database no session could be kept alive: after a restart or an
    outage every session looks silent. So none is given up before the database was there for
    ``grace_s`` seconds without a break, enough for the living to say so.
    """

    def __init__(self, *, grace_s: float, interval_s: float) -> None:
        self._grace_s = grace_s
        self._interval_s = interval_s
        self._next_s: float | None = None
        self._grace_ends_s = 0.0
        self._seen: dict[bytes, tuple[SilentSession, float]] = {}
        self._looked_at_s = 0.0
        self._counted_s = 0.0

    def due(self, *, reachable: bool, now_s: float) -> bool:
        """Take whether the database was there at a time; return whether to look now."""
        if not reachable:
            self._next_s = None
            return False
        if self._next_s is None:
            self._seen.clear()
            self._looked_at_s = self._next_s = now_s
            self._grace_ends_s = now_s + self._grace_s
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._interval_s
        return True

    def look(self, silent: Iterable[SilentSession], now_s: float) -> tuple[SilentSession, ...]:
        """Take the sessions that are silent at a time; return those to give up."""
        self._counted_s += min(now_s - self._looked_at_s, _LONGEST_LOOK_S)
        self._looked_at_s = now_s
        seen = {}
        for session in silent:
            before = self._seen.get(session.session)
            same = before is not None and before[0].stamp == session.stamp
            seen[session.session] = before if before and same else (session, self._counted_s)
        self._seen = seen
        if now_s < self._grace_ends_s:
            return ()
        return tuple(
            session
            for session, since_s in seen.values()
            if self._counted_s - since_s >= session.time_to_live_s * (1 - SILENT)
        )

"""One worker's life as the storage sees it: the identity of its writes, and its end."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

SILENT: Final = 0.25
"""Part of a session's life after which it counts as silent: clients say as often that they live."""


class WriteId(NamedTuple):
    """Identity of a write: sent again with the same identity, it is applied once."""

    session: bytes
    """16 bytes."""
    sequence: int
    """Grows with every write of the session, from 1.

    Writes that open a trial or write to a trial of the session's own may overtake each other;
    an older one of the same trial is then dropped. All others must be sent one after the other:
    one that arrives after a later one is refused.
    """


class SilentSession(NamedTuple):
    """A session that was not heard for a part of its life, if the database's clock is right."""

    session: bytes
    stamp: datetime.datetime
    """Changes whenever the session is heard. By the database's clock, which may jump."""
    time_to_live_s: float


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Answer of :class:`GiveUp`: how many sessions were fenced, and the numbers of trials."""

    sessions: int = 0
    opened: int = 0
    """Sessions that the worker ever had, those that ended before too; of a named one only."""
    lost: Sequence[int] = ()
    requeued: Sequence[int] = ()
    failed: Sequence[int] = ()

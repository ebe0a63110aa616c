"""How much of its callers' messages a proxy holds at once."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from trialfleet import names
from trialfleet.model.errors import Overloaded

SMALL: Final = 64 * 1024
"""Messages up to this many bytes are not counted: there are as many as calls at most."""

PATIENCE_S: Final = 20.0
"""How long a caller may keep the proxy waiting: for a message, for a reply to be read."""


class Room:
    """Bytes that large messages may take, of which one caller has half at most.

    What is larger than that is let in while there is nothing else. Belongs to one event loop.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: Counter[str] = Counter()
        self._freed = asyncio.Event()

    @contextmanager
    def hold(self, caller: str, size: int) -> Iterator[None]:
        """Hold a message. Raises ``Overloaded`` if it does not fit beside the others."""
        if size <= SMALL:
            yield
            return
        if not self._fits(caller, size):
            raise Overloaded(
                f"found a message of {size} bytes beside others, accepted: {self._size} bytes at "
                f"once, {self._size // 2} of them of one caller"
            )
        self._held[caller] += size
        try:
            yield
        finally:
            self._held[caller] -= size
            if not self._held[caller]:
                del self._held[caller]
            self._freed.set()

    async def wait(self, caller: str, size: int) -> None:
        """Return when a message fits. Raises ``Overloaded`` if none does for long."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while size > SMALL and not self._fits(caller, size):
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            raise Overloaded(f"found no room for {size} bytes within {PATIENCE_S:g} s") from None

    def _fits(self, caller: str, size: int) -> bool:
        own, all_held = self._held[caller], self._held.total()
        return not (
            (own and own + size > self._size // 2) or (all_held and all_held + size > self._size)
        )


class Rooms:
    """What all ports of a proxy share."""

    def __init__(self) -> None:
        self.arriving = Room(8 * names.MAX_MESSAGE_BYTES)
        """Calls whose message is on its way, each of which may be as large as one may be."""
        self.handled = Room(2 * names.MAX_MESSAGE_BYTES)
        """Until it is committed a message takes ten times its size: as text, as a statement."""
        self.replies = Room(16 * 1024 * 1024)
        """Until their callers have read them."""

"""A stream of requests, each made when it comes, and answered in its turn."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from trialfleet.proxy.rpc import Call

_MOST_AT_ONCE: Final = 32
"""Of a stream's requests so many are made at the same time at most."""


class Conversation:
    """One caller's stream. The first request that fails ends it.

    ``following`` waits for the next request, None if there are no more; ``make`` turns a request
    into its answer.
    """

    def __init__(
        self,
        call: Call,
        following: Callable[[Call], Awaitable[bytes | None]],
        make: Callable[[bytes, Call], Awaitable[bytes]],
    ) -> None:
        self._call = call
        self._following = following
        self._make = make
        # In the order of their requests.
        self._begun: deque[asyncio.Task[bytes]] = deque()

    async def run(self) -> None:
        """Answer all requests. Raises what the first that fails does."""
        # What a caller sent before it died is made, although nobody takes the answers.
        self._call.on_more = self._begin
        try:
            while (first := await self._first()) is not None:
                self._begin()
                await self._answer(first)
        finally:
            self._call.on_more = None
            for task in self._begun:
                task.add_done_callback(_drop)
                task.cancel()

    async def _first(self) -> Awaitable[bytes] | None:
        """Return the answer that is to be sent next."""
        if self._begun:
            return self._begun.popleft()
        message = await self._following(self._call)
        return None if message is None else self._make(message, self._call)  # a task less

    def _begin(self) -> None:
        for message in self._call.read_more(_MOST_AT_ONCE - len(self._begun)):
            self._begun.append(asyncio.ensure_future(self._make(message, self._call)))

    async def _answer(self, first: Awaitable[bytes]) -> None:
        """Send an answer, and those behind it that are there by then."""
        answers: list[bytes] = []
        try:
            answers.append(await first)
            while self._begun and self._begun[0].done():
                answers.append(self._begun.popleft().result())
        finally:
            if answers:
                await self._call.write(*answers)


def _drop(task: asyncio.Task[bytes]) -> None:
    """Take no notice of how a call ended whose answer nobody gets."""
    if not task.cancelled():
        task.exception()

"""Calls that outlive a proxy: deadlines, retries, and failover over several endpoints."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import grpc
from google.protobuf.message import Message

from trialfleet import names
from trialfleet.model import errors
from trialfleet.wire.credentials import Credentials
from trialfleet.wire.endpoint import CallFailed, Endpoint
from trialfleet.wire.methods import Method, Reply

CALL_S: Final = 10.0
"""Deadline of one attempt of a call, in seconds."""

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0
_PAUSE_GROWTH: Final = 1.15
"""A worker that waits for a database which starts is there soon after it: within a tenth of the
time that it has waited."""
_RETURN_S: Final = 10.0
"""How long after it failed the nearest endpoint is tried again."""
_UNKNOWN_S: Final = 5.0
"""How long a token that no proxy knows is shown: a new one may be on its way to either side."""

_RETRIED: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        # For a shorter time than the others.
        grpc.StatusCode.UNAUTHENTICATED,
        # The proxy did, because it ends; or the channel was closed.
        grpc.StatusCode.CANCELLED,
    }
)

# Of several errors with one code the last is the most general.
_ERRORS: Final = {code: kind for kind, code in errors.GRPC_CODES}

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class Connection:
    """The way to a storage over any of its proxies, the nearest first.

    Belongs to one event loop. A call is sent again, the same bytes, until a proxy answers it;
    every write of the protocol is applied once however often it is sent.
    """

    def __init__(
        self, addresses: Sequence[str], patience_s: float, credentials: Credentials
    ) -> None:
        """Take ``host:port`` of each proxy, and how many seconds a call is tried for.

        Raises :class:`~trialfleet.model.errors.InvalidInput` for an address that is none.
        """
        self.max_message_bytes = names.MAX_MESSAGE_BYTES
        self.credentials = credentials
        self._endpoints = [Endpoint(address, credentials) for address in addresses]
        self._patience_s = patience_s
        self._current = 0
        self._return_at = 0.0
        self._out_of_reach = False
        self._closed = asyncio.Event()
        # Not the module's generator: an objective may have seeded that one.
        self._random = random.Random()

    async def use(self, addresses: Sequence[str]) -> None:
        """Name the proxies that serve now. Connections to those that do still are kept."""
        known = {endpoint.address: endpoint for endpoint in self._endpoints}
        if list(known) == list(addresses):
            return
        self._endpoints = [
            known.pop(address) if address in known else Endpoint(address, self.credentials)
            for address in addresses
        ]
        self._current = 0
        for endpoint in known.values():
            await endpoint.disconnect()

    async def call(
        self,
        method: Method[Reply],
        request: Message | bytes,
        *,
        deadline_s: float = CALL_S,
        patience_s: float | None = None,
    ) -> Reply:
        """Return the answer to a request, whichever proxy gives it.

        ``deadline_s`` is for one attempt, ``patience_s`` for all of them; with a patience of 0
        each endpoint is tried once. Raises the error of :mod:`trialfleet.model.errors` that the
        answer's status stands for, :class:`~trialfleet.model.errors.StorageUnavailable` when the
        patience is over or the connection was closed, and
        :class:`~trialfleet.model.errors.MessageTooLarge`.
        """
        encoded = request if isinstance(request, bytes) else request.SerializeToString()
        if len(encoded) > self.max_message_bytes:
            raise errors.MessageTooLarge(
                f"found a message of {len(encoded)} bytes, accepted: up to "
                f"{self.max_message_bytes} bytes"
            )
        return await self.attempt(
            lambda endpoint: endpoint.call(method, encoded, deadline_s), patience_s
        )

    async def attempt(
        self, attempt: Callable[[Endpoint], Awaitable[_T]], patience_s: float | None = None
    ) -> _T:
        """Return what ``attempt`` returns for the first endpoint with which it succeeds.

        It may be called any number of times. Raises as :meth:`call`.
        """
        if self._closed.is_set():
            raise errors.StorageUnavailable("the storage was closed")
        if not self._endpoints:
            raise errors.StorageUnavailable("no proxy is ready")
        endpoint = self._choose()
        began = time.monotonic()
        try:
            result = await attempt(endpoint)
        except CallFailed as error:
            patience = self._patience_s if patience_s is None else patience_s
            return await self._persist(attempt, endpoint, error, began, patience)
        self._settle(endpoint)
        return result

    async def close(self) -> None:
        """End all calls under way and close the channels. Idempotent."""
        self.interrupt()
        for endpoint in self._endpoints:
            await endpoint.disconnect()

    def interrupt(self) -> None:
        """Let no call be sent again from now on: a call that waits to be sent again raises."""
        self._closed.set()

    async def last_call(self, method: Method[Reply], request: Message, deadline_s: float) -> Reply:
        """Try each endpoint once, the current one first, also after :meth:`interrupt`.

        All attempts share ``deadline_s``. Raises :class:`CallFailed` as the last one does.
        """
        encoded, ends_at = request.SerializeToString(), time.monotonic() + deadline_s
        endpoint = self._endpoints[self._current]
        for others in range(len(self._endpoints) - 1, -1, -1):
            share_s = max(0.0, ends_at - time.monotonic()) / (1 + others)
            try:
                return await endpoint.call(method, encoded, share_s)
            except CallFailed as error:
                if not others or error.code not in _RETRIED:
                    raise
            endpoint = self._leave(endpoint)
        raise errors.StorageUnavailable("no proxy is ready")

    def _choose(self) -> Endpoint:
        if self._current and time.monotonic() >= self._return_at:
            # One caller tries the nearest endpoint, all others stay where they are.
            self._return_at = time.monotonic() + _RETURN_S
            return self._endpoints[0]
        return self._endpoints[self._current]

    def _settle(self, endpoint: Endpoint) -> None:
        if endpoint is self._endpoints[self._current]:
            return
        # Another one if the proxies have changed meanwhile.
        with contextlib.suppress(ValueError):
            self._current = self._endpoints.index(endpoint)
            logger.info("using the proxy at %s", endpoint.address)

    def _leave(self, endpoint: Endpoint) -> Endpoint:
        try:
            index = self._endpoints.index(endpoint)
        except ValueError:
            return self._endpoints[self._current]
        following = (index + 1) % len(self._endpoints)
        if index == 0:
            self._return_at = time.monotonic() + _RETURN_S
        if index == self._current:
            self._current = following
        return self._endpoints[following]

    async def _persist(
        self,
        attempt: Callable[[Endpoint], Awaitable[_T]],
        endpoint: Endpoint,
        failure: CallFailed,
        began: float,
        patience_s: float,
    ) -> _T:
        give_up_at = time.monotonic() + patience_s
        unknown_until: float | None = None
        pause_s = _FIRST_PAUSE_S
        tries = 1
        while True:
            reason = await self._judge(failure, endpoint, began)
            unknown = failure.code == grpc.StatusCode.UNAUTHENTICATED
            if unknown and (self.credentials.read_again() or unknown_until is None):
                # Who has no token waits for none.
                lasting_s = 0.0 if self.credentials.metadata is None else _UNKNOWN_S
                unknown_until = time.monotonic() + lasting_s
            if not self._endpoints:
                raise errors.StorageUnavailable(reason) from failure
            endpoint = self._leave(endpoint)
            if tries % len(self._endpoints) == 0:
                left_s = give_up_at - time.monotonic()
                if unknown and unknown_until is not None:
                    left_s = min(left_s, unknown_until - time.monotonic())
                if left_s <= 0 and unknown:
                    raise errors.Unauthenticated(f"{self._addresses()}: {reason}") from failure
                if left_s <= 0:
                    raise errors.StorageUnavailable(
                        f"no proxy answered within {patience_s:g} s at {self._addresses()}: "
                        f"{reason}"
                    ) from failure
                self._announce(reason, left_s)
                with contextlib.suppress(TimeoutError):
                    pause = min(left_s, pause_s * self._random.uniform(0.5, 1.0))
                    await asyncio.wait_for(self._closed.wait(), pause)
                pause_s = min(pause_s * _PAUSE_GROWTH, _LONGEST_PAUSE_S)
            if self._closed.is_set():
                raise errors.StorageUnavailable("the storage was closed") from failure
            tries += 1
            began = time.monotonic()
            try:
                result = await attempt(endpoint)
            except CallFailed as error:
                failure = error
                continue
            self._settle(endpoint)
            if self._out_of_reach:
                self._out_of_reach = False
                logger.info("the proxy at %s answers", endpoint.address)
            return result

    async def _judge(self, failure: CallFailed, endpoint: Endpoint, began: float) -> str:
        """Return why an attempt failed if another may succeed, else raise."""
        code, details = failure.code, failure.details
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
            # gRPC's own refusal, by either end: it would be the same for ever.
            raise errors.MessageTooLarge(details) from failure
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            # A connection whose other end vanished without a word stays open for minutes.
            await endpoint.disconnect(silent_since=began)
        if code == grpc.StatusCode.UNAVAILABLE and self.credentials.authorities is not None:
            # A certificate of an authority that our file names by now is no longer refused.
            self.credentials.read_again()
            await endpoint.renew()
        if code in _RETRIED:
            return f"{code.name}: {details}"
        kind = _ERRORS.get(code, errors.TrialfleetError)
        if kind is errors.StudyEnded:
            # The reason is the last word of the message: see errors.StudyEnded.
            raise errors.StudyEnded(details.rpartition(" ")[2]) from failure
        if code == grpc.StatusCode.UNIMPLEMENTED:
            raise errors.TrialfleetError(
                f"{endpoint.address} is not a Trialfleet proxy of this version: {details}"
            ) from failure
        if kind is errors.TrialfleetError:
            raise kind(f"{endpoint.address}: {code.name}: {details}") from failure
        raise kind(details) from failure

    def _announce(self, reason: str, left_s: float) -> None:
        if not self._out_of_reach:
            self._out_of_reach = True
            logger.warning(
                "no proxy answers at %s; trying for another %.0f s (%s)",
                self._addresses(),
                left_s,
                reason,
            )

    def _addresses(self) -> str:
        return ", ".join(endpoint.address for endpoint in self._endpoints)

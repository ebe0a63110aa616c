"""Calls that outlive a proxy: deadlines, retries, and failover over several endpoints."""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar, cast

import grpc

from trialfleet import names
from trialfleet.client.calls import Call, Reply
from trialfleet.client.credentials import Credentials
from trialfleet.client.endpoint import ChannelClosed, Endpoint
from trialfleet.model import errors

CALL_S: Final = 10.0
"""Deadline of one attempt of a call, in seconds."""

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0
_PAUSE_GROWTH: Final = 1.6
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
        # Nobody here cancels a call: the proxy did, because it ends.
        grpc.StatusCode.CANCELLED,
    }
)

# Of several errors with one code the last is the most general.
_ERRORS: Final = {code: kind for kind, code in errors.GRPC_CODES}

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class Connection:
    """The way to a storage over any of its proxies, the nearest first.

    Thread-safe. A call is sent again, the same bytes, until a proxy answers it; every write of
    the protocol is applied once however often it is sent.
    """

    def __init__(
        self, addresses: Sequence[str], patience_s: float, credentials: Credentials
    ) -> None:
        """Take ``host:port`` of each proxy, and how many seconds a call is tried for."""
        if not addresses:
            raise errors.InvalidInput("endpoints: found none, accepted: HOST:PORT[,HOST:PORT...]")
        self.max_message_bytes = names.MAX_MESSAGE_BYTES
        self._endpoints = [Endpoint(address, credentials) for address in addresses]
        self._credentials = credentials
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._current = 0
        self._return_at = 0.0
        self._out_of_reach = False
        self._closed = threading.Event()
        # Not the module's generator: an objective may have seeded that one.
        self._random = random.Random()

    def call(
        self,
        call: Call[Reply],
        request: bytes,
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
        self._check_size(request)
        return self.attempt(lambda endpoint: endpoint.call(call, request, deadline_s), patience_s)

    def begin(self, call: Call[Reply], request: bytes) -> "Begun[Reply]":
        """Send a request, a call of a worker's stream, and don't wait for its answer.

        Raises ``StorageUnavailable`` when the connection was closed, and
        :class:`~trialfleet.model.errors.MessageTooLarge`.
        """
        self._check_size(request)
        if self._closed.is_set():
            raise errors.StorageUnavailable("the storage was closed")
        finish = None
        index = self._choose()
        # Who wants the answer makes the call once more, and hears why it failed.
        with contextlib.suppress(grpc.RpcError, ChannelClosed):
            finish = self._endpoints[index].begin(call, request, CALL_S)
            if index < self._current:
                self._settle(index)
        return Begun(self, call, request, finish)

    def attempt(self, attempt: Callable[[Endpoint], _T], patience_s: float | None = None) -> _T:
        """Return what ``attempt`` returns for the first endpoint with which it succeeds.

        It may be called any number of times. Raises as :meth:`call`.
        """
        if self._closed.is_set():
            raise errors.StorageUnavailable("the storage was closed")
        index = self._choose()
        began = time.monotonic()
        try:
            result = attempt(self._endpoints[index])
        except (grpc.RpcError, ChannelClosed) as error:
            failure = error
        else:
            if index < self._current:
                self._settle(index)
            return result
        patience = self._patience_s if patience_s is None else patience_s
        return self._persist(attempt, index, failure, began, patience)

    def close(self) -> None:
        """End all calls under way and close the channels. Idempotent."""
        self.interrupt()
        for endpoint in self._endpoints:
            endpoint.disconnect()

    def interrupt(self) -> None:
        """Let no call be sent again from now on: a call that waits to be sent again raises."""
        self._closed.set()

    def last_call(self, call: Call[Reply], request: bytes, deadline_s: float) -> Reply:
        """Try each endpoint once, the current one first, also after :meth:`interrupt`.

        All attempts share ``deadline_s``. Raises what the last one does: ``grpc.RpcError`` and
        :class:`~trialfleet.client.endpoint.ChannelClosed`.
        """
        index, ends_at = self._current, time.monotonic() + deadline_s
        for others in range(len(self._endpoints) - 1, 0, -1):
            share_s = max(0.0, ends_at - time.monotonic()) / (1 + others)
            try:
                return self._endpoints[index].call(call, request, share_s)
            except (grpc.RpcError, ChannelClosed) as error:
                if not _is_passing(error):
                    raise
            index = self._leave(index)
        left_s = max(0.0, ends_at - time.monotonic())
        return self._endpoints[index].call(call, request, left_s)

    def _check_size(self, request: bytes) -> None:
        if len(request) > self.max_message_bytes:
            raise errors.MessageTooLarge(
                f"found a message of {len(request)} bytes, accepted: up to "
                f"{self.max_message_bytes} bytes"
            )

    def _choose(self) -> int:
        index = self._current
        if index and time.monotonic() >= self._return_at:
            # One caller tries the nearest endpoint, all others stay where they are.
            with self._lock:
                self._return_at = time.monotonic() + _RETURN_S
            return 0
        return index

    def _settle(self, index: int) -> None:
        with self._lock:
            if self._current != index:
                logger.info("using the proxy at %s", self._endpoints[index].address)
                self._current = index

    def _leave(self, index: int) -> int:
        following = (index + 1) % len(self._endpoints)
        with self._lock:
            if index == 0:
                self._return_at = time.monotonic() + _RETURN_S
            if index == self._current:
                self._current = following
        return following

    def _persist(
        self,
        attempt: Callable[[Endpoint], _T],
        index: int,
        failure: grpc.RpcError | ChannelClosed,
        began: float,
        patience_s: float,
    ) -> _T:
        give_up_at = time.monotonic() + patience_s
        unknown_until: float | None = None
        pause_s = _FIRST_PAUSE_S
        tries = 1
        while True:
            reason = self._judge(failure, self._endpoints[index], began)
            unknown = _is_unauthenticated(failure)
            if unknown and (self._credentials.read_again() or unknown_until is None):
                # Who has no token waits for none.
                lasting_s = 0.0 if self._credentials.metadata is None else _UNKNOWN_S
                unknown_until = time.monotonic() + lasting_s
            index = self._leave(index)
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
                self._closed.wait(min(left_s, pause_s * self._random.uniform(0.5, 1.0)))
                pause_s = min(pause_s * _PAUSE_GROWTH, _LONGEST_PAUSE_S)
            if self._closed.is_set():
                raise errors.StorageUnavailable("the storage was closed") from failure
            tries += 1
            began = time.monotonic()
            try:
                result = attempt(self._endpoints[index])
            except (grpc.RpcError, ChannelClosed) as error:
                failure = error
                continue
            self._settle(index)
            if self._out_of_reach:
                self._out_of_reach = False
                logger.info("the proxy at %s answers", self._endpoints[index].address)
            return result

    def _judge(
        self, failure: grpc.RpcError | ChannelClosed, endpoint: Endpoint, began: float
    ) -> str:
        """Return why an attempt failed if another may succeed, else raise."""
        if isinstance(failure, ChannelClosed):
            return "the channel was closed"
        status = cast(grpc.Call, failure)
        code, details = status.code(), status.details() or ""
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
            # gRPC's own refusal, by either end: it would be the same for ever.
            raise errors.MessageTooLarge(details) from failure
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            # A connection whose other end vanished without a word stays open for minutes.
            endpoint.disconnect(silent_since=began)
        if code == grpc.StatusCode.UNAVAILABLE and self._credentials.authorities is not None:
            # A certificate of an authority that our file names by now is no longer refused.
            self._credentials.read_again()
            endpoint.renew()
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


class Begun(Generic[Reply]):
    """A call whose request was sent. Belongs to one thread at a time."""

    def __init__(
        self,
        connection: Connection,
        call: Call[Reply],
        request: bytes,
        finish: Callable[[float], Reply] | None,
    ) -> None:
        """Take what waits for the answer; None if the request could not be sent."""
        self._connection = connection
        self._call = call
        self._request = request
        self._finish = finish

    def answer(self, *, deadline_s: float = CALL_S, patience_s: float | None = None) -> Reply:
        """Return the answer, as :meth:`Connection.call` does, which is made if none comes.

        May be called again after it has raised.
        """
        reply = self._finished(deadline_s)
        if reply is not None:
            return reply
        return self._connection.call(
            self._call, self._request, deadline_s=deadline_s, patience_s=patience_s
        )

    def last_answer(self, deadline_s: float) -> Reply:
        """Return the answer, as :meth:`Connection.last_call` does."""
        ends_at = time.monotonic() + deadline_s
        reply = self._finished(deadline_s / 2)
        if reply is not None:
            return reply
        left_s = max(0.0, ends_at - time.monotonic())
        return self._connection.last_call(self._call, self._request, left_s)

    def _finished(self, deadline_s: float) -> Reply | None:
        finish, self._finish = self._finish, None
        with contextlib.suppress(grpc.RpcError, ChannelClosed):
            return None if finish is None else finish(deadline_s)
        return None


def _is_passing(failure: grpc.RpcError | ChannelClosed) -> bool:
    return isinstance(failure, ChannelClosed) or cast(grpc.Call, failure).code() in _RETRIED


def _is_unauthenticated(failure: grpc.RpcError | ChannelClosed) -> bool:
    if isinstance(failure, ChannelClosed):
        return False
    return bool(cast(grpc.Call, failure).code() == grpc.StatusCode.UNAUTHENTICATED)

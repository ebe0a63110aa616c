"""Calls of one kind, one after the other, over one stream: half the cost of each alone.

gRPC's own streams hand every message over to threads and back, which costs a worker more than a
stream saves. So this is written as gRPC's own unary calls are, on the layer beneath them, where the
calling thread does it all. That layer is not public: where an installed gRPC has another,
:data:`AVAILABLE` is false, and calls are made one by one.
"""

import time
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from trialfleet.client.credentials import Metadata

AVAILABLE: Final = hasattr(cygrpc, "SegregatedCall") and hasattr(cygrpc.Channel, "segregated_call")

_LIFE: Final = 2.0
"""A stream lives for so many deadlines of the call that opened it.

gRPC has no deadline for a message, only for a stream: what is asked in the first half of its life
is answered, or has failed, within one to two deadlines. A stream that is idle ends by itself.
"""

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

# What is under way on a stream.
_OPENED: Final = "opened"
_ANSWERED: Final = "answered"
_ENDED: Final = "ended"

_R = TypeVar("_R")


class StreamEnded(grpc.RpcError):
    """A stream has ended, and with it the call that was made over it."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self._code = code
        self._details = details

    def code(self) -> grpc.StatusCode:
        """Return the status."""
        return self._code

    def details(self) -> str:
        """Return what was said beside it."""
        return self._details


class Stream(Generic[_R]):
    """One stream. Belongs to one thread at a time."""

    def __init__(
        self,
        channel: grpc.Channel,
        path: str,
        decode: Callable[[bytes], _R],
        metadata: Metadata | None,
        deadline_s: float,
    ) -> None:
        """Open it. Raises ``ValueError`` if the channel was closed."""
        self._decode = decode
        self._metadata = metadata
        life_s = _LIFE * deadline_s
        self._ends_at = time.monotonic() + life_s
        self._receive: tuple[Any, ...] = (
            cygrpc.ReceiveInitialMetadataOperation(0),
            cygrpc.ReceiveMessageOperation(0),
        )
        inner: Any = channel
        self._call: Any = inner._channel.segregated_call(
            cygrpc.PropagationConstants.GRPC_PROPAGATE_DEFAULTS,
            path.encode(),
            None,
            time.time() + life_s,
            metadata,
            None,
            (
                ((cygrpc.SendInitialMetadataOperation(metadata, 0),), _OPENED),
                ((cygrpc.ReceiveStatusOnClientOperation(0),), _ENDED),
            ),
            None,
        )
        self._under_way = {_OPENED, _ENDED}
        self._status = StreamEnded(grpc.StatusCode.CANCELLED, "the stream was closed")

    def serves(self, metadata: Metadata | None, deadline_s: float) -> bool:
        """Whether a call that may take so long, and shows such metadata, can be made over it."""
        left_s = self._ends_at - time.monotonic()
        return deadline_s <= left_s <= _LIFE * deadline_s and metadata == self._metadata

    def ask(self, request: bytes) -> _R:
        """Return the answer to a request. If it raises the stream is of no more use.

        Raises ``grpc.RpcError``.
        """
        operations = (cygrpc.SendMessageOperation(request, 0), *self._receive)
        if self._call.operate(operations, _ANSWERED):
            self._under_way.add(_ANSWERED)
            self._receive = self._receive[-1:]  # the other's metadata come once
            while _ANSWERED in self._under_way:
                event = self._next()
                if event.tag == _ANSWERED:
                    message = event.batch_operations[-1].message()
                    if message is not None:
                        return self._decode(message)
        while _ENDED in self._under_way:
            self._next()
        raise self._status

    def close(self) -> None:
        """End it, also in the middle of a call. Idempotent."""
        self._call.cancel(cygrpc.StatusCode.cancelled, "the stream was closed")
        while self._under_way:  # so that its memory is freed
            self._next()

    def _next(self) -> Any:
        event = self._call.next_event()
        self._under_way.remove(event.tag)
        if event.tag == _ENDED:
            (ended,) = event.batch_operations
            code = _CODES.get(ended.code(), grpc.StatusCode.UNKNOWN)
            self._status = StreamEnded(code, ended.details() or "")
        return event

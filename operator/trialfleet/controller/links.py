"""Calls to the proxies of a storage, for what only they know or can do."""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from trialfleet import names
from trialfleet.client.answers import Ensured, GivenUp, StudyDefinition, Summary
from trialfleet.model import errors
from trialfleet.wire import tokens
from trialfleet.wire.v1 import trialfleet_pb2 as pb
from trialfleet.wire.v1.trialfleet_pb2_grpc import TrialFleetStub

_CALL_S: Final = 5.0
"""Deadline of a call: each answers in milliseconds, or not at all."""

_NO_STUDY: Final = pb.ListStudiesRequest(name="-")
"""Asks for no study: the answer says something of the storage."""

_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
)

_ERRORS: Final = {
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidInput,
}


@dataclass(frozen=True, slots=True)
class Trust:
    """By what proxies are known, and what they are shown."""

    authority: bytes
    """The certificate of the authority that signed theirs, in PEM."""
    name: str
    """The name in their certificates: they are called by their pods' addresses."""
    token: str


class Link:
    """The proxies of one storage, encrypted if there is a trust. On one event loop.

    Every call is idempotent, and is tried at each proxy in turn, the one that answered last
    first. Raises :class:`~trialfleet.model.errors.StorageUnavailable` if none answers.
    """

    def __init__(self, trust: Trust | None) -> None:
        self._trust = trust
        self._metadata = None if trust is None else (tokens.metadata(trust.token),)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._addresses: list[str] = []

    @property
    def tls(self) -> bool:
        """Whether calls are encrypted."""
        return self._trust is not None

    async def use(self, addresses: Sequence[str]) -> None:
        """Name the proxies that serve now."""
        kept = [address for address in self._addresses if address in addresses]
        self._addresses = kept + [address for address in addresses if address not in kept]
        for address in list(self._channels):
            if address not in addresses:
                await self._channels.pop(address).close()

    async def close(self) -> None:
        """Close the connections."""
        await self.use(())

    async def identity(self) -> str:
        """Return the identity of the database that is served."""
        reply: pb.ListStudiesReply = await self._call("ListStudies", _NO_STUDY)
        return reply.identity

    async def ensure_study(self, definition: StudyDefinition) -> Ensured:
        """Make the storage know a study as it is defined; return what it has of it.

        Raises :class:`~trialfleet.model.errors.InvalidInput` if it has it with other directions.
        """
        reply: pb.EnsureStudyReply = await self._call("EnsureStudy", definition.message())
        return Ensured.decode(reply, definition)

    async def summary(self, study_id: int, best: int) -> Summary:
        """Return a study in a few numbers. Raises :class:`~trialfleet.model.errors.NotFound`."""
        request = pb.SummaryRequest(study_id=study_id, best=best)
        return Summary.decode(await self._call("Summary", request))

    async def give_up(self, *, worker: str, reason: str, message: str, failed: bool) -> GivenUp:
        """Say that a worker is dead."""
        request = pb.GiveUpRequest(worker=worker, reason=reason, message=message, failed=failed)
        return GivenUp.decode(await self._call("GiveUp", request))

    async def delete_study(self, study_id: int) -> None:
        """Delete a study with its trials, if it is there."""
        session = os.urandom(16)
        opening = pb.OpenSessionRequest(
            session=session, worker=names.OPERATOR, time_to_live_s=names.SESSION_TIME_TO_LIVE_S
        )
        await self._call("OpenSession", opening)
        write = pb.WriteId(session=session, sequence=1)
        with contextlib.suppress(errors.NotFound):
            await self._call("DeleteStudy", pb.DeleteStudyRequest(write=write, study_id=study_id))
        await self._call("CloseSession", pb.CloseSessionRequest(session=session))

    async def why_not(self, address: str) -> str:
        """Return what a proxy that is not ready says is wrong; empty if it says nothing."""
        channel = self._connect(address)
        try:
            await TrialFleetStub(channel).ListStudies(
                _NO_STUDY, timeout=_CALL_S, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            details = error.details() or ""
            # gRPC's own words: the proxy was not reached, so it did not say anything.
            return "" if details.startswith("failed to connect") else details
        finally:
            await channel.close()
        return ""

    async def _call(self, name: str, request: Message) -> Any:
        reason = "no proxy is ready"
        for address in list(self._addresses):
            channel = self._channels.get(address)
            if channel is None:
                channel = self._channels[address] = self._connect(address)
            try:
                call = getattr(TrialFleetStub(channel), name)
                reply = await call(request, timeout=_CALL_S, metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                kind = _ERRORS.get(error.code())
                if kind is not None:
                    raise kind(error.details() or error.code().name) from error
                reason = f"{address}: {error.details() or error.code().name}"
                continue
            except asyncio.CancelledError:
                raise
            except grpc.aio.UsageError:
                # Another look at the storage closed the channel: its proxy is away.
                continue
            if self._addresses and self._addresses[0] != address and address in self._addresses:
                self._addresses.remove(address)
                self._addresses.insert(0, address)
            return reply
        raise errors.StorageUnavailable(reason)

    def _connect(self, address: str) -> grpc.aio.Channel:
        if self._trust is None:
            return grpc.aio.insecure_channel(address, options=_OPTIONS)
        credentials = grpc.ssl_channel_credentials(self._trust.authority)
        options = (*_OPTIONS, ("grpc.ssl_target_name_override", self._trust.name))
        return grpc.aio.secure_channel(address, credentials, options=options)

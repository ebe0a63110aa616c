"""Studies in a storage, as workers, commands and the operator ask for them: asynchronous."""

import contextlib
import os
from collections.abc import Sequence
from typing import Final, NamedTuple

from google.protobuf.message import Message
from optuna.study._frozen import FrozenStudy

from trialfleet import names
from trialfleet.client.answers import Ensured, GivenUp, StudyDefinition, Summary
from trialfleet.client.conversion import decode_study
from trialfleet.model.errors import NotFound
from trialfleet.wire import methods
from trialfleet.wire.connection import CALL_S, Connection
from trialfleet.wire.endpoint import CallFailed, Endpoint
from trialfleet.wire.methods import Method, Reply
from trialfleet.wire.v1 import trialfleet_pb2 as pb

_NO_STUDY: Final = pb.ListStudiesRequest(name="-")
"""Asks for no study: the answer says something of the storage."""

_WARM_START_S: Final = 60.0


class Owned(NamedTuple):
    """A study, and whose it is."""

    study_id: int
    name: str
    owner: str


class Studies:
    """Calls about whole studies. Each is idempotent. Raises :mod:`trialfleet.model.errors`."""

    def __init__(self, connection: Connection, deadline_s: float = CALL_S) -> None:
        """Take the way to the proxies, and the deadline of each attempt of a call."""
        self.connection = connection
        self._deadline_s = deadline_s

    async def ensure(self, definition: StudyDefinition) -> Ensured:
        """Create a study or bring its budget up to date; return what the storage has of it.

        Raises ``InvalidInput`` if it has other directions, or the definition is wrong.
        """
        # To take over 100,000 trials takes some 12 s.
        deadline_s = _WARM_START_S if definition.warm_start else self._deadline_s
        reply = await self.connection.call(
            methods.ENSURE_STUDY, definition.message(), deadline_s=deadline_s
        )
        return Ensured.decode(reply, definition)

    async def stop(self, study_id: int) -> None:
        """Have no new trial of a study opened any more. Raises ``NotFound``."""
        await self._call(methods.STOP_STUDY, pb.StopStudyRequest(study_id=study_id))

    async def delete(self, study_id: int, worker: str) -> None:
        """Delete a study with its trials, if it is there, in the name of a worker."""
        session = os.urandom(16)
        opening = pb.OpenSessionRequest(
            session=session, worker=worker, time_to_live_s=names.SESSION_TIME_TO_LIVE_S
        )
        await self._call(methods.OPEN_SESSION, opening)
        write = pb.WriteId(session=session, sequence=1)
        with contextlib.suppress(NotFound):
            request = pb.DeleteStudyRequest(write=write, study_id=study_id)
            await self._call(methods.DELETE_STUDY, request)
        await self._call(methods.CLOSE_SESSION, pb.CloseSessionRequest(session=session))

    async def summary(self, study_id: int, best: int = 1) -> Summary:
        """Return counts and up to ``best`` best trials. Raises ``NotFound``."""
        request = pb.SummaryRequest(study_id=study_id, best=best)
        return Summary.decode(await self._call(methods.SUMMARY, request))

    async def give_up(
        self, *, worker: str, reason: str, message: str = "", failed: bool = False
    ) -> GivenUp:
        """Say that a worker is dead: its sessions are fenced, its trials fail with the reason.

        A lost trial is requeued while retries last; with ``failed`` it was the objective's own
        doing, and counts as failed.
        """
        request = pb.GiveUpRequest(worker=worker, reason=reason, message=message, failed=failed)
        return GivenUp.decode(await self._call(methods.GIVE_UP, request))

    async def identity(self) -> str:
        """Return the identity of the database that is served."""
        reply = await self._call(methods.LIST_STUDIES, _NO_STUDY)
        return reply.identity

    async def why_not(self, address: str) -> str:
        """Return what a proxy that is not ready says is wrong; empty if it says nothing."""
        endpoint = Endpoint(address, self.connection.credentials)
        try:
            await endpoint.call(
                methods.LIST_STUDIES, _NO_STUDY.SerializeToString(), self._deadline_s
            )
        except CallFailed as error:
            # gRPC's own words: the proxy was not reached, so it did not say anything.
            return "" if error.details.startswith("failed to connect") else error.details
        finally:
            await endpoint.disconnect()
        return ""

    async def by_id(self, study_id: int) -> FrozenStudy:
        """Return a study. Raises ``NotFound``."""
        studies = await self._list(pb.ListStudiesRequest(study_id=study_id))
        if not studies:
            raise NotFound(f"no study has the id {study_id}")
        return studies[0]

    async def by_name(self, name: str) -> FrozenStudy:
        """Return a study. Raises ``NotFound``."""
        studies = await self._list(pb.ListStudiesRequest(name=name))
        if not studies:
            raise NotFound(f"no study has the name {name!r}")
        return studies[0]

    async def all(self) -> list[FrozenStudy]:
        """Return all studies, ordered by id."""
        studies = await self._list(pb.ListStudiesRequest())
        return sorted(studies, key=lambda study: study._study_id)

    async def owned(self, owner: str) -> list[Owned]:
        """Return the studies whose owner begins so, ordered by id."""
        reply = await self._call(methods.LIST_STUDIES, pb.ListStudiesRequest(owner=owner))
        return [
            Owned(study.study_id, study.name, study.owner)
            for study in reply.studies
            # A proxy of a release that knows no owners returns all studies, without owners.
            if study.owner.startswith(owner) and study.owner
        ]

    async def _list(self, request: pb.ListStudiesRequest) -> Sequence[FrozenStudy]:
        reply = await self._call(methods.LIST_STUDIES, request)
        return [decode_study(study) for study in reply.studies]

    async def _call(self, method: Method[Reply], request: Message) -> Reply:
        return await self.connection.call(method, request, deadline_s=self._deadline_s)

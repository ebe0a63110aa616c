"""Who may call what: a study's token opens that study only, the operator's opens everything.

Every method of ``trialfleet.v1`` has a rule here; a service with a method that has none does not
start. What a rule has to know of the database is immutable - the study of a session, a study's
name - and remembered, so that the calls of a worker's loop cost no query. Whose a study is may
change, when it is made anew: that is believed for two seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeVar

import grpc

from trialfleet.model.errors import InvalidInput, NotFound, PermissionDenied, Unauthenticated
from trialfleet.proxy import messages
from trialfleet.proxy.calls import refuse
from trialfleet.proxy.reloading import Reloaded
from trialfleet.storage import Storage
from trialfleet.wire import tokens
from trialfleet.wire.tokens import Grant
from trialfleet.wire.v1 import trialfleet_pb2 as pb

_REMEMBERED: Final = 50_000
"""Sessions, and studies: some 10 MB; beyond that the oldest is read again."""

_OWNER_S: Final = 2.0
"""For so long a token that has opened a study does, without another look at the database."""

_SCHEME: Final = "bearer "
_ACCEPTED: Final = "accepted: metadata 'authorization: Bearer TOKEN'"

_HEADER: Final = "authorization"
_OPEN_TO_ALL: Final = "/grpc.health.v1.Health/"

_shown: Final[ContextVar[str | None]] = ContextVar("authorization", default=None)
"""What the caller of the current call shows."""

_caller: Final[ContextVar[str]] = ContextVar("caller", default="")
"""The study whose token the caller of the current call showed when it began."""

K = TypeVar("K")
V = TypeVar("V")


class Authorization(grpc.aio.ServerInterceptor):
    """Checks calls against tokens. Belongs to one event loop."""

    def __init__(self, key_file: Path, storage: Storage) -> None:
        """Take the file with the keys that tokens are made with; it is read again when it changes.

        Raises :class:`~trialfleet.model.errors.InvalidInput` if it can't be used.
        """
        self._keys = Reloaded("token-key", (key_file,), _read_keys)
        self._storage = storage
        self._studies: dict[int, str] = {}
        self._sessions: dict[bytes, str] = {}
        self._opened: dict[Grant, float] = {}
        """Until when a token is believed to open its study."""

    def authenticate(self) -> Grant:
        """Return what the token of the current call opens. Raises ``Unauthenticated``."""
        shown = _shown.get()
        if shown is None:
            raise Unauthenticated(f"found no token, {_ACCEPTED}")
        if shown[: len(_SCHEME)].lower() != _SCHEME:
            raise Unauthenticated(f"found authorization of another kind, {_ACCEPTED}")
        grant = tokens.check(self._keys.get(), shown[len(_SCHEME) :])
        if grant is None:
            raise Unauthenticated("found a token that is unknown here, accepted: a study's own")
        return grant

    def caller(self) -> str:
        """Return whose share of the proxy the current call uses."""
        return _caller.get()

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Refuse a call without a valid token before any message of it is read."""
        if not handler_call_details.method.startswith(_OPEN_TO_ALL):
            shown = next(
                (v for k, v in handler_call_details.invocation_metadata if k == _HEADER), None
            )
            _shown.set(None if shown is None else str(shown))
            try:
                _caller.set(self.authenticate().study or "")
            except Unauthenticated as error:
                return _refusing(str(error))
        return await continuation(handler_call_details)

    def check(self, method: str) -> Callable[[Any], Awaitable[None]]:
        """Return what checks each call of a method before it is made.

        It raises ``Unauthenticated`` or ``PermissionDenied``; a message that leaves the study open
        is made to name the token's. Raises ``KeyError`` for a method that has no rule.
        """
        rule = _RULES[method]

        async def check(request: Any) -> None:
            # Of a stream each request: the keys may have changed since it was opened.
            grant = self.authenticate()
            if grant.study is not None:
                await self.require_owner(grant, method)
                await rule(self, request, grant.study)

        return check

    async def require_owner(self, grant: Grant, method: str) -> None:
        """Raise ``PermissionDenied`` if the study of a token is another Study object's by now.

        ``NotFound`` where a session is to be opened: a worker may be there before its storage is
        told that the study is made anew, and waits for that as for a study that is not there yet.
        """
        if self._opened.get(grant, 0.0) > monotonic():
            return
        assert grant.study is not None
        asked = monotonic()
        owners = await self._storage.token_owners(grant.study)
        if owners is None:
            return  # what the method does without the study is its own affair
        if not owners.owner:
            opens = True
        elif grant.uid:
            # The storage's uid is there too: see controller/ownership.py.
            opens = owners.owner.rpartition("/")[2] == grant.uid
        else:
            opens = owners.bare == owners.owner
        if not opens:
            self._opened.pop(grant, None)
            denied = NotFound if method == "OpenSession" else PermissionDenied
            raise denied(
                f"the token is not of the Study {grant.study!r} that the storage has, but of one "
                "that was deleted or that it is not told of yet; accepted: the token in that "
                "Study's Secret"
            )
        _remember(self._opened, grant, asked + _OWNER_S)

    async def require_study(self, study_id: int, study: str) -> None:
        """Raise ``PermissionDenied`` unless a study has that name; ``NotFound``."""
        name = self._studies.get(study_id)
        if name is None:
            found = await self._storage.studies(study_id=messages.study_id(study_id))
            if not found:
                raise NotFound(f"no study has the id {study_id}")
            name = found[0].name
            _remember(self._studies, study_id, name)
        if name != study:
            raise _denied(study)

    async def require_session(self, session: bytes, study: str) -> None:
        """Raise ``PermissionDenied`` if a session is bound to another study, or to none.

        One that was never opened is let through: what a method answers to it, it may.
        """
        name = self._sessions.get(session)
        if name is None:
            name = await self._storage.study_of_session(messages.session(session))
            if name is None:
                return
            if name:
                _remember(self._sessions, session, name)
        # A study without a name is possible, and a session without a study has none either.
        if not name or name != study:
            raise _denied(study)

    async def require_trials(self, ids: Iterable[int], study: str) -> None:
        """Raise ``PermissionDenied`` unless all trials are the study's; ``NotFound``.

        One that does not exist yet could be another study's when the method looks.
        """
        wanted = [messages.trial_id(trial_id) for trial_id in ids]
        found = await asyncio.gather(*map(self._storage.study_of_trial, wanted))
        for trial_id, name in zip(wanted, found, strict=True):
            if name is None:
                raise NotFound(f"no trial has the id {trial_id}")
            if name != study:
                raise _denied(study)


def _refusing(details: str) -> "grpc.RpcMethodHandler[Any, Any]":
    async def answer(_: Any, context: Any) -> None:
        await refuse(context, grpc.StatusCode.UNAUTHENTICATED, details)

    # Of all kinds of handlers it is the one that reads no message first.
    return grpc.stream_stream_rpc_method_handler(answer)


_Rule = Callable[[Authorization, Any, str], Awaitable[None]]


def _read_keys(content: bytes) -> list[str]:
    try:
        return tokens.read_keys(content.decode())
    except UnicodeDecodeError as error:
        raise InvalidInput("found bytes that are no text, accepted: a key a line") from error


def _remember(known: dict[K, V], key: K, value: V) -> None:
    if key not in known and len(known) >= _REMEMBERED:
        del known[next(iter(known))]
    known[key] = value


def _denied(study: str) -> PermissionDenied:
    return PermissionDenied(f"the token opens the study {study!r} only")


async def _operator(authorization: Authorization, request: Any, study: str) -> None:
    raise PermissionDenied(f"the token opens the study {study!r}; this call takes the operator's")


async def _of_study(authorization: Authorization, request: Any, study: str) -> None:
    await authorization.require_study(request.study_id, study)


async def _of_session(authorization: Authorization, request: Any, study: str) -> None:
    await authorization.require_session(request.session, study)


async def _write_to_study(authorization: Authorization, request: Any, study: str) -> None:
    await authorization.require_session(request.write.session, study)
    await authorization.require_study(request.study_id, study)


async def _list_studies(
    authorization: Authorization, request: pb.ListStudiesRequest, study: str
) -> None:
    selector = request.WhichOneof("selector")
    if selector == "study_id":
        await authorization.require_study(request.study_id, study)
    elif selector == "name":
        if request.name != study:
            raise _denied(study)
    else:
        request.name = study


async def _open_session(
    authorization: Authorization, request: pb.OpenSessionRequest, study: str
) -> None:
    # A repeat is answered with what the session was opened for.
    await authorization.require_session(request.session, study)
    if not request.study:
        request.study = study
    elif request.study != study:
        raise _denied(study)


async def _tell(authorization: Authorization, request: pb.TellRequest, study: str) -> None:
    # The storage refuses a session that does not run the trial: the trial needs no look.
    await authorization.require_session(request.write.session, study)
    if request.HasField("next"):
        await _write_to_study(authorization, request.next, study)


async def _report(authorization: Authorization, request: pb.ReportRequest, study: str) -> None:
    await authorization.require_session(request.write.session, study)
    if request.HasField("history") or request.HasField("decision"):
        await authorization.require_study(request.study_id, study)


async def _write_trial(
    authorization: Authorization, request: pb.WriteTrialRequest, study: str
) -> None:
    await authorization.require_session(request.write.session, study)
    await authorization.require_trials((request.update.trial_id,), study)


async def _get_trials(
    authorization: Authorization, request: pb.GetTrialsRequest, study: str
) -> None:
    messages.check_selection(request)
    await authorization.require_trials(request.trial_ids, study)
    if request.numbers:
        await authorization.require_study(request.study_id, study)


_RULES: Final[dict[str, _Rule]] = {
    "EnsureStudy": _operator,
    "CreateStudy": _operator,
    "StopStudy": _of_study,
    "DeleteStudy": _operator,
    "SetStudyAttribute": _write_to_study,
    "ListStudies": _list_studies,
    "OpenSession": _open_session,
    "KeepAlive": _of_session,
    "CloseSession": _of_session,
    "GiveUp": _operator,
    "Ask": _write_to_study,
    "Report": _report,
    "Tell": _tell,
    "CreateTrial": _write_to_study,
    "WriteTrial": _write_trial,
    "GetTrials": _get_trials,
    "History": _of_study,
    "Summary": _of_study,
}

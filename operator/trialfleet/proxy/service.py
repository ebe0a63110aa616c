"""``trialfleet.v1.TrialFleet``: what each call promises is written in its .proto file.

Errors are raised as they are; :mod:`trialfleet.proxy.calls` turns them into status codes.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import islice
from typing import Final

from optuna.trial import TrialState

from trialfleet import names
from trialfleet.model.errors import InvalidInput, SessionGivenUp
from trialfleet.model.session import GivenUp
from trialfleet.model.trial import TrialRecord
from trialfleet.proxy import messages
from trialfleet.proxy.batches import Page, encode_batch
from trialfleet.proxy.decisions import Decisions
from trialfleet.proxy.history import Bound, Cursor, Histories, HistoryView
from trialfleet.storage import Storage
from trialfleet.storage.commands import (
    CloseSession,
    CreateStudy,
    CreateTrial,
    DeleteStudy,
    Ended,
    KeepAlive,
    OpenTrial,
    SessionOpened,
    SetStudyAttribute,
    StopStudy,
    StudyEnsured,
    TrialCreated,
    UpdateTrial,
    Wait,
    WriteTrial,
)
from trialfleet.wire.fields import encode_field, tag
from trialfleet.wire.v1 import trialfleet_pb2 as pb

MAX_WAIT_S: Final = 10.0
"""How long an Ask is held at most: a proxy that stops has few calls to finish."""

# An Ask's or Report's answer is to be quick; History gives what goes beyond.
_BESIDE: Final = Bound(trials=5000, size=4 * 1024 * 1024)
_PART: Final = Bound(trials=2000, size=names.HISTORY_PART_BYTES)

_READ_AT_ONCE: Final = 10
"""Trials that GetTrials reads before it looks whether they fill its reply."""

_MAX_DEFINITIONS: Final = 1000
"""Parameters that an Ask brings; a worker asks about others when it meets them."""

_LATE_S: Final = 0.5
"""By how much a pruner's view may be late: of what others than this proxy finished, and where the
proxy decides, of what others than the session finished."""

_ASK_TRIAL: Final = tag(pb.AskReply, "trial")
_ASK_NEWS: Final = tag(pb.AskReply, "news")
_ASK_WAIT: Final = pb.AskReply(wait=pb.AskReply.Wait()).SerializeToString()
_ASK_FENCED: Final = pb.AskReply(fenced=True).SerializeToString()
_REPORT_NEWS: Final = tag(pb.ReportReply, "news")
_REPORT_FENCED: Final = pb.ReportReply(fenced=True).SerializeToString()
_TELL_NEXT: Final = tag(pb.TellReply, "next")
_TELL_FENCED: Final = pb.TellReply(fenced=True).SerializeToString()
_PART_NEWS: Final = tag(pb.HistoryPart, "news")
_GET_TRIALS: Final = tag(pb.GetTrialsReply, "trials")
_SUMMARY_BEST: Final = tag(pb.SummaryReply, "best")

_TOLD: Final = frozenset(
    {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.WAITING}
)
_APPLIED: Final = pb.Applied()


_Opened = TrialRecord | Wait | Ended | SessionGivenUp


def _opening(request: pb.AskRequest) -> OpenTrial:
    return OpenTrial(messages.study_id(request.study_id), messages.write_id(request.write))


def _told(answer: Exception | None) -> bytes:
    if isinstance(answer, SessionGivenUp):
        return _TELL_FENCED
    if answer is not None:
        raise answer
    return b""


def _cursor(cursor: pb.Cursor) -> Cursor:
    return Cursor(cursor.epoch, cursor.trials, cursor.definitions, cursor.finished_only)


class TrialFleet:
    """The service's methods, from request to reply; a reply may be encoded already."""

    def __init__(self, storage: Storage, histories: Histories) -> None:
        self._storage = storage
        self._histories = histories
        self._decisions = Decisions(storage, histories)

    async def EnsureStudy(self, request: pb.EnsureStudyRequest) -> pb.EnsureStudyReply:
        """Create a study or bring its budget up to date."""
        ensured = await self._storage.apply(messages.ensure_study(request))
        assert isinstance(ensured, StudyEnsured)
        return pb.EnsureStudyReply(**ensured._asdict())

    async def CreateStudy(self, request: pb.CreateStudyRequest) -> pb.CreateStudyReply:
        """Create a study."""
        write = messages.write_id(request.write)
        command = CreateStudy(request.name, messages.directions(request.directions), write)
        study_id = await self._storage.apply(command)
        assert isinstance(study_id, int)
        return pb.CreateStudyReply(study_id=study_id)

    async def StopStudy(self, request: pb.StopStudyRequest) -> pb.Applied:
        """Open no new trial of a study any more."""
        await self._storage.apply(StopStudy(messages.study_id(request.study_id)))
        return _APPLIED

    async def DeleteStudy(self, request: pb.DeleteStudyRequest) -> pb.Applied:
        """Delete a study."""
        await self._storage.apply(
            DeleteStudy(messages.study_id(request.study_id), messages.write_id(request.write))
        )
        self._histories.drop(request.study_id)
        self._decisions.drop(request.study_id)
        return _APPLIED

    async def SetStudyAttribute(self, request: pb.SetStudyAttributeRequest) -> pb.Applied:
        """Set an attribute of a study."""
        attribute = request.attribute
        await self._storage.apply(
            SetStudyAttribute(
                messages.study_id(request.study_id),
                attribute.key,
                messages.check_json(attribute.value_json, "attribute.value_json"),
                request.system,
                messages.write_id(request.write),
            )
        )
        return _APPLIED

    async def ListStudies(self, request: pb.ListStudiesRequest) -> pb.ListStudiesReply:
        """Return studies."""
        selector = request.WhichOneof("selector")
        studies = await self._storage.studies(
            study_id=messages.study_id(request.study_id) if selector == "study_id" else None,
            name=messages.study_name(request.name) if selector == "name" else None,
            owner=messages.owner(request.owner) if selector == "owner" else None,
        )
        return pb.ListStudiesReply(
            studies=map(messages.study, studies), identity=self._storage.identity
        )

    async def OpenSession(self, request: pb.OpenSessionRequest) -> pb.OpenSessionReply:
        """Begin a worker's life."""
        opened = await self._storage.apply(messages.open_session(request))
        assert isinstance(opened, SessionOpened)
        return pb.OpenSessionReply(
            study_id=opened.study_id,
            directions=messages.direction_numbers(opened.directions),
            ordinal=opened.ordinal,
            max_message_bytes=names.MAX_MESSAGE_BYTES,
        )

    async def KeepAlive(self, request: pb.KeepAliveRequest) -> pb.KeepAliveReply:
        """Extend a session's life."""
        alive = await self._storage.apply(KeepAlive(messages.session(request.session)))
        return pb.KeepAliveReply(alive=bool(alive))

    async def CloseSession(self, request: pb.CloseSessionRequest) -> pb.Applied:
        """End a session in order."""
        await self._storage.apply(CloseSession(messages.session(request.session)))
        return _APPLIED

    async def GiveUp(self, request: pb.GiveUpRequest) -> pb.GiveUpReply:
        """Fence a dead worker's sessions."""
        given_up = await self._storage.apply(messages.give_up(request))
        assert isinstance(given_up, GivenUp)
        return pb.GiveUpReply(
            sessions=given_up.sessions,
            opened=given_up.opened,
            lost=given_up.lost,
            requeued=given_up.requeued,
            failed=given_up.failed,
        )

    async def Ask(self, request: pb.AskRequest) -> bytes:
        """Open the next trial."""
        opened: _Opened
        try:
            opened = await self._storage.open_trial(
                _opening(request), min(request.wait_ms / 1000, MAX_WAIT_S)
            )
        except SessionGivenUp as error:
            opened = error
        return await self._asked(request, opened)

    async def _asked(self, request: pb.AskRequest, opened: _Opened) -> bytes:
        if isinstance(opened, SessionGivenUp):
            return _ASK_FENCED
        if isinstance(opened, Ended):
            ended = pb.AskReply(ended=pb.AskReply.Ended(reason=opened.reason))
            return ended.SerializeToString()
        if isinstance(opened, Wait):
            return _ASK_WAIT
        reply = encode_field(_ASK_TRIAL, encode_batch((opened,)))
        if request.definitions:
            reply += self._definitions(request.study_id)
        if request.HasField("history"):
            reply += encode_field(_ASK_NEWS, await self._news(request.study_id, request.history))
        return reply

    def _definitions(self, study_id: int) -> bytes:
        known = islice(self._storage.parameters(study_id).items(), _MAX_DEFINITIONS)
        return pb.AskReply(
            definitions=[pb.Definition(name=name, distribution_json=text) for name, text in known]
        ).SerializeToString()

    async def Report(self, request: pb.ReportRequest) -> pb.ReportReply | bytes:
        """Write what is known of a running trial."""
        update = UpdateTrial(
            messages.write_id(request.write), messages.trial_update(request.update)
        )
        try:
            if request.HasField("decision"):
                return await self._decide(request, update)
            await self._storage.apply(update)
        except SessionGivenUp:
            return _REPORT_FENCED
        if request.HasField("history"):
            news = await self._news(request.study_id, request.history, _LATE_S)
            return encode_field(_REPORT_NEWS, news)
        return b""

    async def _decide(self, request: pb.ReportRequest, update: UpdateTrial) -> pb.ReportReply:
        stored = self._decisions.write(update)
        decision = request.decision
        values = dict(zip(decision.steps, decision.values, strict=False))
        study_id = messages.study_id(request.study_id)
        prune = await self._decisions.prune(
            study_id, update.write.session, decision.pruner, values, _LATE_S
        )
        return pb.ReportReply(prune=prune, stored=stored)

    async def Tell(self, request: pb.TellRequest) -> bytes:
        """End a trial, and open the next one if that is wanted."""
        state = messages.state(request.state)
        if state not in _TOLD:
            raise InvalidInput(
                f"state: found {state.name}, accepted: COMPLETE, PRUNED, FAIL or WAITING"
            )
        tell = UpdateTrial(
            messages.write_id(request.write),
            messages.trial_update(request.update),
            state,
            messages.values(request.values),
        )
        if not request.HasField("next"):
            (told,) = await self._storage.apply_all((tell,))
            self._decisions.told(tell.write.session)
            return _told(told)
        told, opened = await self._storage.apply_all((tell, _opening(request.next)))
        self._decisions.told(tell.write.session)
        reply = _told(told)
        if isinstance(opened, Exception) and not isinstance(opened, SessionGivenUp):
            # What was told is told: who asks once more hears why there is no trial.
            return reply
        return reply + encode_field(_TELL_NEXT, await self._asked(request.next, opened))

    async def CreateTrial(self, request: pb.CreateTrialRequest) -> pb.CreateTrialReply:
        """Add a trial."""
        template = messages.template(request.template) if request.HasField("template") else None
        write = messages.write_id(request.write)
        created = await self._storage.apply(
            CreateTrial(messages.study_id(request.study_id), template, write)
        )
        assert isinstance(created, TrialCreated)
        return pb.CreateTrialReply(trial_id=created.trial_id, number=created.number)

    async def WriteTrial(self, request: pb.WriteTrialRequest) -> pb.WriteTrialReply:
        """Write to a trial of nobody or somebody else."""
        updated = await self._storage.apply(
            WriteTrial(
                messages.trial_update(request.update),
                messages.state(request.state) if request.HasField("state") else None,
                messages.values(request.values),
                messages.write_id(request.write),
            )
        )
        return pb.WriteTrialReply(updated=bool(updated))

    async def GetTrials(self, request: pb.GetTrialsRequest) -> bytes:
        """Return trials by their ids or numbers: each once, as many as a reply holds."""
        messages.check_selection(request)
        ids = [messages.trial_id(number) for number in request.trial_ids]
        numbers = [messages.trial_number(number) for number in dict.fromkeys(request.numbers)]
        if numbers:
            study_id = messages.study_id(request.study_id)
            ids += await asyncio.gather(
                *(self._storage.trial_id(study_id, number) for number in numbers)
            )
        page = Page(_BESIDE.size)
        ids = list(dict.fromkeys(ids))
        for begin in range(0, len(ids), _READ_AT_ONCE):
            if not page.add(await self._storage.trials(ids[begin : begin + _READ_AT_ONCE])):
                break
        return encode_field(_GET_TRIALS, page.batch())

    async def History(self, request: pb.HistoryRequest) -> AsyncIterator[bytes]:
        """Return what changed since a cursor, in parts."""
        cursor = _cursor(request.cursor)
        view = await self._view(request.study_id, cursor)
        for news in view.news(cursor, _PART):
            yield encode_field(_PART_NEWS, news)

    async def Summary(self, request: pb.SummaryRequest) -> bytes:
        """Return a study in a few numbers."""
        most = messages.MAX_TRIALS
        if request.best > most:
            raise InvalidInput(f"best: found {request.best}, accepted: {most} at most")
        found = await self._storage.summary(messages.study_id(request.study_id), request.best)
        reply = pb.SummaryReply(
            counts=messages.counts(found.counts),
            ended=found.ended,
            sessions=found.sessions,
            lost_reasons=found.lost_reasons,
            taken=found.taken,
            front=found.front,
            failure=None if found.failure is None else pb.Failure(**found.failure._asdict()),
            failed_reasons=found.failed_reasons,
            silent=found.silent,
        )
        best = [
            replace(trial, user_attrs=(), system_attrs=(), intermediate_values=())
            for trial in found.best
        ]
        return reply.SerializeToString() + encode_field(_SUMMARY_BEST, encode_batch(best))

    async def _news(self, study_id: int, message: pb.Cursor, late_s: float = 0.0) -> bytes:
        cursor = _cursor(message)
        view = await self._view(study_id, cursor, late_s)
        return next(view.news(cursor, _BESIDE))

    async def _view(self, study_id: int, cursor: Cursor, late_s: float = 0.0) -> HistoryView:
        return await self._histories.view(
            messages.study_id(study_id), finished_only=cursor.finished_only, late_s=late_s
        )

"""``optuna.StorageService``: what a stock ``optuna.storages.GrpcStorageProxy`` speaks.

The methods, their conversions and their status codes are those of Optuna's own servicer,
``optuna/storages/_grpc/servicer.py``.
"""

import datetime
from collections.abc import Iterable
from typing import Final

from optuna.storages._grpc.auto_generated import api_pb2 as pb
from optuna.study import StudyDirection
from optuna.trial import TrialState

from trialfleet.model.errors import InvalidInput, NotFound, PermissionDenied
from trialfleet.model.study import StudyRecord
from trialfleet.model.trial import UNPICKLED, Param, TrialRecord, TrialUpdate
from trialfleet.proxy import messages
from trialfleet.proxy.history import Histories
from trialfleet.proxy.scanning import scan
from trialfleet.storage import Storage
from trialfleet.storage.commands import (
    CreateStudy,
    CreateTrial,
    DeleteStudy,
    SetStudyAttribute,
    TrialCreated,
    WriteTrial,
)
from trialfleet.wire.fields import tag, varint

_DATETIME_FORMAT: Final = "%Y-%m-%d %H:%M:%S.%f"
_DIRECTIONS: Final = {
    StudyDirection.MINIMIZE: pb.MINIMIZE,
    StudyDirection.MAXIMIZE: pb.MAXIMIZE,
}
_TRIALS: Final = tag(pb.GetTrialsReply, "trials")


def _text(moment: datetime.datetime | None) -> str:
    # The wire carries no zone: each side takes a time for its own local time.
    if moment is None:
        return ""
    return moment.astimezone().replace(tzinfo=None).isoformat(" ", "microseconds")


def _moment(text: str, path: str) -> datetime.datetime | None:
    if not text:
        return None
    try:
        return datetime.datetime.strptime(text, _DATETIME_FORMAT).astimezone(datetime.UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{path}: {error}") from error


def _attributes(attributes: Iterable[tuple[str, str]], path: str) -> list[tuple[str, str]]:
    return [
        (key, messages.check_json(value_json, f"{path}[{key!r}]")) for key, value_json in attributes
    ]


def _from_trial(trial: pb.Trial) -> TrialRecord:
    path = "template_trial"
    params = []
    for name, value in trial.params.items():
        if name not in trial.distributions:
            raise InvalidInput(f"{path}.params[{name!r}]: found no distribution, accepted: one")
        distribution = messages.check_distribution(trial.distributions[name])
        params.append(Param(name, value, distribution))
    return TrialRecord(
        trial_id=0,
        number=0,
        state=messages.state(trial.state),
        values=messages.values(trial.values),
        started=_moment(trial.datetime_start, f"{path}.datetime_start"),
        completed=_moment(trial.datetime_complete, f"{path}.datetime_complete"),
        params=params,
        user_attrs=_attributes(trial.user_attributes.items(), f"{path}.user_attributes"),
        system_attrs=_attributes(trial.system_attributes.items(), f"{path}.system_attributes"),
        intermediate_values=list(trial.intermediate_values.items()),
    )


def _to_trial(record: TrialRecord) -> pb.Trial:
    return pb.Trial(
        trial_id=record.trial_id,
        number=record.number,
        state=pb.TrialState.ValueType(record.state),
        values=record.values,
        datetime_start=_text(record.started),
        datetime_complete=_text(record.completed),
        params={param.name: param.value for param in record.params},
        distributions={param.name: param.distribution_json for param in record.params},
        user_attributes=dict(record.user_attrs),
        system_attributes=dict(record.system_attrs),
        intermediate_values=dict(record.intermediate_values),
    )


class StorageService:
    """The service's methods, from request to reply; a reply may be encoded already."""

    def __init__(self, storage: Storage, histories: Histories, *, trusted: bool) -> None:
        """Serve a storage; attributes that samplers unpickle are taken from trusted callers only.

        Others could run code in the workers of every study.
        """
        self._storage = storage
        self._histories = histories
        self._trusted = trusted

    async def CreateNewStudy(self, request: pb.CreateNewStudyRequest) -> pb.CreateNewStudyReply:
        """Create a study; ALREADY_EXISTS if the name is taken."""
        directions = messages.directions(request.directions)
        study_id = await self._storage.apply(CreateStudy(request.study_name, directions))
        return pb.CreateNewStudyReply(study_id=study_id)

    async def DeleteStudy(self, request: pb.DeleteStudyRequest) -> pb.DeleteStudyReply:
        """Delete a study; NOT_FOUND."""
        await self._storage.apply(DeleteStudy(messages.study_id(request.study_id)))
        self._histories.drop(request.study_id)
        return pb.DeleteStudyReply()

    async def SetStudyUserAttribute(
        self, request: pb.SetStudyUserAttributeRequest
    ) -> pb.SetStudyUserAttributeReply:
        """Set a user attribute of a study; NOT_FOUND."""
        await self._set_study_attribute(request, system=False)
        return pb.SetStudyUserAttributeReply()

    async def SetStudySystemAttribute(
        self, request: pb.SetStudySystemAttributeRequest
    ) -> pb.SetStudySystemAttributeReply:
        """Set a system attribute of a study; NOT_FOUND."""
        await self._set_study_attribute(request, system=True)
        return pb.SetStudySystemAttributeReply()

    async def GetStudyIdFromName(
        self, request: pb.GetStudyIdFromNameRequest
    ) -> pb.GetStudyIdFromNameReply:
        """Return a study's id; NOT_FOUND."""
        found = await self._storage.studies(name=messages.study_name(request.study_name))
        if not found:
            raise NotFound(f"no study has the name {request.study_name!r}")
        return pb.GetStudyIdFromNameReply(study_id=found[0].study_id)

    async def GetStudyNameFromId(
        self, request: pb.GetStudyNameFromIdRequest
    ) -> pb.GetStudyNameFromIdReply:
        """Return a study's name; NOT_FOUND."""
        study = await self._study(request.study_id)
        return pb.GetStudyNameFromIdReply(study_name=study.name)

    async def GetStudyDirections(
        self, request: pb.GetStudyDirectionsRequest
    ) -> pb.GetStudyDirectionsReply:
        """Return a study's directions; NOT_FOUND."""
        study = await self._study(request.study_id)
        return pb.GetStudyDirectionsReply(directions=[_DIRECTIONS[d] for d in study.directions])

    async def GetStudyUserAttributes(
        self, request: pb.GetStudyUserAttributesRequest
    ) -> pb.GetStudyUserAttributesReply:
        """Return a study's user attributes; NOT_FOUND."""
        study = await self._study(request.study_id)
        return pb.GetStudyUserAttributesReply(user_attributes=dict(study.user_attrs))

    async def GetStudySystemAttributes(
        self, request: pb.GetStudySystemAttributesRequest
    ) -> pb.GetStudySystemAttributesReply:
        """Return a study's system attributes; NOT_FOUND."""
        study = await self._study(request.study_id)
        return pb.GetStudySystemAttributesReply(system_attributes=dict(study.system_attrs))

    async def GetAllStudies(self, request: pb.GetAllStudiesRequest) -> pb.GetAllStudiesReply:
        """Return all studies."""
        return pb.GetAllStudiesReply(
            studies=[
                pb.Study(
                    study_id=study.study_id,
                    study_name=study.name,
                    directions=[_DIRECTIONS[direction] for direction in study.directions],
                    user_attributes=dict(study.user_attrs),
                    system_attributes=dict(study.system_attrs),
                )
                for study in await self._storage.studies()
            ]
        )

    async def CreateNewTrial(self, request: pb.CreateNewTrialRequest) -> pb.CreateNewTrialReply:
        """Add a running trial, or a copy of a template; NOT_FOUND."""
        none = request.template_trial_is_none
        template = None if none else _from_trial(request.template_trial)
        self._check_system_attributes(request.template_trial.system_attributes)
        created = await self._storage.apply(
            CreateTrial(messages.study_id(request.study_id), template)
        )
        assert isinstance(created, TrialCreated)
        return pb.CreateNewTrialReply(trial_id=created.trial_id)

    async def SetTrialParameter(
        self, request: pb.SetTrialParameterRequest
    ) -> pb.SetTrialParameterReply:
        """Set a parameter; NOT_FOUND, FAILED_PRECONDITION, INVALID_ARGUMENT."""
        distribution = messages.check_distribution(request.distribution)
        param = Param(request.param_name, request.param_value_internal, distribution)
        await self._write(TrialUpdate(messages.trial_id(request.trial_id), params=(param,)))
        return pb.SetTrialParameterReply()

    async def GetTrialIdFromStudyIdTrialNumber(
        self, request: pb.GetTrialIdFromStudyIdTrialNumberRequest
    ) -> pb.GetTrialIdFromStudyIdTrialNumberReply:
        """Return a trial's id; NOT_FOUND."""
        trial_id = await self._storage.trial_id(
            messages.study_id(request.study_id), messages.trial_number(request.trial_number)
        )
        return pb.GetTrialIdFromStudyIdTrialNumberReply(trial_id=trial_id)

    async def SetTrialStateValues(
        self, request: pb.SetTrialStateValuesRequest
    ) -> pb.SetTrialStateValuesReply:
        """Set a trial's state and values; NOT_FOUND, FAILED_PRECONDITION."""
        updated = await self._write(
            TrialUpdate(messages.trial_id(request.trial_id)),
            messages.state(request.state),
            messages.values(request.values),
        )
        return pb.SetTrialStateValuesReply(trial_updated=updated)

    async def SetTrialIntermediateValue(
        self, request: pb.SetTrialIntermediateValueRequest
    ) -> pb.SetTrialIntermediateValueReply:
        """Set an intermediate value; NOT_FOUND, FAILED_PRECONDITION."""
        pair = (request.step, request.intermediate_value)
        await self._write(
            TrialUpdate(messages.trial_id(request.trial_id), intermediate_values=(pair,))
        )
        return pb.SetTrialIntermediateValueReply()

    async def SetTrialUserAttribute(
        self, request: pb.SetTrialUserAttributeRequest
    ) -> pb.SetTrialUserAttributeReply:
        """Set a user attribute; NOT_FOUND, FAILED_PRECONDITION."""
        pair = (request.key, messages.check_json(request.value, "value"))
        await self._write(TrialUpdate(messages.trial_id(request.trial_id), user_attrs=(pair,)))
        return pb.SetTrialUserAttributeReply()

    async def SetTrialSystemAttribute(
        self, request: pb.SetTrialSystemAttributeRequest
    ) -> pb.SetTrialSystemAttributeReply:
        """Set a system attribute; NOT_FOUND, FAILED_PRECONDITION, PERMISSION_DENIED."""
        self._check_system_attributes((request.key,))
        pair = (request.key, messages.check_json(request.value, "value"))
        await self._write(TrialUpdate(messages.trial_id(request.trial_id), system_attrs=(pair,)))
        return pb.SetTrialSystemAttributeReply()

    async def GetTrial(self, request: pb.GetTrialRequest) -> pb.GetTrialReply:
        """Return a trial; NOT_FOUND."""
        (record,) = await self._storage.trials((messages.trial_id(request.trial_id),))
        return pb.GetTrialReply(trial=_to_trial(record))

    async def GetTrials(self, request: pb.GetTrialsRequest) -> bytes:
        """Return a study's trials beyond an id, and those asked for; NOT_FOUND."""
        study_id = messages.study_id(request.study_id)
        after = messages.greater_than(request.trial_id_greater_than)
        included = messages.trial_ids(request.included_trial_ids)
        reply = bytearray()
        async for record in scan(self._storage, study_id, after, included):
            encoded = _to_trial(record).SerializeToString()
            reply += _TRIALS + varint(len(encoded)) + encoded
        return bytes(reply)

    def _check_system_attributes(self, keys: Iterable[str]) -> None:
        if self._trusted:
            return
        for key in keys:
            if key.startswith(UNPICKLED):
                raise PermissionDenied(
                    f"system attribute {key!r}: found pickled data, which samplers run, accepted: "
                    f"from a worker with the study's token, not at a port that asks for none"
                )

    async def _study(self, study_id: int) -> StudyRecord:
        found = await self._storage.studies(study_id=messages.study_id(study_id))
        if not found:
            raise NotFound(f"no study has the id {study_id}")
        return found[0]

    async def _set_study_attribute(
        self,
        request: pb.SetStudyUserAttributeRequest | pb.SetStudySystemAttributeRequest,
        *,
        system: bool,
    ) -> None:
        value_json = messages.check_json(request.value, "value")
        await self._storage.apply(
            SetStudyAttribute(messages.study_id(request.study_id), request.key, value_json, system)
        )

    async def _write(
        self,
        update: TrialUpdate,
        state: TrialState | None = None,
        values: list[float] | None = None,
    ) -> bool:
        return bool(await self._storage.apply(WriteTrial(update, state, values)))

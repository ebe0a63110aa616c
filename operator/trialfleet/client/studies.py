"""The part of an Optuna storage that deals with studies."""

import uuid
from collections.abc import Sequence
from typing import Any

from optuna.storages import BaseStorage
from optuna.storages._base import DEFAULT_STUDY_NAME_PREFIX
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy

from trialfleet.client import calls
from trialfleet.client.answers import Ensured, StudyDefinition
from trialfleet.client.core import Core
from trialfleet.client.records import decode_study
from trialfleet.client.translation import optuna_errors
from trialfleet.client.writing import check_name, encode_attribute
from trialfleet.model.errors import DefinitionDiffers, NotFound
from trialfleet.wire.v1 import trialfleet_pb2 as pb


class Studies(BaseStorage):
    """Studies in a Trialfleet storage. Thread-safe."""

    _core: Core

    def ensure_study(self, definition: StudyDefinition) -> tuple[int, bool]:
        """Create a study or bring its budget up to date; return its id, and if it is new.

        Raises:
            DefinitionDiffers: The study has trials of another definition, and none is adopted.
            InvalidInput: The study exists with other directions, or the definition is wrong.
        """
        reply = self._core.connection.call(
            calls.ENSURE_STUDY, definition.message().SerializeToString()
        )
        ensured = Ensured.decode(reply, definition)
        if ensured.differs:
            raise DefinitionDiffers(ensured.differs)
        return ensured.study_id, ensured.created

    def stop_study(self, study_id: int) -> None:
        """Have no new trial of a study opened any more, until its budget is changed.

        Raises:
            NotFound: The study does not exist.
        """
        self._core.connection.call(
            calls.STOP_STUDY, pb.StopStudyRequest(study_id=study_id).SerializeToString()
        )

    @optuna_errors
    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        """See :class:`optuna.storages.BaseStorage`."""
        name = DEFAULT_STUDY_NAME_PREFIX + str(uuid.uuid4()) if study_name is None else study_name
        check_name(name, "study")
        return self._core.sessions.write(
            calls.CREATE_STUDY,
            lambda write: pb.CreateStudyRequest(
                write=write, name=name, directions=[direction.name for direction in directions]
            ),
        ).study_id

    @optuna_errors
    def delete_study(self, study_id: int) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._core.sessions.write(
            calls.DELETE_STUDY, lambda write: pb.DeleteStudyRequest(write=write, study_id=study_id)
        )
        self._core.histories.drop(study_id)
        self._core.running.drop_study(study_id)

    @optuna_errors
    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._set_study_attr(study_id, key, value, system=False)

    @optuna_errors
    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._set_study_attr(study_id, key, value, system=True)

    def _set_study_attr(self, study_id: int, key: str, value: Any, *, system: bool) -> None:
        owner = f"study {study_id}: {'system' if system else 'user'}"
        text = encode_attribute(owner, key, value, self._core.connection.max_message_bytes)
        attribute = pb.Attribute(key=key, value_json=text)
        self._core.sessions.write(
            calls.SET_STUDY_ATTRIBUTE,
            lambda write: pb.SetStudyAttributeRequest(
                write=write, study_id=study_id, system=system, attribute=attribute
            ),
        )

    @optuna_errors
    def get_study_id_from_name(self, study_name: str) -> int:
        """See :class:`optuna.storages.BaseStorage`."""
        session = self._core.sessions.of_study(study_name)
        if session is not None and session.study_id is not None:
            return session.study_id
        studies = self._studies(pb.ListStudiesRequest(name=study_name))
        if not studies:
            raise NotFound(f"no study has the name {study_name!r}")
        return studies[0].study_id

    @optuna_errors
    def get_study_name_from_id(self, study_id: int) -> str:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._study(study_id).study_name

    @optuna_errors
    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """See :class:`optuna.storages.BaseStorage`."""
        session = self._core.sessions.opened
        if session is not None and session.study_id == study_id and session.directions:
            return session.directions.copy()
        return self._study(study_id).directions

    @optuna_errors
    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._study(study_id).user_attrs

    @optuna_errors
    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._study(study_id).system_attrs

    @optuna_errors
    def get_all_studies(self) -> list[FrozenStudy]:
        """See :class:`optuna.storages.BaseStorage`."""
        studies = [decode_study(study) for study in self._studies(pb.ListStudiesRequest())]
        return sorted(studies, key=lambda study: study._study_id)

    def _study(self, study_id: int) -> FrozenStudy:
        studies = self._studies(pb.ListStudiesRequest(study_id=study_id))
        if not studies:
            raise NotFound(f"no study has the id {study_id}")
        return decode_study(studies[0])

    def _studies(self, request: pb.ListStudiesRequest) -> Sequence[pb.Study]:
        reply = self._core.connection.call(calls.LIST_STUDIES, request.SerializeToString())
        return reply.studies

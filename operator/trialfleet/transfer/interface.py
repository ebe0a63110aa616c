"""Studies behind Optuna's interface of a storage, as a proxy has them: there are no tables."""

import contextlib
import datetime
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from trialfleet.model.errors import InvalidInput
from trialfleet.model.study import StudyRecord
from trialfleet.model.trial import Param, TrialRecord
from trialfleet.transfer.copying import SLICE, Add, Found


class InterfaceSource:
    """Reads a storage. All trials of a study are in memory while it is read."""

    def __init__(self, storage: BaseStorage) -> None:
        """Take the storage."""
        self._storage = storage
        # By identity: equal distributions may have choices of other types, 1 and True.
        self._texts: dict[int, tuple[BaseDistribution, str]] = {}

    def studies(self) -> list[StudyRecord]:
        """See :class:`~trialfleet.transfer.copying.Source`."""
        return [
            StudyRecord(
                study_id=study._study_id,
                name=study.study_name,
                directions=study.directions,
                user_attrs=_texts(study.user_attrs),
                system_attrs=_texts(study.system_attrs),
            )
            for study in self._storage.get_all_studies()
        ]

    def trials(self, study_id: int) -> Iterator[list[TrialRecord]]:
        """See :class:`~trialfleet.transfer.copying.Source`."""
        trials = self._storage.get_all_trials(study_id, deepcopy=False)
        for first in range(0, len(trials), SLICE):
            self._texts.clear()
            yield [self._record(trial) for trial in trials[first : first + SLICE]]

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        return TrialRecord(
            trial_id=trial._trial_id,
            number=trial.number,
            state=trial.state,
            values=trial.values,
            started=_aware(trial.datetime_start),
            completed=_aware(trial.datetime_complete),
            params=[
                Param(
                    name,
                    distribution.to_internal_repr(trial.params[name]),
                    self._text(distribution),
                )
                for name, distribution in trial.distributions.items()
            ],
            user_attrs=_texts(trial.user_attrs),
            system_attrs=_texts(trial.system_attrs),
            intermediate_values=list(trial.intermediate_values.items()),
        )

    def _text(self, distribution: BaseDistribution) -> str:
        found = self._texts.get(id(distribution))
        if found is None:
            found = self._texts[id(distribution)] = distribution, distribution_to_json(distribution)
        return found[1]


class InterfaceTarget:
    """Writes to a storage, a trial a call."""

    def __init__(self, storage: BaseStorage) -> None:
        """Take the storage."""
        self._storage = storage

    def _id(self, name: str) -> int | None:
        try:
            return self._storage.get_study_id_from_name(name)
        except KeyError:
            return None

    def find(self, name: str) -> Found | None:
        """See :class:`~trialfleet.transfer.copying.Target`."""
        study_id = self._id(name)
        if study_id is None:
            return None
        return Found(
            [direction.name for direction in self._storage.get_study_directions(study_id)],
            self._storage.get_n_trials(study_id),
        )

    @contextlib.contextmanager
    def write(self, study: StudyRecord) -> Iterator[Add]:
        """See :class:`~trialfleet.transfer.copying.Target`."""
        existing = self._id(study.name)
        study_id = existing
        if study_id is None:
            study_id = self._storage.create_new_study(study.directions, study.name)
        try:
            for key, text in study.user_attrs:
                self._storage.set_study_user_attr(study_id, key, json.loads(text))
            for key, text in study.system_attrs:
                self._storage.set_study_system_attr(study_id, key, json.loads(text))
            yield lambda trials: self._add(study_id, trials)
        except BaseException:
            if existing is None:
                self._storage.delete_study(study_id)
            raise

    def _add(self, study_id: int, trials: Sequence[TrialRecord]) -> None:
        for trial in trials:
            try:
                self._storage.create_new_trial(study_id, frozen_trial(trial))
            except ValueError as error:
                raise InvalidInput(f"trial {trial.number}: {error}") from error
            except KeyError as error:
                raise InvalidInput("the study was deleted meanwhile") from error


# Most trials of a study have the same few.
_distribution = functools.lru_cache(maxsize=1024)(json_to_distribution)


def frozen_trial(trial: TrialRecord) -> FrozenTrial:
    """Return a trial as Optuna has it; equal distributions are one object."""
    distributions = {name: _distribution(text) for name, _, text in trial.params}
    return FrozenTrial(
        number=trial.number,
        trial_id=trial.trial_id,
        state=trial.state,
        value=None,
        values=trial.values,
        datetime_start=_local(trial.started),
        datetime_complete=_local(trial.completed),
        params={
            name: distributions[name].to_external_repr(value) for name, value, _ in trial.params
        },
        distributions=distributions,
        user_attrs=_values(trial.user_attrs),
        system_attrs=_values(trial.system_attrs),
        intermediate_values=dict(trial.intermediate_values),
    )


def _texts(attrs: dict[str, Any]) -> list[tuple[str, str]]:
    return [(key, json.dumps(value)) for key, value in attrs.items()]


def _values(attrs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    return {key: json.loads(text) for key, text in attrs}


def _aware(time: datetime.datetime | None) -> datetime.datetime | None:
    return None if time is None else time.astimezone(datetime.UTC)


def _local(time: datetime.datetime | None) -> datetime.datetime | None:
    return None if time is None else time.astimezone().replace(tzinfo=None)

"""Studies in a file of Optuna's ``JournalStorage``."""

import contextlib
import itertools
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._storage import JournalOperation

from trialfleet.model.errors import InvalidInput
from trialfleet.model.study import StudyRecord
from trialfleet.model.trial import TrialRecord
from trialfleet.transfer.copying import SLICE, Add, Found
from trialfleet.transfer.replay import Replay, Spool


def _apply(replay: Replay, path: Path) -> None:
    try:
        replay.apply(_lines(path))
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for place, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # somebody is writing it
            try:
                found = json.loads(line)
            except ValueError as error:
                raise InvalidInput(f"line {place}: no line of Optuna's journal: {error}") from error
            if not isinstance(found, dict):
                raise InvalidInput(f"line {place}: no line of Optuna's journal")
            yield found


class JournalSource:
    """Reads a journal, as it is now."""

    def __init__(self, path: Path, spool: Spool) -> None:
        """Read all of it; trials go to the spool. Raises ``InvalidInput`` and ``OSError``."""
        self._replay = Replay(spool)
        _apply(self._replay, path)

    def studies(self) -> list[StudyRecord]:
        """See :class:`~trialfleet.transfer.copying.Source`."""
        return [study for study, _ in self._replay.studies()]

    def trials(self, study_id: int) -> Iterator[list[TrialRecord]]:
        """See :class:`~trialfleet.transfer.copying.Source`."""
        trials = self._replay.trials(study_id)
        while slice_ := list(itertools.islice(trials, SLICE)):
            yield slice_


class JournalTarget:
    """Appends to a journal, which is made if it is not there."""

    def __init__(self, path: Path) -> None:
        """Take the file. Raises ``InvalidInput`` and ``OSError``."""
        self._path = path
        self._worker = str(uuid.uuid4())
        self._read()

    def _read(self) -> list[tuple[StudyRecord, int]]:
        replay = Replay(None)
        if self._path.exists():
            _apply(replay, self._path)
        return replay.studies()

    def find(self, name: str) -> Found | None:
        """See :class:`~trialfleet.transfer.copying.Target`."""
        for study, trials in self._read():
            if study.name == name:
                return Found([direction.name for direction in study.directions], trials)
        return None

    @contextlib.contextmanager
    def write(self, study: StudyRecord) -> Iterator[Add]:
        """See :class:`~trialfleet.transfer.copying.Target`."""
        backend = JournalFileBackend(str(self._path))
        existed = self.find(study.name) is not None
        if not existed:
            directions = [direction.value for direction in study.directions]
            head = {"study_name": study.name, "directions": directions}
            backend.append_logs([self._line(JournalOperation.CREATE_STUDY, head)])
        (study_id,) = (found.study_id for found, _ in self._read() if found.name == study.name)
        try:
            for operation, field, attrs in (
                (JournalOperation.SET_STUDY_USER_ATTR, "user_attr", study.user_attrs),
                (JournalOperation.SET_STUDY_SYSTEM_ATTR, "system_attr", study.system_attrs),
            ):
                for key, text in attrs:
                    line = {"study_id": study_id, field: {key: json.loads(text)}}
                    backend.append_logs([self._line(operation, line)])
            yield lambda trials: self._add(backend, study_id, trials)
        except BaseException:
            if not existed:
                line = {"study_id": study_id}
                backend.append_logs([self._line(JournalOperation.DELETE_STUDY, line)])
            raise

    def _add(
        self, backend: JournalFileBackend, study_id: int, trials: Sequence[TrialRecord]
    ) -> None:
        backend.append_logs(
            [
                self._line(JournalOperation.CREATE_TRIAL, {"study_id": study_id, **_trial(trial)})
                for trial in trials
            ]
        )

    def _line(self, operation: JournalOperation, fields: dict[str, Any]) -> dict[str, Any]:
        return {"op_code": operation.value, "worker_id": self._worker, **fields}


def _trial(trial: TrialRecord) -> dict[str, Any]:
    values = list(trial.values or ())
    fields: dict[str, Any] = {
        "datetime_start": trial.started and trial.started.isoformat(timespec="microseconds"),
        "state": trial.state.value,
        "value": values[0] if len(values) == 1 else None,
        "values": values if len(values) > 1 else None,
        "distributions": {name: text for name, _, text in trial.params},
        "params": {name: value for name, value, _ in trial.params},
        "user_attrs": _attrs(trial.user_attrs),
        "system_attrs": _attrs(trial.system_attrs),
        "intermediate_values": dict(trial.intermediate_values),
    }
    if trial.completed is not None:
        fields["datetime_complete"] = trial.completed.isoformat(timespec="microseconds")
    return fields


def _attrs(attrs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    return {key: json.loads(text) for key, text in attrs}

"""What the lines of Optuna's journal amount to, read once, with few trials in memory.

Optuna's ``JournalStorage`` keeps all trials in memory. Here a trial goes to a temporary file as
soon as it has finished: from then on nothing changes it. The rules of the format are those of
``optuna.storages.journal._storage.JournalStorageReplayResult``.
"""

import datetime
import functools
import json
import pickle
import sqlite3
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from optuna.distributions import check_distribution_compatibility, json_to_distribution
from optuna.storages.journal._storage import JournalOperation
from optuna.study import StudyDirection
from optuna.trial import TrialState

from trialfleet.model.errors import InvalidInput
from trialfleet.model.study import StudyRecord
from trialfleet.model.trial import Param, TrialRecord

_BATCH: Final = 1000

_parse_distribution = functools.lru_cache(maxsize=4096)(json_to_distribution)


class Spool:
    """Finished trials in a temporary file, which is gone when this is closed."""

    def __init__(self) -> None:
        """Make the file."""
        self._folder = tempfile.TemporaryDirectory(prefix="trialfleet-")
        self._database = sqlite3.connect(Path(self._folder.name) / "trials", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = off; PRAGMA synchronous = off; "
            "CREATE TABLE trials (study int, number int, trial blob, PRIMARY KEY (study, number)) "
            "WITHOUT ROWID; BEGIN"
        )
        self._waiting: list[tuple[int, int, bytes]] = []

    def close(self) -> None:
        """Remove the file."""
        self._database.close()
        self._folder.cleanup()

    def put(self, study_id: int, trial: TrialRecord) -> None:
        """Add a trial."""
        self._waiting.append((study_id, trial.number, pickle.dumps(trial)))
        if len(self._waiting) >= _BATCH:
            self._write()

    def drop(self, study_id: int) -> None:
        """Remove a study's trials."""
        self._write()
        self._database.execute("DELETE FROM trials WHERE study = ?", (study_id,))

    def read(self, study_id: int) -> Iterator[TrialRecord]:
        """Return a study's trials, ordered by number."""
        self._write()
        query = "SELECT trial FROM trials WHERE study = ? ORDER BY number"
        for (pickled,) in self._database.execute(query, (study_id,)):
            yield pickle.loads(pickled)

    def _write(self) -> None:
        self._database.executemany("INSERT INTO trials VALUES (?, ?, ?)", self._waiting)
        self._waiting.clear()


@dataclass(slots=True)
class _Study:
    name: str
    directions: list[StudyDirection]
    user_attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)
    trials: int = 0
    params: dict[str, str] = field(default_factory=dict)
    """The first distribution of each parameter."""
    unfinished: dict[int, "_Trial"] = field(default_factory=dict)


@dataclass(slots=True)
class _Trial:
    """A trial that has not finished."""

    trial_id: int
    number: int
    state: TrialState
    values: list[float] | None
    started: datetime.datetime | None
    completed: datetime.datetime | None
    params: dict[str, Param]
    user_attrs: dict[str, Any]
    system_attrs: dict[str, Any]
    steps: dict[int, float]

    def record(self) -> TrialRecord:
        return TrialRecord(
            trial_id=self.trial_id,
            number=self.number,
            state=self.state,
            values=self.values,
            started=self.started,
            completed=self.completed,
            params=list(self.params.values()),
            user_attrs=[(key, json.dumps(value)) for key, value in self.user_attrs.items()],
            system_attrs=[(key, json.dumps(value)) for key, value in self.system_attrs.items()],
            intermediate_values=list(self.steps.items()),
        )


class Replay:
    """The studies of a journal as of its last line."""

    def __init__(self, spool: Spool | None) -> None:
        """Begin with none. Without a spool only studies and numbers of trials are to be had."""
        self._spool = spool
        self._studies: dict[int, _Study] = {}
        self._created = 0
        # Of each trial that was ever made: its study and its number there.
        self._study_of = array("q")
        self._number_of = array("q")

    def studies(self) -> list[tuple[StudyRecord, int]]:
        """Return the studies, the oldest first, each with the number of its trials."""
        return [
            (
                StudyRecord(
                    study_id=study_id,
                    name=study.name,
                    directions=study.directions,
                    user_attrs=[(k, json.dumps(v)) for k, v in study.user_attrs.items()],
                    system_attrs=[(k, json.dumps(v)) for k, v in study.system_attrs.items()],
                ),
                study.trials,
            )
            for study_id, study in self._studies.items()
        ]

    def trials(self, study_id: int) -> Iterator[TrialRecord]:
        """Return a study's trials, ordered by number."""
        assert self._spool is not None
        unfinished = sorted(self._studies[study_id].unfinished.values(), key=lambda t: t.number)
        rest = iter(unfinished)
        following = next(rest, None)
        for finished in self._spool.read(study_id):
            while following is not None and following.number < finished.number:
                yield following.record()
                following = next(rest, None)
            yield finished
        if following is not None:
            yield following.record()
            yield from (trial.record() for trial in rest)

    def apply(self, lines: Iterable[dict[str, Any]]) -> None:
        """Apply the operations of lines. Raises ``InvalidInput`` for what is no line of Optuna's.

        Operations on what does not exist or has finished do nothing, as in Optuna.
        """
        for place, line in enumerate(lines, 1):
            try:
                self._apply(JournalOperation(line["op_code"]), line)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise InvalidInput(
                    f"line {place}: no line of Optuna's journal ({error.__class__.__name__}: "
                    f"{error})"
                ) from error

    def _apply(self, operation: JournalOperation, line: dict[str, Any]) -> None:
        if operation == JournalOperation.CREATE_STUDY:
            self._create_study(line)
        elif operation == JournalOperation.DISCARD_TRIALS:
            pass  # Optuna does nothing either
        elif "study_id" in line:
            study = self._studies.get(line["study_id"])
            if study is None:
                return
            if operation == JournalOperation.CREATE_TRIAL:
                self._create_trial(study, line)
            elif operation == JournalOperation.DELETE_STUDY:
                del self._studies[line["study_id"]]
                if self._spool is not None:
                    self._spool.drop(line["study_id"])
            elif operation == JournalOperation.SET_STUDY_USER_ATTR:
                study.user_attrs.update(line["user_attr"])
            else:
                study.system_attrs.update(line["system_attr"])
        else:
            self._update(operation, line)

    def _create_study(self, line: dict[str, Any]) -> None:
        name = line["study_name"]
        if any(study.name == name for study in self._studies.values()):
            return
        self._studies[self._created] = _Study(name, [StudyDirection(d) for d in line["directions"]])
        self._created += 1

    def _create_trial(self, study: _Study, line: dict[str, Any]) -> None:
        distributions = line.get("distributions", {})
        values = line.get("values")
        if values is None and line.get("value") is not None:
            values = [line["value"]]
        trial = _Trial(
            trial_id=len(self._study_of),
            number=study.trials,
            state=TrialState(line.get("state", TrialState.RUNNING)),
            values=values,
            started=_time(line["datetime_start"]),
            completed=_time(line.get("datetime_complete")),
            params={
                name: Param(name, value, distributions[name])
                for name, value in line.get("params", {}).items()
            },
            user_attrs=line.get("user_attrs", {}),
            system_attrs=line.get("system_attrs", {}),
            steps={int(k): v for k, v in line.get("intermediate_values", {}).items()},
        )
        for name, _, text in trial.params.values():
            study.params.setdefault(name, text)
        self._study_of.append(line["study_id"])
        self._number_of.append(study.trials)
        study.trials += 1
        if trial.state.is_finished():
            self._put(line["study_id"], trial)
        else:
            study.unfinished[trial.number] = trial

    def _update(self, operation: JournalOperation, line: dict[str, Any]) -> None:
        trial_id = line["trial_id"]
        if not 0 <= trial_id < len(self._study_of):
            return
        study_id = self._study_of[trial_id]
        study = self._studies.get(study_id)
        if study is None:
            return
        trial = study.unfinished.get(self._number_of[trial_id])
        if trial is None:
            return
        if operation == JournalOperation.SET_TRIAL_PARAM:
            name, text = line["param_name"], line["distribution"]
            if _fits(study.params.setdefault(name, text), text):
                trial.params[name] = Param(name, line["param_value_internal"], text)
        elif operation == JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE:
            trial.steps[line["step"]] = line["intermediate_value"]
        elif operation == JournalOperation.SET_TRIAL_USER_ATTR:
            trial.user_attrs.update(line["user_attr"])
        elif operation == JournalOperation.SET_TRIAL_SYSTEM_ATTR:
            trial.system_attrs.update(line["system_attr"])
        else:
            self._set_state(study, study_id, trial, line)

    def _set_state(self, study: _Study, study_id: int, trial: _Trial, line: dict[str, Any]) -> None:
        state = TrialState(line["state"])
        if state == TrialState.RUNNING == trial.state:
            return
        if state == TrialState.RUNNING:
            trial.started = _time(line["datetime_start"])
        if state.is_finished():
            trial.completed = _time(line["datetime_complete"])
        trial.state = state
        if line["values"] is not None:
            trial.values = line["values"]
        if state.is_finished():
            del study.unfinished[trial.number]
            self._put(study_id, trial)

    def _put(self, study_id: int, trial: _Trial) -> None:
        if self._spool is not None:
            self._spool.put(study_id, trial.record())


def _fits(first: str, text: str) -> bool:
    if first == text:
        return True
    try:
        check_distribution_compatibility(_parse_distribution(first), _parse_distribution(text))
    except ValueError:
        return False
    return True


def _time(text: str | None) -> datetime.datetime | None:
    return None if text is None else datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)

"""The plain case of most batches: reports, tells and openings in one statement.

A write is plain if nothing speaks against it: its trial runs in its session, the names of its
parameters are known and fit, no opening meets a waiting trial, a goal or the end of a study by
anything but its number of trials. A batch that is not plain is applied by
:mod:`~trialfleet.storage.updating` and :mod:`~trialfleet.storage.opening`, which know all cases;
what they know of a plain one is said once more in ``plain.sql``, because there it costs one round
trip instead of a dozen.
"""

import contextlib
import datetime
from collections.abc import Iterable, Sequence
from typing import Any, Final

import psycopg2
import sqlalchemy as sa
from optuna.trial import TrialState

from trialfleet import names
from trialfleet.storage.params import Distributions
from trialfleet.storage.records import (
    Command,
    Ended,
    OpenTrial,
    TrialRecord,
    UpdateTrial,
    Wait,
    WriteId,
)
from trialfleet.storage.writing import TrialWrites, stored_intermediate, stored_value

_APPLY: Final = "SELECT * FROM trialfleet_apply({})"
_TAKE_TURN: Final = "BEGIN; SELECT trialfleet_take_turn({})"
_STUDIES: Final = "SELECT trial_id, study_id FROM trials WHERE trial_id = ANY(%s::int[])"

_REFUSALS: Final = {0: Wait.WAIT, -1: Ended(names.ENDED_TRIALS)}
"""What stands for them in place of a trial's id."""

_MAX_REMEMBERED: Final = 100_000

LEFT: Final = object()
"""In place of the answer of a command that was not applied."""


class Busy(Exception):
    """Another transaction opens trials of the same study; nothing was done."""


def take_turn(studies: Iterable[int]) -> str:
    """Return what begins a transaction, and waits until it may open trials of studies.

    Its row says whether it had to wait.
    """
    return _TAKE_TURN.format(_literal(sorted(studies)))


def rehearsal() -> str:
    """Return a statement like those of batches that changes nothing: there is no such study."""
    batch = PlainBatch()
    batch.add((OpenTrial(-1, WriteId(b"", 0)),))
    return batch.statement()


def may_be_plain(commands: Iterable[Command]) -> bool:
    """Return whether commands are of the kinds of which some are plain."""
    return all(
        isinstance(command, OpenTrial)
        or (isinstance(command, UpdateTrial) and command.state is not TrialState.WAITING)
        for command in commands
    )


class PlainBatch:
    """Commands of the kinds of which some are plain, each of another trial or opening."""

    def __init__(self) -> None:
        self.commands: list[UpdateTrial | OpenTrial] = []
        self._keys: set[int | WriteId] = set()

    def __len__(self) -> int:
        return len(self.commands)

    def add(self, commands: Sequence[Any]) -> bool:
        """Add one caller's commands; return False, and add none, if one has to come later."""
        keys = {
            command.write if isinstance(command, OpenTrial) else command.update.trial_id
            for command in commands
        }
        if len(keys) < len(commands) or not self._keys.isdisjoint(keys):
            return False
        self._keys |= keys
        self.commands += commands
        return True

    @property
    def updates(self) -> list[UpdateTrial]:
        """Those that write to trials."""
        return [command for command in self.commands if isinstance(command, UpdateTrial)]

    @property
    def openings(self) -> list[OpenTrial]:
        """Those that open trials."""
        return [command for command in self.commands if isinstance(command, OpenTrial)]

    def statement(self) -> str:
        """Return the statement that applies what is plain.

        Raises ``ValueError`` for a text that no database takes.
        """
        arrays = (*_of_updates(self.updates), *_of_openings(self.openings))
        return _APPLY.format(", ".join(map(_literal, arrays)))


class PlainWrites:
    """Knows which commands are plain, as far as that can be known before they are applied.

    One thread and one event loop may use it at once.
    """

    def __init__(self, distributions: Distributions) -> None:
        """Take what knows the parameters of studies."""
        self.distributions = distributions
        self._studies: dict[int, int] = {}  # of trials; neither ever changes

    def apply(self, connection: sa.Connection, commands: Sequence[Command]) -> list[Any]:
        """Return the commands' answers, ``LEFT`` for each that remains to be applied.

        The updates are applied all or none, and the openings, after them, all or none.
        """
        batch = PlainBatch()
        if may_be_plain(commands) and batch.add(commands):
            self._learn(connection, batch.updates)
            if self.fit(commands):
                # The ways that know all cases wait for their turn by themselves.
                with contextlib.suppress(Busy):
                    return self.answers(batch, _execute(connection, batch.statement()))
        return [LEFT] * len(commands)

    def fit(self, commands: Sequence[Any]) -> bool:
        """Return whether all parameters are known to be their studies', and fit."""
        updates = [
            command.update
            for command in commands
            if isinstance(command, UpdateTrial) and command.update.params
        ]
        # Looked up once: the other user may forget a trial at any moment.
        found = [(self._studies.get(update.trial_id), update.params) for update in updates]
        known = [(study_id, params) for study_id, params in found if study_id is not None]
        return len(known) == len(found) and self.distributions.fit(known)

    def answers(self, batch: PlainBatch, row: Sequence[Any]) -> list[Any]:
        """Return the answers to a batch's commands, ``LEFT`` for each that was not applied."""
        busy, told, opened, numbers, moment = row
        if busy:
            raise Busy
        trials = iter(()) if opened is None else zip(opened, numbers, strict=True)
        answers: list[Any] = []
        for command in batch.commands:
            if isinstance(command, UpdateTrial):
                answers.append(None if told else LEFT)
                if told and command.state is not None:
                    self._studies.pop(command.update.trial_id, None)
            elif opened is None:
                answers.append(LEFT)
            else:
                trial_id, number = next(trials)
                if trial_id in _REFUSALS:
                    answers.append(_REFUSALS[trial_id])
                    continue
                self.remember(trial_id, command.study_id)
                started = moment.replace(tzinfo=datetime.UTC)
                answers.append(TrialRecord(trial_id, number, TrialState.RUNNING, started=started))
        return answers

    def study(self, trial_id: int) -> int | None:
        """Return a trial's study if it is remembered."""
        return self._studies.get(trial_id)

    def remember(self, trial_id: int, study_id: int) -> None:
        """Take note of a trial's study."""
        while len(self._studies) >= _MAX_REMEMBERED:
            self._studies.pop(next(iter(self._studies)), None)
        self._studies[trial_id] = study_id

    def _learn(self, connection: sa.Connection, commands: Iterable[UpdateTrial]) -> None:
        updates = [command.update for command in commands if command.update.params]
        strange = [u.trial_id for u in updates if u.trial_id not in self._studies]
        if strange:
            for trial_id, study_id in connection.exec_driver_sql(_STUDIES, (strange,)):
                self.remember(trial_id, study_id)
        self.distributions.learn(
            connection,
            {
                (self._studies[update.trial_id], param.name)
                for update in updates
                if update.trial_id in self._studies
                for param in update.params
            },
        )


def _execute(connection: sa.Connection, statement: str) -> Sequence[Any]:
    """Return the row; what SQLAlchemy adds to a statement costs as much as ours."""
    dbapi: Any = connection.connection.dbapi_connection
    try:
        with dbapi.cursor() as cursor:
            cursor.execute(statement)
            row: Sequence[Any] = cursor.fetchone()
            return row
    except psycopg2.Error as error:
        raise sa.exc.DBAPIError(_APPLY, None, error) from error


def _literal(values: Iterable[Any]) -> str:
    """Return an array as a literal: the server reads its text ten times as fast as ARRAY[...]."""
    text = _array(values)
    if "\0" in text:
        # As psycopg2 says it of parameters.
        raise ValueError("A string literal cannot contain NUL (0x00) characters.")
    # A backslash in it is a backslash: see the settings of connections.
    return "'" + text.replace("'", "''") + "'"


def _array(values: Iterable[Any]) -> str:
    """Return PostgreSQL's text of an array."""
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: str | bytes | float | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        value = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{value}"'
    if isinstance(value, bytes):
        return f'"\\\\x{value.hex()}"'
    return str(value)


def _of_updates(commands: Sequence[UpdateTrial]) -> Iterable[list[Any]]:
    rows = TrialWrites()
    for command in commands:
        rows.add_update(command.update)
        rows.add(command.update.trial_id, values=command.values)
    steps = [stored_intermediate(value) for value in rows.steps.values()]
    values = [stored_value(value) for value in rows.values.values()]
    return (
        [command.update.trial_id for command in commands],
        [command.write.session for command in commands],
        [command.write.sequence for command in commands],
        [command.state and command.state.name for command in commands],
        [key[0] for key in rows.params],
        [key[1] for key in rows.params],
        [row[0] for row in rows.params.values()],
        [row[1] for row in rows.params.values()],
        [key[0] for key in rows.user_attrs],
        [key[1] for key in rows.user_attrs],
        list(rows.user_attrs.values()),
        [key[0] for key in rows.system_attrs],
        [key[1] for key in rows.system_attrs],
        list(rows.system_attrs.values()),
        [key[0] for key in rows.steps],
        [key[1] for key in rows.steps],
        [value for value, _ in steps],
        [kind for _, kind in steps],
        [key[0] for key in rows.values],
        [key[1] for key in rows.values],
        [value for value, _ in values],
        [kind for _, kind in values],
    )


def _of_openings(commands: Sequence[OpenTrial]) -> Iterable[list[Any]]:
    return (
        [command.study_id for command in commands],
        [command.write.session for command in commands],
        [command.write.sequence for command in commands],
    )

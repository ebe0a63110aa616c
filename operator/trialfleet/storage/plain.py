"""The plain case of most batches: reports, tells and openings in one statement.

A write is plain if nothing speaks against it: its trial runs in its session, the names of its
parameters are known and fit, no opening meets a waiting trial or the end of a budget. A batch
that is not plain is applied by :mod:`~trialfleet.storage.updating` and
:mod:`~trialfleet.storage.opening`, which know all cases; what they know of a plain one is said
once more in ``plain.sql``, because there it costs one round trip instead of a dozen.
"""

import datetime
from collections.abc import Iterable, Sequence
from typing import Any, Final

import psycopg2
import sqlalchemy as sa
from optuna.trial import TrialState

from trialfleet.storage.params import Distributions
from trialfleet.storage.records import (
    Command,
    OpenTrial,
    TrialRecord,
    UpdateTrial,
)
from trialfleet.storage.writing import TrialWrites, stored_intermediate, stored_value

_APPLY: Final = f"SELECT * FROM trialfleet_apply({', '.join(['%s'] * 25)})"
_STUDIES: Final = "SELECT trial_id, study_id FROM trials WHERE trial_id = ANY(%s::int[])"

_MAX_REMEMBERED: Final = 100_000

LEFT: Final = object()
"""In place of the answer of a command that was not applied."""


class PlainWrites:
    """Applies what is plain of a batch. Belongs to one thread."""

    def __init__(self, distributions: Distributions) -> None:
        """Take what knows the parameters of studies."""
        self._distributions = distributions
        self._studies: dict[int, int] = {}  # of trials; neither ever changes

    def apply(self, connection: sa.Connection, commands: Sequence[Command]) -> list[Any]:
        """Return the commands' answers, ``LEFT`` for each that remains to be applied.

        The updates are applied all or none, and the openings, after them, all or none.
        """
        answers: list[Any] = [LEFT] * len(commands)
        updates, opens = [], []
        for place, command in enumerate(commands):
            if isinstance(command, UpdateTrial) and command.state is not TrialState.WAITING:
                updates.append((place, command))
            elif isinstance(command, OpenTrial):
                opens.append((place, command))
            else:
                return answers
        writes = {command.write for _, command in opens}
        trials = {command.update.trial_id for _, command in updates}
        if len(writes) < len(opens) or len(trials) < len(updates):
            return answers
        if not self._fit(connection, [command for _, command in updates]):
            return answers
        told, opened, numbers, moment = _call(
            connection,
            map(_array, (*_of_updates([command for _, command in updates]), *_of_openings(opens))),
        )
        if told:
            for place, command in updates:
                answers[place] = None
                if command.state is not None:
                    self._studies.pop(command.update.trial_id, None)
        if opened is not None:
            started = moment.replace(tzinfo=datetime.UTC)
            for (place, command), trial_id, number in zip(opens, opened, numbers, strict=True):
                self._remember(trial_id, command.study_id)
                answers[place] = TrialRecord(trial_id, number, TrialState.RUNNING, started=started)
        return answers

    def _fit(self, connection: sa.Connection, commands: Iterable[UpdateTrial]) -> bool:
        """Return whether all parameters are known to their studies and fit."""
        updates = [command.update for command in commands if command.update.params]
        strange = [u.trial_id for u in updates if u.trial_id not in self._studies]
        if strange:
            for trial_id, study_id in connection.exec_driver_sql(_STUDIES, (strange,)):
                self._remember(trial_id, study_id)
        if not all(update.trial_id in self._studies for update in updates):
            return False
        return self._distributions.fit(
            connection, [(self._studies[update.trial_id], update.params) for update in updates]
        )

    def _remember(self, trial_id: int, study_id: int) -> None:
        if len(self._studies) >= _MAX_REMEMBERED:
            del self._studies[next(iter(self._studies))]
        self._studies[trial_id] = study_id


def _call(connection: sa.Connection, arguments: Iterable[str]) -> Sequence[Any]:
    """Return the row of the function; what SQLAlchemy adds to a statement costs as much as ours."""
    dbapi: Any = connection.connection.dbapi_connection
    try:
        with dbapi.cursor() as cursor:
            cursor.execute(_APPLY, tuple(arguments))
            row: Sequence[Any] = cursor.fetchone()
            return row
    except psycopg2.Error as error:
        raise sa.exc.DBAPIError(_APPLY, None, error) from error


def _array(values: Iterable[Any]) -> str:
    """Return PostgreSQL's text of an array: the server reads it ten times as fast as ARRAY[...]."""
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


def _of_openings(opens: Sequence[tuple[int, OpenTrial]]) -> Iterable[list[Any]]:
    return (
        [command.study_id for _, command in opens],
        [command.write.session for _, command in opens],
        [command.write.sequence for _, command in opens],
    )

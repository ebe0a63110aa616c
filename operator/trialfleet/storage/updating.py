"""Writes to trials that exist: many of them in a few statements."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from optuna.trial import TrialState

from trialfleet.errors import NotFound, SessionGivenUp, TrialFinished, TrialfleetError
from trialfleet.storage.params import Distributions
from trialfleet.storage.records import Param, TrialUpdate, UpdateTrial, WriteTrial

# The rows are locked in the order of their ids: no two batches wait for each other in a ring.
_LOCK: Final = sa.text(
    """
    SELECT trial_id, study_id, state FROM trials
    WHERE trial_id = ANY(CAST(:ids AS int[])) ORDER BY trial_id FOR NO KEY UPDATE
    """
)

# A statement of its own: one that had to wait for a lock sees the locked row as it is then, but
# the rows that it joins as they were before.
_OWNERS: Final = sa.text(
    """
    SELECT trial_id, session_id, opened, sequence, taken_away FROM trialfleet_runs
    WHERE trial_id = ANY(CAST(:ids AS int[]))
    """
)

_RETURNED: Final = sa.text(
    """
    SELECT trial_id, session_id, max(sequence) FROM trialfleet_returns
    WHERE trial_id = ANY(CAST(:ids AS int[])) GROUP BY trial_id, session_id
    """
)

_PARAMS: Final = sa.text(
    """
    INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT * FROM unnest(CAST(:ids AS int[]), CAST(:names AS text[]), CAST(:values AS float8[]),
        CAST(:texts AS text[]))
    ON CONFLICT (trial_id, param_name) DO UPDATE
    SET param_value = excluded.param_value, distribution_json = excluded.distribution_json
    """
)


def _attributes(table: str) -> sa.TextClause:
    return sa.text(
        f"""
        INSERT INTO {table} (trial_id, key, value_json)
        SELECT * FROM unnest(CAST(:ids AS int[]), CAST(:names AS text[]), CAST(:texts AS text[]))
        ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json
        """
    )


_USER_ATTRS: Final = _attributes("trial_user_attributes")
_SYSTEM_ATTRS: Final = _attributes("trial_system_attributes")

_STEPS: Final = sa.text(
    """
    INSERT INTO trial_intermediate_values
        (trial_id, step, intermediate_value, intermediate_value_type)
    SELECT * FROM unnest(CAST(:ids AS int[]), CAST(:steps AS int[]), CAST(:values AS float8[]),
        CAST(CAST(:types AS text[]) AS trialintermediatevaluetype[]))
    ON CONFLICT (trial_id, step) DO UPDATE SET intermediate_value = excluded.intermediate_value,
        intermediate_value_type = excluded.intermediate_value_type
    """
)

_VALUES: Final = sa.text(
    """
    INSERT INTO trial_values (trial_id, objective, value, value_type)
    SELECT * FROM unnest(CAST(:ids AS int[]), CAST(:objectives AS int[]),
        CAST(:values AS float8[]), CAST(CAST(:types AS text[]) AS trialvaluetype[]))
    ON CONFLICT (trial_id, objective) DO UPDATE
    SET value = excluded.value, value_type = excluded.value_type
    """
)

# As Optuna does: naive UTC; a trial that starts gets its start, one that ends its end.
_STATES: Final = sa.text(
    """
    UPDATE trials t SET state = CAST(u.state AS trialstate),
        datetime_start = CASE WHEN u.state = 'RUNNING'
            THEN clock_timestamp() AT TIME ZONE 'UTC' ELSE t.datetime_start END,
        datetime_complete = CASE WHEN u.state IN ('COMPLETE', 'PRUNED', 'FAIL')
            THEN clock_timestamp() AT TIME ZONE 'UTC' ELSE t.datetime_complete END
    FROM unnest(CAST(:ids AS int[]), CAST(:states AS text[])) AS u (trial_id, state)
    WHERE t.trial_id = u.trial_id
    """
)

_SEQUENCES: Final = sa.text(
    """
    UPDATE trialfleet_runs r SET sequence = u.sequence
    FROM unnest(CAST(:ids AS int[]), CAST(:sequences AS bigint[])) AS u (trial_id, sequence)
    WHERE r.trial_id = u.trial_id
    """
)

_HAND_BACK: Final = (
    sa.text("DELETE FROM trial_intermediate_values WHERE trial_id = ANY(CAST(:ids AS int[]))"),
    # What its last worker may still send is refused.
    sa.text(
        "UPDATE trialfleet_runs SET taken_away = true WHERE trial_id = ANY(CAST(:ids AS int[]))"
    ),
)
_RETURN: Final = sa.text(
    """
    INSERT INTO trialfleet_returns (session_id, opened, trial_id, sequence)
    SELECT r.session_id, r.opened, r.trial_id, u.sequence FROM trialfleet_runs r
    JOIN unnest(CAST(:ids AS int[]), CAST(:sequences AS bigint[])) AS u (trial_id, sequence)
    USING (trial_id)
    """
)


def _stored_value(value: float) -> tuple[float | None, str]:
    if value == math.inf:
        return None, "INF_POS"
    if value == -math.inf:
        return None, "INF_NEG"
    return value, "FINITE"


def _stored_intermediate(value: float) -> tuple[float | None, str]:
    return (None, "NAN") if math.isnan(value) else _stored_value(value)


@dataclass(slots=True)
class TrialWrites:
    """Rows to be written for any number of trials, column by column."""

    params: dict[tuple[int, str], tuple[float, str]] = field(default_factory=dict)
    user_attrs: dict[tuple[int, str], str] = field(default_factory=dict)
    system_attrs: dict[tuple[int, str], str] = field(default_factory=dict)
    steps: dict[tuple[int, int], float] = field(default_factory=dict)
    values: dict[tuple[int, int], float] = field(default_factory=dict)
    states: dict[int, TrialState] = field(default_factory=dict)
    sequences: dict[int, int] = field(default_factory=dict)
    handed_back: list[int] = field(default_factory=list)
    returned: dict[int, int] = field(default_factory=dict)
    """By what write those of ``handed_back`` were whose session lives on."""

    def add(
        self,
        trial_id: int,
        *,
        params: Sequence[Param] = (),
        user_attrs: Sequence[tuple[str, str]] = (),
        system_attrs: Sequence[tuple[str, str]] = (),
        intermediate_values: Sequence[tuple[int, float]] = (),
        values: Sequence[float] | None = None,
    ) -> None:
        """Add what belongs to one trial; of two rows with the same key the later one stays."""
        for name, value, distribution_json in params:
            self.params[trial_id, name] = (value, distribution_json)
        for key, value_json in user_attrs:
            self.user_attrs[trial_id, key] = value_json
        for key, value_json in system_attrs:
            self.system_attrs[trial_id, key] = value_json
        for step, number in intermediate_values:
            self.steps[trial_id, step] = number
        for objective, number in enumerate(values or ()):
            self.values[trial_id, objective] = number

    def add_update(self, update: TrialUpdate) -> None:
        """Add all of an update."""
        self.add(
            update.trial_id,
            params=update.params,
            user_attrs=update.user_attrs,
            system_attrs=update.system_attrs,
            intermediate_values=update.intermediate_values,
        )

    def execute(self, connection: sa.Connection) -> None:
        """Write the rows."""
        if self.params:
            connection.execute(
                _PARAMS,
                {
                    "ids": [key[0] for key in self.params],
                    "names": [key[1] for key in self.params],
                    "values": [row[0] for row in self.params.values()],
                    "texts": [row[1] for row in self.params.values()],
                },
            )
        for statement, attrs in (
            (_USER_ATTRS, self.user_attrs),
            (_SYSTEM_ATTRS, self.system_attrs),
        ):
            if attrs:
                connection.execute(
                    statement,
                    {
                        "ids": [key[0] for key in attrs],
                        "names": [key[1] for key in attrs],
                        "texts": list(attrs.values()),
                    },
                )
        if self.steps:
            stored = [_stored_intermediate(value) for value in self.steps.values()]
            connection.execute(
                _STEPS,
                {
                    "ids": [key[0] for key in self.steps],
                    "steps": [key[1] for key in self.steps],
                    "values": [value for value, _ in stored],
                    "types": [kind for _, kind in stored],
                },
            )
        if self.handed_back:
            for statement in _HAND_BACK:
                connection.execute(statement, {"ids": self.handed_back})
        if self.returned:
            connection.execute(
                _RETURN,
                {"ids": list(self.returned), "sequences": list(self.returned.values())},
            )
        if self.values:
            stored = [_stored_value(value) for value in self.values.values()]
            connection.execute(
                _VALUES,
                {
                    "ids": [key[0] for key in self.values],
                    "objectives": [key[1] for key in self.values],
                    "values": [value for value, _ in stored],
                    "types": [kind for _, kind in stored],
                },
            )
        if self.sequences:
            connection.execute(
                _SEQUENCES,
                {"ids": list(self.sequences), "sequences": list(self.sequences.values())},
            )
        if self.states:
            connection.execute(
                _STATES,
                {"ids": list(self.states), "states": [s.name for s in self.states.values()]},
            )


def update_trials(
    connection: sa.Connection,
    commands: Sequence[UpdateTrial | WriteTrial],
    distributions: Distributions,
) -> list[Any]:
    """Apply writes to trials; return for each its answer or the error that it ends with."""
    ids = sorted({command.update.trial_id for command in commands})
    rows = {row.trial_id: row for row in connection.execute(_LOCK, {"ids": ids})}
    owners = {row.trial_id: row for row in connection.execute(_OWNERS, {"ids": list(rows)})}
    returned = _read_returned(connection, commands, owners)
    studies = {trial_id: row.study_id for trial_id, row in rows.items()}
    distributions.learn(
        connection,
        {
            (studies[command.update.trial_id], param.name)
            for command in commands
            if command.update.trial_id in studies
            for param in command.update.params
        },
    )
    writes = TrialWrites()
    answers: list[Any] = []
    for command in commands:
        row = rows.get(command.update.trial_id)
        try:
            if row is None:
                raise NotFound(f"no trial has the id {command.update.trial_id}")
            distributions.check(connection, row.study_id, command.update.params)
            if isinstance(command, UpdateTrial):
                if _owns(command, owners) or not _repeats(command, returned):
                    _update(writes, command, row, owners)
                answers.append(None)
            else:
                answers.append(_write(writes, command, row))
        except TrialfleetError as error:
            answers.append(error)
    writes.execute(connection)
    return answers


def _owns(command: UpdateTrial, owners: dict[int, sa.Row[Any]]) -> bool:
    owner = owners.get(command.update.trial_id)
    return (
        owner is not None
        and bytes(owner.session_id) == command.write.session
        and not owner.taken_away
    )


def _read_returned(
    connection: sa.Connection,
    commands: Sequence[UpdateTrial | WriteTrial],
    owners: dict[int, sa.Row[Any]],
) -> dict[tuple[int, bytes], int]:
    """Return the last write by which a session handed a trial back, of those in doubt."""
    doubtful = {
        command.update.trial_id
        for command in commands
        if isinstance(command, UpdateTrial) and not _owns(command, owners)
    }
    if not doubtful:
        return {}
    rows = connection.execute(_RETURNED, {"ids": sorted(doubtful)})
    return {(trial_id, bytes(session)): sequence for trial_id, session, sequence in rows}


def _repeats(command: UpdateTrial, returned: dict[tuple[int, bytes], int]) -> bool:
    """Whether a write came no later than the one that handed its trial back."""
    return command.write.sequence <= returned.get(
        (command.update.trial_id, command.write.session), 0
    )


def _update(
    writes: TrialWrites,
    command: UpdateTrial,
    row: sa.Row[Any],
    owners: dict[int, sa.Row[Any]],
) -> None:
    trial_id, sequence = row.trial_id, command.write.sequence
    if not _owns(command, owners):
        raise SessionGivenUp(f"trial {trial_id} was taken away from the session")
    # A report gives way to a newer one. What ends the trial is its last word whatever its number,
    # unless it is of an earlier run.
    newest = max(owners[trial_id].sequence, writes.sequences.get(trial_id, 0))
    if sequence <= (newest if command.state is None else owners[trial_id].opened):
        return
    state = writes.states.get(trial_id, TrialState[row.state])
    if state != TrialState.RUNNING:
        if command.state not in (None, state):
            raise SessionGivenUp(f"trial {trial_id} was ended by another: {state.name}")
        # Its own session ended it already: this is the same write once more, or an older one.
        return
    writes.add_update(command.update)
    writes.add(trial_id, values=command.values)
    if command.state is None:
        writes.sequences[trial_id] = sequence
    else:
        writes.states[trial_id] = command.state
        if command.state == TrialState.WAITING:
            writes.handed_back.append(trial_id)
            writes.returned[trial_id] = sequence


def _write(writes: TrialWrites, command: WriteTrial, row: sa.Row[Any]) -> bool:
    trial_id = row.trial_id
    state = writes.states.get(trial_id, TrialState[row.state])
    if state.is_finished():
        raise TrialFinished(f"trial {trial_id} is finished: {state.name}")
    if command.state == TrialState.RUNNING and state != TrialState.WAITING:
        return False
    writes.add_update(command.update)
    writes.add(trial_id, values=command.values)
    if command.state is not None and command.state != state:
        writes.states[trial_id] = command.state
    return True

"""Writes to trials that exist: whose they are, and which of them come too late."""

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from optuna.trial import TrialState

from trialfleet.model.errors import (
    InvalidInput,
    NotFound,
    SessionGivenUp,
    TrialFinished,
    TrialfleetError,
)
from trialfleet.storage.params import Distributions
from trialfleet.storage.records import UpdateTrial, WriteTrial
from trialfleet.storage.writing import TrialWrites

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
    misfits = _check(connection, commands, rows, owners, distributions)
    writes = TrialWrites()
    answers: list[Any] = []
    for place, command in enumerate(commands):
        row = rows.get(command.update.trial_id)
        try:
            if row is None:
                raise NotFound(f"no trial has the id {command.update.trial_id}")
            if place in misfits:
                raise misfits[place]
            if isinstance(command, WriteTrial):
                answers.append(_write(writes, command, row))
                continue
            if _owns(command, owners) or not _repeats(command, returned):
                _update(writes, command, row, owners)
            answers.append(None)
        except TrialfleetError as error:
            answers.append(error)
    writes.execute(connection)
    return answers


def _check(
    connection: sa.Connection,
    commands: Sequence[UpdateTrial | WriteTrial],
    rows: dict[int, sa.Row[Any]],
    owners: dict[int, sa.Row[Any]],
    distributions: Distributions,
) -> dict[int, InvalidInput]:
    """Return what is wrong with the parameters of those commands that may be applied."""
    places = [
        place
        for place, command in enumerate(commands)
        if command.update.params
        and (row := rows.get(command.update.trial_id)) is not None
        and not TrialState[row.state].is_finished()
        and (isinstance(command, WriteTrial) or _owns(command, owners))
    ]
    updates = [commands[place].update for place in places]
    errors = distributions.check(
        connection, [(rows[update.trial_id].study_id, update.params) for update in updates]
    )
    return {place: error for place, error in zip(places, errors, strict=True) if error is not None}


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

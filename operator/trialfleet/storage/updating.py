"""Writes to trials that exist: whose they are, and which of them come too late."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from optuna.trial import TrialState

from trialfleet.model.errors import (
    InvalidInput,
    NotFound,
    SessionGivenUp,
    TrialFinished,
    TrialfleetError,
)
from trialfleet.storage.commands import UpdateTrial, WriteTrial
from trialfleet.storage.params import Distributions
from trialfleet.storage.transaction import Statement, Transaction
from trialfleet.storage.trial_rows import TrialWrites

# The rows are locked in the order of their ids: no two batches wait for each other in a ring.
_LOCK: Final = Statement(
    "lock_trials",
    ("int[]",),
    "SELECT FROM trials WHERE trial_id = ANY ($1) ORDER BY trial_id FOR NO KEY UPDATE",
)

# A statement of its own: one that had to wait for a lock sees the locked row as it is then, but
# the rows that it joins as they were before.
_READ: Final = Statement(
    "read_trials",
    ("int[]",),
    """
    SELECT t.trial_id, t.study_id, t.state::text, r.session_id, r.opened, r.sequence, r.ended,
        r.taken_away
    FROM trials t LEFT JOIN LATERAL (SELECT * FROM trialfleet_runs r
        WHERE r.trial_id = t.trial_id OFFSET 0) AS r ON true
    WHERE t.trial_id = ANY ($1)
    """,
)

_RETURNED: Final = Statement(
    "read_returns",
    ("int[]",),
    """
    SELECT trial_id, session_id, max(sequence) FROM trialfleet_returns
    WHERE trial_id = ANY ($1) GROUP BY trial_id, session_id
    """,
)


@dataclass(frozen=True, slots=True)
class _Trial:
    """A trial that is written to, and the session that runs or ran it."""

    trial_id: int
    study_id: int
    state: TrialState
    session: bytes | None
    opened: int
    """The write that opened it."""
    sequence: int
    """The last report, or the opening."""
    ended: int | None
    """The write of its own session that ended it."""
    taken_away: bool

    def belongs_to(self, session: bytes) -> bool:
        return self.session == session and not self.taken_away


def update_trials(
    transaction: Transaction,
    commands: Sequence[UpdateTrial | WriteTrial],
    distributions: Distributions,
) -> list[Any]:
    """Apply writes to trials; return for each its answer or the error that it ends with."""
    trials = _lock(transaction, sorted({command.update.trial_id for command in commands}))
    returned = _read_returned(transaction, commands, trials)
    misfits = _check(transaction, commands, trials, distributions)
    writes = TrialWrites()
    answers: list[Any] = []
    for place, command in enumerate(commands):
        trial = trials.get(command.update.trial_id)
        try:
            if trial is None:
                raise NotFound(f"no trial has the id {command.update.trial_id}")
            if place in misfits:
                raise misfits[place]
            if isinstance(command, WriteTrial):
                answers.append(_write(writes, command, trial))
                continue
            if trial.belongs_to(command.write.session) or not _repeats(command, returned):
                _update(writes, command, trial)
            answers.append(None)
        except TrialfleetError as error:
            answers.append(error)
    writes.execute(transaction)
    return answers


def _lock(transaction: Transaction, ids: Sequence[int]) -> dict[int, _Trial]:
    transaction.do(_LOCK, ids)
    return {
        row[0]: _Trial(
            trial_id=row[0],
            study_id=row[1],
            state=TrialState[row[2]],
            session=None if row[3] is None else bytes(row[3]),
            opened=row[4] or 0,
            sequence=row[5] or 0,
            ended=row[6],
            taken_away=bool(row[7]),
        )
        for row in transaction.rows(_READ, ids)
    }


def _check(
    transaction: Transaction,
    commands: Sequence[UpdateTrial | WriteTrial],
    trials: dict[int, _Trial],
    distributions: Distributions,
) -> dict[int, InvalidInput]:
    """Return what is wrong with the parameters of those commands that may be applied."""
    places = [
        place
        for place, command in enumerate(commands)
        if command.update.params
        and (trial := trials.get(command.update.trial_id)) is not None
        and not trial.state.is_finished()
        and (isinstance(command, WriteTrial) or trial.belongs_to(command.write.session))
    ]
    updates = [commands[place].update for place in places]
    errors = distributions.check(
        transaction, [(trials[update.trial_id].study_id, update.params) for update in updates]
    )
    return {place: error for place, error in zip(places, errors, strict=True) if error is not None}


def _read_returned(
    transaction: Transaction,
    commands: Sequence[UpdateTrial | WriteTrial],
    trials: dict[int, _Trial],
) -> dict[tuple[int, bytes], int]:
    """Return the last write by which a session handed a trial back, of those in doubt."""
    doubtful = {
        command.update.trial_id
        for command in commands
        if isinstance(command, UpdateTrial)
        and (trial := trials.get(command.update.trial_id)) is not None
        and not trial.belongs_to(command.write.session)
    }
    if not doubtful:
        return {}
    rows = transaction.rows(_RETURNED, sorted(doubtful))
    return {(trial_id, bytes(session)): sequence for trial_id, session, sequence in rows}


def _repeats(command: UpdateTrial, returned: dict[tuple[int, bytes], int]) -> bool:
    """Whether a write came no later than the one that handed its trial back."""
    return command.write.sequence <= returned.get(
        (command.update.trial_id, command.write.session), 0
    )


def _update(writes: TrialWrites, command: UpdateTrial, trial: _Trial) -> None:
    trial_id, sequence = trial.trial_id, command.write.sequence
    if not trial.belongs_to(command.write.session):
        raise SessionGivenUp(f"trial {trial_id} was taken away from the session")
    # A report gives way to a newer one. What ends the trial is its last word whatever its number,
    # unless it is of an earlier run.
    newest = max(trial.sequence, writes.sequences.get(trial_id, 0))
    if sequence <= (newest if command.state is None else trial.opened):
        return
    state = writes.states.get(trial_id, trial.state)
    if state != TrialState.RUNNING:
        # That it has the state which is asked for does not prove that this write was applied.
        ended = writes.ended.get(trial_id, trial.ended)
        if ended is None or (command.state is not None and ended != sequence):
            raise SessionGivenUp(f"trial {trial_id} was ended by another: {state.name}")
        return
    writes.add_update(command.update)
    writes.add(trial_id, values=command.values)
    if command.state is None:
        writes.sequences[trial_id] = sequence
        return
    writes.states[trial_id] = command.state
    writes.ended[trial_id] = sequence
    if command.state == TrialState.WAITING:
        writes.handed_back.append(trial_id)
        writes.returned[trial_id] = sequence
    else:
        writes.sequences[trial_id] = newest


def _write(writes: TrialWrites, command: WriteTrial, trial: _Trial) -> bool:
    trial_id = trial.trial_id
    state = writes.states.get(trial_id, trial.state)
    if state.is_finished():
        raise TrialFinished(f"trial {trial_id} is finished: {state.name}")
    if command.state == TrialState.RUNNING and state != TrialState.WAITING:
        return False
    writes.add_update(command.update)
    writes.add(trial_id, values=command.values)
    if command.state is not None and command.state != state:
        writes.states[trial_id] = command.state
    return True

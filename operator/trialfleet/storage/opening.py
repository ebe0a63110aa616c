"""Opening trials: numbered under the study's lock, within its budget."""

import datetime
from collections.abc import Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from optuna.trial import TrialState

from trialfleet import names
from trialfleet.model.errors import NotFound, SessionGivenUp, StudyEnded, TrialfleetError
from trialfleet.storage.params import Distributions
from trialfleet.storage.reading import Standing, read_standings, read_trials, require_study
from trialfleet.storage.records import (
    CreateTrial,
    Ended,
    OpenTrial,
    TrialCreated,
    TrialRecord,
    Wait,
    WriteId,
)
from trialfleet.storage.writing import TrialWrites

# Against the lock that Optuna's RDBStorage takes when it numbers a trial, which is FOR UPDATE.
# This weaker one lets rows that refer to the study be written meanwhile.
_LOCK_STUDIES: Final = sa.text(
    "SELECT study_id FROM studies WHERE study_id = ANY(CAST(:ids AS int[])) "
    "ORDER BY study_id FOR NO KEY UPDATE"
)

# The lock is against giving the session up at the same time, which takes FOR UPDATE. A trial
# that the same write opens elsewhere meanwhile is not seen yet: then inserting its run fails,
# and the transaction begins anew.
_SESSIONS: Final = sa.text(
    """
    SELECT s.session_id, u.opened, s.ended_at IS NULL AS alive,
        coalesce(
            (SELECT r.trial_id FROM trialfleet_runs r
                WHERE r.session_id = s.session_id AND r.opened = u.opened),
            (SELECT b.trial_id FROM trialfleet_returns b
                WHERE b.session_id = s.session_id AND b.opened = u.opened)) AS trial_id
    FROM trialfleet_sessions s
    JOIN unnest(CAST(:sessions AS bytea[]), CAST(:sequences AS bigint[])) AS u (session_id, opened)
        USING (session_id)
    ORDER BY s.session_id FOR KEY SHARE OF s
    """
)

_RENEW: Final = sa.text("SELECT trialfleet_renew(CAST(:sessions AS bytea[]))")

_LAST_NUMBER: Final = """
    coalesce((SELECT l.number FROM trials l WHERE l.study_id = {study} AND l.number IS NOT NULL
        ORDER BY l.number DESC LIMIT 1), -1)
"""

_POP: Final = sa.text(
    """
    SELECT u.study_id, w.trial_id
    FROM unnest(CAST(:ids AS int[]), CAST(:limits AS int[])) AS u (study_id, n)
    CROSS JOIN LATERAL (
        SELECT t.trial_id FROM trials t WHERE t.study_id = u.study_id AND t.state = 'WAITING'
        ORDER BY t.trial_id LIMIT u.n FOR NO KEY UPDATE SKIP LOCKED) AS w
    ORDER BY w.trial_id
    """
)

# Numbers follow the order of ids: Optuna numbers a trial by counting those with a lower id.
_INSERT: Final = sa.text(
    f"""
    INSERT INTO trials (study_id, number, state, datetime_start)
    SELECT u.study_id, {_LAST_NUMBER.format(study="u.study_id")}
        + row_number() OVER (PARTITION BY u.study_id ORDER BY u.place), 'RUNNING',
        clock_timestamp() AT TIME ZONE 'UTC'
    FROM unnest(CAST(:ids AS int[])) WITH ORDINALITY AS u (study_id, place) ORDER BY u.place
    RETURNING trial_id, study_id, number, datetime_start
    """
)

_OWN: Final = sa.text(
    """
    INSERT INTO trialfleet_runs (trial_id, session_id, opened, sequence)
    SELECT u.*, u.opened FROM unnest(CAST(:ids AS int[]), CAST(:sessions AS bytea[]),
        CAST(:opened AS bigint[])) AS u (trial_id, session_id, opened)
    ON CONFLICT (trial_id) DO UPDATE SET session_id = excluded.session_id,
        opened = excluded.opened, sequence = excluded.sequence, taken_away = false
    """
)

_STARTED: Final = sa.text(
    """
    UPDATE trialfleet_studies SET started_at = clock_timestamp()
    WHERE study_id = ANY(CAST(:ids AS int[])) AND started_at IS NULL
    """
)

# The study comes from an array as above: for one that is named PostgreSQL plans by how many trials
# it had when statistics were last made, and sorts all it has since.
_INSERT_TEMPLATE: Final = sa.text(
    f"""
    INSERT INTO trials (study_id, number, state, datetime_start, datetime_complete)
    SELECT u.study_id, {_LAST_NUMBER.format(study="u.study_id")} + 1, CAST(:state AS trialstate),
        :started, :completed
    FROM unnest(ARRAY[CAST(:study_id AS int)]) AS u (study_id)
    RETURNING trial_id, number
    """
)
Opener = OpenTrial | CreateTrial


def lock_studies(connection: sa.Connection, ids: Iterable[int]) -> None:
    """Take the lock under which trials are numbered, for several studies without a deadlock."""
    connection.execute(_LOCK_STUDIES, {"ids": sorted(ids)})


def lock_openings(connection: sa.Connection, commands: Sequence[Opener]) -> None:
    """Take the locks that :func:`open_trials` takes, before any of a trial is taken."""
    _read_sessions(connection, [c.write for c in commands if c.write is not None])
    lock_studies(connection, {command.study_id for command in commands})


def create_trial(
    connection: sa.Connection,
    study_id: int,
    template: TrialRecord,
    distributions: Distributions,
) -> TrialCreated:
    """Add a copy of a caller's template to a study.

    Raises :class:`NotFound`, or :class:`InvalidInput` for a parameter that does not fit.
    """
    lock_studies(connection, [study_id])
    require_study(connection, study_id)
    (error,) = distributions.check(connection, [(study_id, template.params)])
    if error is not None:
        raise error
    return insert_trial(connection, study_id, template)


def insert_trial(connection: sa.Connection, study_id: int, template: TrialRecord) -> TrialCreated:
    """Add a copy of a template to a study. Raises :class:`NotFound`."""
    lock_studies(connection, [study_id])
    require_study(connection, study_id)
    trial_id, number = connection.execute(
        _INSERT_TEMPLATE,
        {
            "study_id": study_id,
            "state": template.state.name,
            "started": _naive(template.started),
            "completed": _naive(template.completed),
        },
    ).one()
    writes = TrialWrites()
    writes.add(
        trial_id,
        params=template.params,
        user_attrs=template.user_attrs,
        system_attrs=template.system_attrs,
        intermediate_values=template.intermediate_values,
        values=template.values,
    )
    writes.execute(connection)
    return TrialCreated(trial_id, number)


def _naive(time: datetime.datetime | None) -> datetime.datetime | None:
    return None if time is None else time.replace(tzinfo=None)


def open_trials(connection: sa.Connection, commands: Sequence[Opener]) -> list[Any]:
    """Open trials, at most as many as the budgets allow; return each command's answer or error.

    The commands are :class:`OpenTrial`, or :class:`CreateTrial` without a template.
    """
    study_ids = sorted({command.study_id for command in commands})
    sessions = _read_sessions(connection, [c.write for c in commands if c.write is not None])
    if sessions:
        connection.execute(_RENEW, {"sessions": [write.session for write in sessions]})
    lock_studies(connection, study_ids)
    standings = read_standings(connection, study_ids)
    free = {study_id: standing.free for study_id, standing in standings.items()}

    answers: list[Any] = [None] * len(commands)
    trial_ids: dict[int, int] = {}  # of the trials opened, by the command's place
    first: dict[WriteId, int] = {}  # place of a write that came twice in this batch
    admitted: list[int] = []
    for place, command in enumerate(commands):
        try:
            standing = standings.get(command.study_id)
            if standing is None:
                raise NotFound(f"no study has the id {command.study_id}")
            if command.write is not None:
                if command.write in first:
                    continue
                first[command.write] = place
                opened_before = _opened_before(sessions, command.write)
                if opened_before is not None:
                    trial_ids[place] = opened_before
                    continue
                answers[place] = _refusal(command, standing, free[command.study_id])
                if answers[place] is not None:
                    continue
            admitted.append(place)
            left = free[command.study_id]
            if left is not None:
                free[command.study_id] = left - 1
        except TrialfleetError as error:
            answers[place] = error

    popped = _pop_waiting(connection, commands, admitted, standings)
    rest = [place for place in admitted if place not in popped]
    for place in rest:
        if _takes_waiting_only(commands[place], standings):
            answers[place] = Wait.WAIT
    added = _insert(connection, commands, [place for place in rest if answers[place] is None])
    trial_ids |= popped
    _own(connection, commands, popped, added)
    unstarted = {commands[place].study_id for place in admitted}
    unstarted = {i for i in unstarted if standings[i].managed and standings[i].started is None}
    if unstarted:
        connection.execute(_STARTED, {"ids": sorted(unstarted)})

    records = read_trials(connection, trial_ids.values()) if trial_ids else {}
    for place, trial_id in trial_ids.items():
        answers[place] = _answer(commands[place], records[trial_id])
    for place, record in added.items():
        answers[place] = _answer(commands[place], record)
    for place, command in enumerate(commands):
        if command.write is not None and answers[place] is None:
            answers[place] = answers[first[command.write]]
    return answers


def _read_sessions(
    connection: sa.Connection, writes: Sequence[WriteId]
) -> dict[WriteId, tuple[bool, int | None]]:
    if not writes:
        return {}
    rows = connection.execute(
        _SESSIONS,
        {
            "sessions": [write.session for write in writes],
            "sequences": [write.sequence for write in writes],
        },
    )
    return {
        WriteId(bytes(session), opened): (alive, trial_id)
        for session, opened, alive, trial_id in rows
    }


def _opened_before(sessions: dict[WriteId, tuple[bool, int | None]], write: WriteId) -> int | None:
    alive, trial_id = sessions.get(write, (False, None))
    if not alive:
        raise SessionGivenUp("the session was given up or never opened: open another")
    return trial_id


def _refusal(command: Opener, standing: Standing, free: int | None) -> Wait | Ended | None:
    stopped = standing.ended == names.ENDED_STOPPED
    if (free is None or free > 0) and not (stopped and isinstance(command, CreateTrial)):
        return None
    reason = standing.ended or names.ENDED_TRIALS
    if isinstance(command, CreateTrial):
        raise StudyEnded(reason)
    return Ended(reason) if standing.over else Wait.WAIT


def _takes_waiting_only(command: Opener, standings: dict[int, Standing]) -> bool:
    stopped = standings[command.study_id].ended == names.ENDED_STOPPED
    return stopped and command.write is not None


def _pop_waiting(
    connection: sa.Connection,
    commands: Sequence[Opener],
    admitted: Sequence[int],
    standings: dict[int, Standing],
) -> dict[int, int]:
    """Give waiting trials to commands; return the trials' ids by the commands' places."""
    takers: dict[int, list[int]] = {}
    for place in admitted:
        study_id = commands[place].study_id
        if isinstance(commands[place], OpenTrial) and standings[study_id].counts.waiting > 0:
            takers.setdefault(study_id, []).append(place)
    if not takers:
        return {}
    rows = connection.execute(
        _POP, {"ids": list(takers), "limits": [len(places) for places in takers.values()]}
    ).all()
    queues = {study_id: iter(places) for study_id, places in takers.items()}
    popped = {next(queues[study_id]): trial_id for study_id, trial_id in rows}
    writes = TrialWrites(states=dict.fromkeys(popped.values(), TrialState.RUNNING))
    writes.execute(connection)
    return popped


def _insert(
    connection: sa.Connection, commands: Sequence[Opener], places: Sequence[int]
) -> dict[int, TrialRecord]:
    if not places:
        return {}
    rows = connection.execute(_INSERT, {"ids": [commands[place].study_id for place in places]})
    queues: dict[int, list[sa.Row[Any]]] = {}
    for row in sorted(rows, key=lambda row: -row.trial_id):
        queues.setdefault(row.study_id, []).append(row)
    added = {}
    for place in places:
        row = queues[commands[place].study_id].pop()
        added[place] = TrialRecord(
            trial_id=row.trial_id,
            number=row.number,
            state=TrialState.RUNNING,
            started=row.datetime_start.replace(tzinfo=datetime.UTC),
        )
    return added


def _own(
    connection: sa.Connection,
    commands: Sequence[Opener],
    popped: dict[int, int],
    added: dict[int, TrialRecord],
) -> None:
    owned = popped | {place: record.trial_id for place, record in added.items()}
    ids, sessions, opened = [], [], []
    for place, trial_id in owned.items():
        write = commands[place].write
        if write is not None:
            ids.append(trial_id)
            sessions.append(write.session)
            opened.append(write.sequence)
    if ids:
        connection.execute(_OWN, {"ids": ids, "sessions": sessions, "opened": opened})


def _answer(command: Opener, record: TrialRecord) -> TrialRecord | TrialCreated:
    if isinstance(command, OpenTrial):
        return record
    return TrialCreated(record.trial_id, record.number)

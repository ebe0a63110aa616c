"""Opening trials: numbered under the study's lock, within its budget."""

import datetime
from collections.abc import Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from optuna.trial import TrialState

from trialfleet import names
from trialfleet.model.errors import NotFound, SessionGivenUp, StudyEnded, TrialfleetError
from trialfleet.model.session import WriteId
from trialfleet.model.trial import TrialRecord
from trialfleet.storage.commands import CreateTrial, Ended, OpenTrial, TrialCreated, Wait
from trialfleet.storage.params import Distributions
from trialfleet.storage.reading import read_trials, require_study
from trialfleet.storage.standing import Standing, locked_standings
from trialfleet.storage.transaction import Statement, Transaction
from trialfleet.storage.trial_rows import TrialWrites

# Against the lock that Optuna's RDBStorage takes when it numbers a trial, which is FOR UPDATE.
# This weaker one lets rows that refer to the study be written meanwhile.
_LOCK_STUDIES: Final = Statement(
    "lock_studies",
    ("int[]",),
    "SELECT FROM studies WHERE study_id = ANY ($1) ORDER BY study_id FOR NO KEY UPDATE",
)

# The lock is against giving the session up at the same time, which takes FOR UPDATE. A trial
# that the same write opens elsewhere meanwhile is not seen yet: then inserting its run fails,
# and the transaction begins anew.
_SESSIONS: Final = Statement(
    "lock_sessions",
    ("bytea[]", "bigint[]"),
    """
    SELECT s.session_id, u.opened, s.ended_at IS NULL,
        s.expires_at < clock_timestamp() + make_interval(secs => s.time_to_live_s * 0.875),
        coalesce(
            (SELECT r.trial_id FROM trialfleet_runs r
                WHERE r.session_id = s.session_id AND r.opened = u.opened),
            (SELECT b.trial_id FROM trialfleet_returns b
                WHERE b.session_id = s.session_id AND b.opened = u.opened))
    FROM trialfleet_sessions s JOIN unnest($1, $2) AS u (session_id, opened) USING (session_id)
    ORDER BY s.session_id FOR KEY SHARE OF s
    """,
)

# Who opens trials lives: the session's time to live begins anew when an eighth of it is over.
_RENEW: Final = Statement("renew_sessions", ("bytea[]",), "SELECT trialfleet_renew($1)")

_POP: Final = Statement(
    "pop_waiting",
    ("int[]", "int[]"),
    """
    SELECT u.study_id, w.trial_id
    FROM unnest($1, $2) AS u (study_id, n)
    CROSS JOIN LATERAL (
        SELECT t.trial_id FROM trials t WHERE t.study_id = u.study_id AND t.state = 'WAITING'
        ORDER BY t.trial_id LIMIT u.n FOR NO KEY UPDATE SKIP LOCKED) AS w
    ORDER BY w.trial_id
    """,
)

# Numbers follow the order of ids: Optuna numbers a trial by counting those with a lower id.
_INSERT: Final = Statement(
    "insert_trials",
    ("int[]", "int[]"),
    """
    INSERT INTO trials (study_id, number, state, datetime_start)
    SELECT u.study_id, u.number, 'RUNNING', clock_timestamp() AT TIME ZONE 'UTC'
    FROM unnest($1, $2) WITH ORDINALITY AS u (study_id, number, place) ORDER BY u.place
    RETURNING trial_id, study_id, number, datetime_start
    """,
)

_OWN: Final = Statement(
    "own_trials",
    ("int[]", "bytea[]", "bigint[]"),
    """
    INSERT INTO trialfleet_runs (trial_id, session_id, opened, sequence)
    SELECT u.*, u.opened FROM unnest($1, $2, $3) AS u (trial_id, session_id, opened)
    ON CONFLICT (trial_id) DO UPDATE SET session_id = excluded.session_id,
        opened = excluded.opened, sequence = excluded.sequence, ended = NULL, taken_away = false
    """,
)

_STARTED: Final = Statement(
    "start_studies",
    ("int[]",),
    """
    UPDATE trialfleet_studies SET started_at = clock_timestamp()
    WHERE study_id = ANY ($1) AND started_at IS NULL
    """,
)

# The study comes from an array: for one that is named PostgreSQL plans by how many trials it had
# when statistics were last made, and sorts all it has since.
_INSERT_TEMPLATE: Final = sa.text(
    """
    INSERT INTO trials (study_id, number, state, datetime_start, datetime_complete)
    SELECT u.study_id, coalesce((SELECT l.number + 1 FROM trials l
            WHERE l.study_id = u.study_id AND l.number IS NOT NULL
            ORDER BY l.number DESC LIMIT 1), 0),
        CAST(:state AS trialstate), :started, :completed
    FROM unnest(ARRAY[CAST(:study_id AS int)]) AS u (study_id)
    RETURNING trial_id, number
    """
)

Opener = OpenTrial | CreateTrial

Openings = dict[WriteId, tuple[bool, int | None]]
"""Of each write that opens a trial: whether its session is alive, and what it opened before."""


def lock_studies(transaction: Transaction, ids: Iterable[int]) -> None:
    """Take the lock under which trials are numbered, for several studies without a deadlock."""
    transaction.do(_LOCK_STUDIES, sorted(ids))


def lock_openings(transaction: Transaction, commands: Sequence[Opener]) -> Openings:
    """Take the locks that opening trials needs: sessions first, then studies.

    Returns what :func:`open_trials` takes. Trials may be locked and written to in between.
    """
    sessions = _lock_sessions(transaction, commands)
    lock_studies(transaction, {command.study_id for command in commands})
    return sessions


def create_trial(
    transaction: Transaction,
    study_id: int,
    template: TrialRecord,
    distributions: Distributions,
) -> TrialCreated:
    """Add a copy of a caller's template to a study.

    Raises :class:`NotFound`, or :class:`InvalidInput` for a parameter that does not fit.
    """
    lock_studies(transaction, [study_id])
    require_study(transaction.connection, study_id)
    (error,) = distributions.check(transaction, [(study_id, template.params)])
    if error is not None:
        raise error
    return insert_trial(transaction, study_id, template)


def insert_trial(transaction: Transaction, study_id: int, template: TrialRecord) -> TrialCreated:
    """Add a copy of a template to a study. Raises :class:`NotFound`."""
    lock_studies(transaction, [study_id])
    require_study(transaction.connection, study_id)
    trial_id, number = transaction.execute(
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
    writes.execute(transaction)
    return TrialCreated(trial_id, number)


def _naive(time: datetime.datetime | None) -> datetime.datetime | None:
    return None if time is None else time.replace(tzinfo=None)


def open_trials(
    transaction: Transaction, commands: Sequence[Opener], sessions: Openings
) -> list[Any]:
    """Open trials, at most as many as the budgets allow; return each command's answer or error.

    The commands are :class:`OpenTrial`, or :class:`CreateTrial` without a template, and
    ``sessions`` is what :func:`lock_openings` returned for them.
    """
    standings = locked_standings(transaction, {command.study_id for command in commands})
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

    popped = _pop_waiting(transaction, commands, admitted, standings)
    rest = [place for place in admitted if place not in popped]
    for place in rest:
        if _takes_waiting_only(commands[place], standings):
            answers[place] = Wait.WAIT
    rest = [place for place in rest if answers[place] is None]
    added = _insert(transaction, commands, rest, standings)
    trial_ids |= popped
    _own(transaction, commands, popped, added)
    unstarted = {commands[place].study_id for place in admitted}
    unstarted = {i for i in unstarted if standings[i].managed and standings[i].started is None}
    if unstarted:
        transaction.do(_STARTED, sorted(unstarted))

    records = read_trials(transaction.connection, trial_ids.values()) if trial_ids else {}
    for place, trial_id in trial_ids.items():
        answers[place] = _answer(commands[place], records[trial_id])
    for place, record in added.items():
        answers[place] = _answer(commands[place], record)
    for place, command in enumerate(commands):
        if command.write is not None and answers[place] is None:
            answers[place] = answers[first[command.write]]
    return answers


def _lock_sessions(transaction: Transaction, commands: Sequence[Opener]) -> Openings:
    writes = [command.write for command in commands if command.write is not None]
    if not writes:
        return {}
    rows = transaction.rows(
        _SESSIONS, [write.session for write in writes], [write.sequence for write in writes]
    )
    aging = {bytes(session) for session, _, _, ages, _ in rows if ages}
    if aging:
        transaction.do(_RENEW, sorted(aging))
    return {
        WriteId(bytes(session), opened): (alive, trial_id)
        for session, opened, alive, _, trial_id in rows
    }


def _opened_before(sessions: Openings, write: WriteId) -> int | None:
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
    transaction: Transaction,
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
    rows = transaction.rows(_POP, takers, [len(places) for places in takers.values()])
    queues = {study_id: iter(places) for study_id, places in takers.items()}
    popped = {next(queues[study_id]): trial_id for study_id, trial_id in rows}
    TrialWrites(states=dict.fromkeys(popped.values(), TrialState.RUNNING)).execute(transaction)
    return popped


def _insert(
    transaction: Transaction,
    commands: Sequence[Opener],
    places: Sequence[int],
    standings: dict[int, Standing],
) -> dict[int, TrialRecord]:
    """Add new trials for commands; return them by the commands' places."""
    if not places:
        return {}
    following = {study_id: standing.next_number for study_id, standing in standings.items()}
    numbered: dict[tuple[int, int], int] = {}
    for place in places:
        study_id = commands[place].study_id
        numbered[study_id, following[study_id]] = place
        following[study_id] += 1
    rows = transaction.rows(
        _INSERT, [study_id for study_id, _ in numbered], [number for _, number in numbered]
    )
    return {
        numbered[study_id, number]: TrialRecord(
            trial_id=trial_id,
            number=number,
            state=TrialState.RUNNING,
            started=started.replace(tzinfo=datetime.UTC),
        )
        for trial_id, study_id, number, started in rows
    }


def _own(
    transaction: Transaction,
    commands: Sequence[Opener],
    popped: dict[int, int],
    added: dict[int, TrialRecord],
) -> None:
    owned = popped | {place: record.trial_id for place, record in added.items()}
    writes = {trial_id: commands[place].write for place, trial_id in owned.items()}
    own = {trial_id: write for trial_id, write in writes.items() if write is not None}
    if own:
        sessions, opened = zip(*own.values(), strict=True)
        transaction.do(_OWN, own, sessions, opened)


def _answer(command: Opener, record: TrialRecord) -> TrialRecord | TrialCreated:
    if isinstance(command, OpenTrial):
        return record
    return TrialCreated(record.trial_id, record.number)

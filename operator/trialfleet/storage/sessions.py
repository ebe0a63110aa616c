"""The life of a worker as the storage sees it, and what becomes of its trials."""

import json
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from optuna.distributions import json_to_distribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from trialfleet import names
from trialfleet.model.definition import differing
from trialfleet.model.errors import InvalidInput, NotFound, SessionGivenUp
from trialfleet.model.session import SILENT, GivenUp, SilentSession, WriteId
from trialfleet.model.trial import TrialRecord
from trialfleet.storage.commands import CloseSession, GiveUp, KeepAlive, OpenSession, SessionOpened
from trialfleet.storage.opening import insert_trial, lock_studies
from trialfleet.storage.reading import read_trials
from trialfleet.storage.transaction import Transaction
from trialfleet.storage.trial_rows import TrialWrites

T = TypeVar("T")

_ORDINAL: Final = sa.text(
    """
    INSERT INTO trialfleet_studies AS s (study_id, sessions_opened) VALUES (:study_id, 1)
    ON CONFLICT (study_id) DO UPDATE SET sessions_opened = s.sessions_opened + 1
    RETURNING sessions_opened - 1
    """
)
_OPENED: Final = sa.text(
    "SELECT study_id, ordinal FROM trialfleet_sessions WHERE session_id = :session"
)
_DEFINITION: Final = sa.text("SELECT definition FROM trialfleet_studies WHERE study_id = :study_id")
_DIRECTIONS: Final = sa.text(
    "SELECT direction FROM study_directions WHERE study_id = :study_id ORDER BY objective"
)
_OPEN: Final = sa.text(
    """
    INSERT INTO trialfleet_sessions
        (session_id, worker, study_id, ordinal, time_to_live_s, expires_at, sequential)
    VALUES (:session, :worker, :study_id, :ordinal, :time_to_live_s,
        clock_timestamp() + make_interval(secs => :time_to_live_s), false)
    """
)
_KEEP_ALIVE: Final = sa.text(
    """
    UPDATE trialfleet_sessions
    SET expires_at = clock_timestamp() + make_interval(secs => time_to_live_s)
    WHERE session_id IN (
        SELECT session_id FROM trialfleet_sessions
        WHERE session_id = ANY(CAST(:sessions AS bytea[])) AND ended_at IS NULL
        ORDER BY session_id FOR NO KEY UPDATE)
    RETURNING session_id
    """
)
_WRITE_ONCE: Final = sa.text(
    """
    UPDATE trialfleet_sessions SET sequence = :sequence, answer = NULL
    WHERE session_id = :session AND ended_at IS NULL AND sequence < :sequence
    RETURNING 1
    """
)
_ANSWERED: Final = sa.text(
    """
    SELECT sequence, answer FROM trialfleet_sessions
    WHERE session_id = :session AND ended_at IS NULL
    """
)
_ANSWER: Final = sa.text(
    "UPDATE trialfleet_sessions SET answer = :answer WHERE session_id = :session"
)

_BY_SESSION: Final = "session_id = :session"
_BY_WORKER: Final = "worker = :worker"
# One that was heard meanwhile has another expires_at.
_BY_SILENCE: Final = (
    "(session_id, expires_at) IN "
    "(SELECT * FROM unnest(CAST(:sessions AS bytea[]), CAST(:stamps AS timestamptz[])))"
)

# A clock that was set back would leave expires_at in the future, where no opening renews it
# (it does when an eighth of the life is over), and a worker that works would look silent.
_SET_BACK: Final = sa.text(
    """
    UPDATE trialfleet_sessions
    SET expires_at = clock_timestamp() + make_interval(secs => time_to_live_s * 0.8)
    WHERE session_id IN (
        SELECT session_id FROM trialfleet_sessions WHERE ended_at IS NULL
        AND expires_at > clock_timestamp() + make_interval(secs => time_to_live_s)
        FOR NO KEY UPDATE SKIP LOCKED)
    """
)
_SILENT: Final = sa.text(
    """
    SELECT session_id, expires_at, time_to_live_s FROM trialfleet_sessions
    WHERE ended_at IS NULL
    AND expires_at < clock_timestamp() + make_interval(secs => time_to_live_s * (1 - :silent))
    """
)

_EVER_OPENED: Final = sa.text("SELECT count(*) FROM trialfleet_sessions WHERE worker = :worker")

_END: Final = """
    UPDATE trialfleet_sessions SET {ended} WHERE session_id IN (
        SELECT session_id FROM trialfleet_sessions WHERE ended_at IS NULL AND {which}
        ORDER BY session_id FOR UPDATE)
    RETURNING session_id, worker
"""
_ENDED: Final = "ended_at = clock_timestamp()"
# What tells a silent worker is that its life was over when it ended.
_ENDED_BY_SILENCE: Final = f"{_ENDED}, expires_at = least(expires_at, statement_timestamp())"
# Beginning with what runs, not with the sessions, which may have run any number of trials; and
# looking the runs of those up one by one, whatever the planner knows of the tables yet.
_RUNNING: Final = sa.text(
    """
    WITH running AS MATERIALIZED (SELECT trial_id, study_id FROM trials WHERE state = 'RUNNING')
    SELECT t.trial_id, t.study_id, r.session_id, coalesce(s.retries, 0) AS retries
    FROM running t
    CROSS JOIN LATERAL (SELECT r.session_id, r.opened, r.taken_away FROM trialfleet_runs r
        WHERE r.trial_id = t.trial_id OFFSET 0) AS r
    LEFT JOIN trialfleet_studies s ON s.study_id = t.study_id
    WHERE r.session_id = ANY(CAST(:sessions AS bytea[])) AND NOT r.taken_away
    ORDER BY r.opened
    """
)
_LOCK_TRIALS: Final = sa.text(
    """
    SELECT 1 FROM trials WHERE trial_id = ANY(CAST(:ids AS int[]))
    ORDER BY trial_id FOR NO KEY UPDATE
    """
)
_TAKE_AWAY: Final = sa.text(
    """
    UPDATE trialfleet_runs SET taken_away = true, lost = :lost
    WHERE trial_id = ANY(CAST(:ids AS int[]))
    """
)
_COUNT_LOST: Final = sa.text(
    """
    INSERT INTO trialfleet_lost AS l (study_id, reason, trials) VALUES (:study_id, :reason, 1)
    ON CONFLICT (study_id, reason) DO UPDATE SET trials = l.trials + 1
    """
)

_OURS: Final = frozenset(
    {names.ATTR_REASON, names.ATTR_MESSAGE, names.ATTR_WORKER, names.ATTR_TRACEBACK}
)


def open_session(transaction: Transaction, command: OpenSession) -> SessionOpened:
    """See :class:`OpenSession`."""
    opened = transaction.execute(_OPENED, {"session": command.session}).first()
    if opened is not None:
        return _opened(transaction, opened.study_id, opened.ordinal)
    study_id, ordinal = None, 0
    if command.study:
        query = sa.text("SELECT study_id FROM studies WHERE study_name = :name")
        study_id = transaction.execute(query, {"name": command.study}).scalar()
        if study_id is None:
            raise NotFound(f"no study has the name {command.study!r}")
        if command.definition:
            _check_definition(transaction, study_id, command)
        ordinal = transaction.execute(_ORDINAL, {"study_id": study_id}).scalar_one()
    transaction.execute(
        _OPEN,
        {
            "session": command.session,
            "worker": command.worker,
            "study_id": study_id,
            "ordinal": ordinal,
            "time_to_live_s": command.time_to_live_s,
        },
    )
    return _opened(transaction, study_id, ordinal)


def _check_definition(transaction: Transaction, study_id: int, command: OpenSession) -> None:
    stored = transaction.execute(_DEFINITION, {"study_id": study_id}).scalar()
    if stored != command.definition:
        raise NotFound(
            f"the study {command.study!r} is one {differing(stored or '', command.definition)}"
        )


def _opened(transaction: Transaction, study_id: int | None, ordinal: int) -> SessionOpened:
    directions = transaction.execute(_DIRECTIONS, {"study_id": study_id}).scalars()
    return SessionOpened(
        study_id,
        ordinal,
        [StudyDirection[direction] for direction in directions],
    )


def keep_alive(transaction: Transaction, commands: Sequence[KeepAlive]) -> list[bool]:
    """Extend the life of many sessions; return which are alive."""
    sessions = list({command.session for command in commands})
    rows = transaction.execute(_KEEP_ALIVE, {"sessions": sessions})
    alive = {bytes(row[0]) for row in rows}
    return [command.session in alive for command in commands]


def read_silent(connection: sa.Connection) -> Sequence[SilentSession]:
    """Return the sessions that were heard more than ``SILENT`` of their life ago.

    That is by the database's clock, which may be wrong and may jump: it only spares looking at all
    sessions. Whether one has been silent for too long is for who sees that its stamp stays the same
    for so long. If the clock was set back, stamps are set back too.
    """
    connection.execute(_SET_BACK)
    rows = connection.execute(_SILENT, {"silent": SILENT})
    return [
        SilentSession(bytes(row.session_id), row.expires_at, row.time_to_live_s) for row in rows
    ]


def begin_once(transaction: Transaction, write: WriteId) -> tuple[bool, int | None]:
    """Begin a write of a session that is to be applied once.

    Returns whether it is new and, if it is not, the answer of the first time. Raises
    :class:`SessionGivenUp`, and :class:`InvalidInput` for a write older than the last one.
    """
    key = {"session": write.session, "sequence": write.sequence}
    if transaction.execute(_WRITE_ONCE, key).first() is not None:
        return True, None
    row = transaction.execute(_ANSWERED, {"session": write.session}).first()
    if row is None:
        raise SessionGivenUp("the session was given up or never opened: open another")
    if row.sequence != write.sequence:
        raise InvalidInput(
            f"write.sequence: found {write.sequence} after {row.sequence} of the same session, "
            "accepted: numbers that grow"
        )
    return False, row.answer


def finish_once(transaction: Transaction, write: WriteId, answer: int) -> None:
    """Keep the answer of a write that :func:`begin_once` began."""
    transaction.execute(_ANSWER, {"session": write.session, "answer": answer})


def close_session(transaction: Transaction, command: CloseSession) -> None:
    """See :class:`CloseSession`."""
    _, running = _end_sessions(transaction, _BY_SESSION, {"session": command.session})
    _hand_back(transaction, [row.trial_id for row in running])


def _hand_back(transaction: Transaction, ids: list[int]) -> None:
    if ids:
        TrialWrites(
            states=dict.fromkeys(ids, TrialState.WAITING),
            handed_back=ids,
        ).execute(transaction)


def _end_sessions(
    transaction: Transaction, which: str, key: dict[str, Any], ended: str = _ENDED
) -> tuple[dict[bytes, sa.Row[Any]], Sequence[sa.Row[Any]]]:
    """End sessions; return them, and the trials that they run, locked, as they were opened.

    A trial that is opened meanwhile waits for the session's row and is then refused.
    """
    rows = transaction.execute(sa.text(_END.format(which=which, ended=ended)), key).all()
    sessions = {bytes(row.session_id): row for row in rows}
    if not sessions:
        return {}, ()
    running = transaction.execute(_RUNNING, {"sessions": list(sessions)}).all()
    if not running:
        return sessions, ()
    lock_studies(transaction, {row.study_id for row in running})
    transaction.execute(_LOCK_TRIALS, {"ids": [row.trial_id for row in running]})
    # Some may have been told before they were locked.
    return sessions, transaction.execute(_RUNNING, {"sessions": list(sessions)}).all()


def give_up(transaction: Transaction, command: GiveUp) -> GivenUp:
    """See :class:`GiveUp`."""
    key: dict[str, Any]
    if command.session is not None:
        key = {"session": command.session}
        sessions, running = _end_sessions(transaction, _BY_SESSION, key)
    elif command.worker is not None:
        key = {"worker": command.worker}
        sessions, running = _end_sessions(transaction, _BY_WORKER, key)
    else:
        key = {
            "sessions": [silent.session for silent in command.silent],
            "stamps": [silent.stamp for silent in command.silent],
        }
        sessions, running = _end_sessions(transaction, _BY_SILENCE, key, _ENDED_BY_SILENCE)
    opened = 0
    if command.worker is not None:
        opened = transaction.execute(_EVER_OPENED, key).scalar_one()
    if not running:
        return GivenUp(sessions=len(sessions), opened=opened)
    ids = sorted(row.trial_id for row in running)
    records = read_trials(transaction.connection, ids)
    transaction.execute(_TAKE_AWAY, {"ids": ids, "lost": not command.failed})
    writes = TrialWrites(states=dict.fromkeys(ids, TrialState.FAIL))
    for row in running:
        attrs = {
            names.ATTR_REASON: command.reason,
            names.ATTR_MESSAGE: command.message,
            names.ATTR_WORKER: sessions[bytes(row.session_id)].worker,
        }
        writes.add(
            row.trial_id,
            system_attrs=[(key, json.dumps(text)) for key, text in attrs.items() if text],
        )
    writes.execute(transaction)
    numbers = [records[trial_id].number for trial_id in ids]
    if command.failed:
        return GivenUp(sessions=len(sessions), opened=opened, failed=numbers)
    requeued = []
    for row in sorted(running, key=lambda row: int(row.trial_id)):
        transaction.execute(_COUNT_LOST, {"study_id": row.study_id, "reason": command.reason})
        retry = _retry(records[row.trial_id], row.retries)
        if retry is not None:
            requeued.append(insert_trial(transaction, row.study_id, retry).number)
    return GivenUp(len(sessions), opened, lost=numbers, requeued=requeued)


def _retry(lost: TrialRecord, retries: int) -> TrialRecord | None:
    """Return the waiting trial that tries a lost one again, None if retries are used up.

    The attributes are those of Optuna's ``RetryHeartbeatStaleTrialCallback``.
    """
    attrs = {key: text for key, text in lost.system_attrs if key not in _OURS}
    history = [*_attribute(attrs, names.ATTR_RETRY_HISTORY, list), lost.number]
    if len(history) > retries:
        return None
    attrs[names.ATTR_FAILED_TRIAL] = json.dumps(history[0])
    attrs[names.ATTR_RETRY_HISTORY] = json.dumps(history)
    fixed = _attribute(attrs, names.ATTR_FIXED_PARAMS, dict) | {
        name: json_to_distribution(text).to_external_repr(value)
        for name, value, text in lost.params
    }
    if fixed:
        attrs[names.ATTR_FIXED_PARAMS] = json.dumps(fixed)
    return TrialRecord(
        trial_id=0,
        number=0,
        state=TrialState.WAITING,
        params=lost.params,
        user_attrs=lost.user_attrs,
        system_attrs=list(attrs.items()),
    )


def _attribute(attrs: dict[str, str], key: str, kind: type[T]) -> T:
    """Return an attribute's value, an empty one if it is of another kind.

    Whatever a worker wrote there, it must not keep its session from being given up.
    """
    try:
        value = json.loads(attrs[key])
    except (KeyError, ValueError, RecursionError):
        return kind()
    return value if isinstance(value, kind) else kind()

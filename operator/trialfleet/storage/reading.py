"""Queries that change nothing."""

import contextlib
import datetime
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from optuna.study import StudyDirection
from optuna.trial import TrialState

from trialfleet import names
from trialfleet.model.errors import NotFound
from trialfleet.model.study import Failure, StudyRecord
from trialfleet.model.trial import Param, TrialRecord
from trialfleet.storage.commands import Summary
from trialfleet.storage.standing import read_standings

# Rows of both: see migrations/0006_baseline.sql.
_TRIALS: Final = sa.text("SELECT * FROM trialfleet_trials(CAST(:ids AS int[]), :bare)")
_TRIALS_SINCE: Final = sa.text(
    "SELECT * FROM "
    "trialfleet_trials_since(:study_id, :after, CAST(:included AS int[]), :most, :bare)"
)

# The study comes from an array where its trials are looked for: those of one that is named would be
# looked for by an index of studies alone, if it had few when statistics were last made.
_STUDY: Final = "unnest(ARRAY[CAST(:study_id AS int)]) AS u (study_id)"

_STUDIES: Final = """
    SELECT s.study_id, s.study_name,
        ARRAY(SELECT d.direction::text FROM study_directions d
            WHERE d.study_id = s.study_id ORDER BY d.objective),
        ARRAY(SELECT ARRAY[a.key, a.value_json] FROM study_user_attributes a
            WHERE a.study_id = s.study_id ORDER BY a.study_user_attribute_id),
        ARRAY(SELECT ARRAY[a.key, a.value_json] FROM study_system_attributes a
            WHERE a.study_id = s.study_id ORDER BY a.study_system_attribute_id),
        coalesce(d.owner, '')
    FROM studies s LEFT JOIN trialfleet_studies d USING (study_id) {where} ORDER BY s.study_id
"""
_ALL_STUDIES: Final = sa.text(_STUDIES.format(where=""))
_STUDY_BY_ID: Final = sa.text(_STUDIES.format(where="WHERE s.study_id = :study_id"))
_STUDY_BY_NAME: Final = sa.text(_STUDIES.format(where="WHERE s.study_name = :name"))
_STUDIES_BY_OWNER: Final = sa.text(_STUDIES.format(where="WHERE starts_with(d.owner, :owner)"))

_SUMMARIES: Final = sa.text(
    """
    SELECT s.study_id,
        (SELECT count(*) FROM trialfleet_best b WHERE b.study_id = s.study_id),
        (SELECT count(*) FROM trialfleet_sessions x
            WHERE x.study_id = s.study_id AND x.ended_at IS NULL),
        ARRAY(SELECT ARRAY[l.reason, l.trials::text] FROM trialfleet_lost l
            WHERE l.study_id = s.study_id ORDER BY l.reason),
        ARRAY(SELECT b.trial_id FROM trialfleet_best b WHERE b.study_id = s.study_id
            ORDER BY b.costs, b.trial_id LIMIT :best),
        ARRAY(SELECT x.worker FROM trialfleet_sessions x
            WHERE x.ended_at > clock_timestamp() - interval '10 minutes'
            AND x.ended_at >= x.expires_at AND x.study_id = s.study_id
            AND NOT EXISTS (SELECT FROM trialfleet_sessions y
                WHERE y.worker = x.worker AND y.ended_at IS NULL)
            ORDER BY x.ended_at DESC LIMIT 256)
    FROM studies s WHERE s.study_id = ANY(CAST(:ids AS int[]))
    """
)

# Of the newest failed trials, the last one first; of those behind it only the reason.
_FAILURES: Final = sa.text(
    """
    SELECT s.study_id, f.number,
        (SELECT a.value_json FROM trial_system_attributes a
            WHERE a.trial_id = f.trial_id AND a.key = :reason),
        (SELECT a.value_json FROM trial_system_attributes a
            WHERE a.trial_id = f.trial_id AND a.key = :message AND f.place = 1)
    FROM unnest(CAST(:ids AS int[])) AS s (study_id)
    CROSS JOIN LATERAL (
        SELECT t.trial_id, t.number, row_number() OVER (ORDER BY t.trial_id DESC) AS place
        FROM trials t LEFT JOIN trialfleet_runs r USING (trial_id)
        WHERE t.study_id = s.study_id AND t.state = 'FAIL' AND r.lost IS NOT TRUE
        ORDER BY t.trial_id DESC LIMIT 100) AS f
    ORDER BY s.study_id, f.place
    """
)

_SESSIONS_STUDIES: Final = sa.text(
    """
    SELECT x.session_id, coalesce(s.study_name, '')
    FROM trialfleet_sessions x LEFT JOIN studies s USING (study_id)
    WHERE x.session_id = ANY(CAST(:sessions AS bytea[]))
    """
)

_TRIALS_STUDIES: Final = sa.text(
    """
    SELECT t.trial_id, s.study_name FROM trials t JOIN studies s USING (study_id)
    WHERE t.trial_id = ANY(CAST(:ids AS int[]))
    """
)

_STATES: Final = {state.name: state for state in TrialState}
_SPECIAL: Final = {"INF_POS": float("inf"), "INF_NEG": float("-inf"), "NAN": float("nan")}


def _utc(naive: datetime.datetime | None) -> datetime.datetime | None:
    return None if naive is None else naive.replace(tzinfo=datetime.UTC)


def _build(found: Iterable[Sequence[Any]]) -> list[TrialRecord]:
    """Return the trials of the rows of ``_TRIALS``, ordered by number."""
    trials = []
    parts: dict[int, dict[str, list[Any]]] = {}
    for kind, trial_id, place, name, number, text, started, completed in found:
        item: Any
        if kind == "t":
            trials.append((trial_id, place, _STATES[name], _utc(started), _utc(completed)))
            continue
        if kind == "p":
            item = Param(name, number, text)
        elif kind == "v":
            item = _SPECIAL.get(text, number)
        elif kind == "i":
            item = (place, _SPECIAL.get(text, number))
        else:
            item = (name, text)
        parts.setdefault(trial_id, {}).setdefault(kind, []).append(item)
    records = []
    for trial_id, trial_number, state, started, completed in trials:
        mine: Mapping[str, list[Any]] = parts.get(trial_id, {})
        records.append(
            TrialRecord(
                trial_id=trial_id,
                number=trial_number,
                state=state,
                values=mine.get("v"),
                started=started,
                completed=completed,
                params=mine.get("p", ()),
                user_attrs=mine.get("u", ()),
                system_attrs=mine.get("s", ()),
                intermediate_values=mine.get("i", ()),
            )
        )
    return records


@contextlib.contextmanager
def _snapshot(connection: sa.Connection) -> Iterator[None]:
    """Let all statements see one state, on a connection where each commits itself."""
    connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        yield
    finally:
        if not connection.invalidated:
            connection.exec_driver_sql("ROLLBACK")


def read_trials(connection: sa.Connection, ids: Iterable[int]) -> dict[int, TrialRecord]:
    """Return the trials that exist of those asked for; all are of one snapshot."""
    wanted = list(ids)
    if not wanted:
        return {}
    rows = connection.execute(_TRIALS, {"ids": wanted, "bare": False})
    return {record.trial_id: record for record in _build(rows)}


def read_trials_since(
    connection: sa.Connection,
    study_id: int,
    after: int,
    included: Sequence[int],
    limit: int,
    bare_unfinished: bool = False,
) -> list[TrialRecord]:
    """Return a study's trials with an id over ``after`` or in ``included``, ordered by id.

    At most ``limit`` of them; all are of one snapshot. With ``bare_unfinished`` trials that have
    not finished come without their parts. Raises :class:`NotFound` for a study that does not exist.
    """
    values = {
        "study_id": study_id,
        "after": after,
        "included": list(included),
        "most": limit,
        "bare": bare_unfinished,
    }
    trials = _build(connection.execute(_TRIALS_SINCE, values))
    if not trials:
        require_study(connection, study_id)
    return trials


def require_study(connection: sa.Connection, study_id: int) -> None:
    """Raise :class:`NotFound` if the study does not exist."""
    query = sa.text("SELECT 1 FROM studies WHERE study_id = :study_id")
    if connection.execute(query, {"study_id": study_id}).first() is None:
        raise NotFound(f"no study has the id {study_id}")


_TRIAL_ID: Final = sa.text(
    f"""
    SELECT t.trial_id FROM {_STUDY} JOIN trials t ON t.study_id = u.study_id
    WHERE t.number = :number
    """
)


def read_trial_id(connection: sa.Connection, study_id: int, number: int) -> int:
    """Return the id of a study's trial by its number. Raises :class:`NotFound`."""
    row = connection.execute(_TRIAL_ID, {"study_id": study_id, "number": number}).first()
    if row is None:
        raise NotFound(f"the study with id {study_id} has no trial {number}")
    return int(row[0])


def read_studies(
    connection: sa.Connection,
    *,
    study_id: int | None = None,
    name: str | None = None,
    owner: str | None = None,
) -> list[StudyRecord]:
    """Return one study by its id or name, those whose owner begins as given, or all.

    A list without it if it does not exist.
    """
    if study_id is not None:
        rows = connection.execute(_STUDY_BY_ID, {"study_id": study_id})
    elif name is not None:
        rows = connection.execute(_STUDY_BY_NAME, {"name": name})
    elif owner is not None:
        rows = connection.execute(_STUDIES_BY_OWNER, {"owner": owner})
    else:
        rows = connection.execute(_ALL_STUDIES)
    return [
        StudyRecord(
            study_id=row[0],
            name=row[1],
            directions=[StudyDirection[direction] for direction in row[2]],
            user_attrs=[tuple(pair) for pair in row[3]],
            system_attrs=[tuple(pair) for pair in row[4]],
            owner=row[5],
        )
        for row in rows
    ]


def read_sessions_studies(connection: sa.Connection, sessions: Sequence[bytes]) -> dict[bytes, str]:
    """Return the name of each session's study; empty where it is bound to none that exists."""
    rows = connection.execute(_SESSIONS_STUDIES, {"sessions": list(sessions)})
    return {bytes(session): name for session, name in rows}


def read_trials_studies(connection: sa.Connection, ids: Sequence[int]) -> dict[int, str]:
    """Return the name of each trial's study; trials that do not exist are left out."""
    rows = connection.execute(_TRIALS_STUDIES, {"ids": list(ids)})
    return {trial_id: name for trial_id, name in rows}


def read_summaries(connection: sa.Connection, ids: Sequence[int], best: int) -> dict[int, Summary]:
    """Return the summaries of studies with at most ``best`` of their best trials.

    A study that does not exist is left out. The cost does not grow with the trials.
    """
    with _snapshot(connection):
        standings = read_standings(connection, ids)
        rows = connection.execute(_SUMMARIES, {"ids": ids, "best": best}).all()
        trials = read_trials(connection, {trial_id for row in rows for trial_id in row[4]})
        failed = [study_id for study_id in standings if standings[study_id].counts.failed]
        failures = _read_failures(connection, failed) if failed else {}
    return {
        study_id: Summary(
            counts=standings[study_id].counts,
            best=[trials[trial_id] for trial_id in best_ids],
            front=front,
            ended=standings[study_id].ended if standings[study_id].over else "",
            sessions=sessions,
            lost_reasons={reason: int(number) for reason, number in reasons},
            taken=standings[study_id].taken,
            failure=next(iter(failures.get(study_id, ())), None),
            failed_reasons=Counter(one.reason for one in failures.get(study_id, ())),
            silent=silent,
        )
        for study_id, front, sessions, reasons, best_ids, silent in rows
    }


def _read_failures(connection: sa.Connection, ids: Sequence[int]) -> dict[int, list[Failure]]:
    """Return the newest failed trials of studies, the last one first."""
    keys = {"reason": names.ATTR_REASON, "message": names.ATTR_MESSAGE}
    failures: dict[int, list[Failure]] = {}
    for study_id, number, *texts in connection.execute(_FAILURES, {"ids": ids, **keys}):
        reason, message = (_text(value) for value in texts)
        failures.setdefault(study_id, []).append(Failure(number, reason, message))
    return failures


def _text(value_json: str | None) -> str:
    """Return the text of an attribute; empty for what is none, as others may write anything."""
    try:
        value = json.loads(value_json or '""')
    except ValueError:
        return ""
    return value if isinstance(value, str) else ""

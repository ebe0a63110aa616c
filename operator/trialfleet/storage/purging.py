"""Removing what is left of sessions that ended long ago, in small pieces.

A worker that sends a write again is answered by what its session left: which trials it opened and
handed back, and which write ended them. After a day no worker does, and one that did would be told
that its session was given up. That a trial was lost stays: it is counted by it.
"""

import datetime
from typing import Final

import sqlalchemy as sa

KEPT: Final = datetime.timedelta(days=1)
"""For how long after its end a session's traces stay."""

_SESSIONS: Final = 100
_ROWS: Final = 1000
"""So many at once: milliseconds, in which nobody waits for the rows."""

# Another proxy's purge takes other sessions. A trial that somebody takes up meanwhile has a run of
# another session by then, and that one stays.
_PURGE: Final = sa.text(
    f"""
    WITH old AS MATERIALIZED (
        SELECT session_id FROM trialfleet_sessions
        WHERE ended_at < clock_timestamp() - make_interval(secs => :kept_s)
        ORDER BY ended_at LIMIT {_SESSIONS} FOR UPDATE SKIP LOCKED
    ), runs AS MATERIALIZED (
        SELECT r.trial_id, r.session_id FROM old CROSS JOIN LATERAL (
            SELECT * FROM trialfleet_runs r
            WHERE r.session_id = old.session_id AND NOT r.lost LIMIT {_ROWS} OFFSET 0) AS r
        LIMIT {_ROWS}
    ), returns AS MATERIALIZED (
        SELECT b.session_id, b.opened FROM old CROSS JOIN LATERAL (
            SELECT * FROM trialfleet_returns b
            WHERE b.session_id = old.session_id LIMIT {_ROWS} OFFSET 0) AS b
        LIMIT {_ROWS}
    ), gone_runs AS (
        DELETE FROM trialfleet_runs r USING runs u
        WHERE r.trial_id = u.trial_id AND r.session_id = u.session_id AND NOT r.lost RETURNING 1
    ), gone_returns AS (
        DELETE FROM trialfleet_returns b USING returns u
        WHERE b.session_id = u.session_id AND b.opened = u.opened RETURNING 1
    ), gone_sessions AS (
        -- Those of which all goes now. Of the others the next call finds the rest.
        DELETE FROM trialfleet_sessions s USING old
        WHERE s.session_id = old.session_id
        AND (SELECT count(*) FROM runs) < {_ROWS} AND (SELECT count(*) FROM returns) < {_ROWS}
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM gone_runs) + (SELECT count(*) FROM gone_returns)
        + (SELECT count(*) FROM gone_sessions)
    """
)


def purge(connection: sa.Connection, kept: datetime.timedelta = KEPT) -> int:
    """Remove some of what is left of sessions that ended ``kept`` ago; return the number of rows.

    It is done when it returns 0. Sessions that live, and those of running trials, stay.
    """
    removed: int = connection.execute(_PURGE, {"kept_s": kept.total_seconds()}).scalar_one()
    return removed

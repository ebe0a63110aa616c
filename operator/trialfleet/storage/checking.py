"""What is kept of a study beside its trials, made anew: counts, best trials, parameters."""

import itertools
from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa

_RANKED_AT_ONCE: Final = 1000

# As migrations/0006_baseline.sql makes them of trials that were there before.
_COUNT: Final = sa.text(
    """
    INSERT INTO trialfleet_counts
        (study_id, shard, complete, pruned, failed, running, waiting, lost)
    SELECT t.study_id, 0,
        count(*) FILTER (WHERE state = 'COMPLETE'), count(*) FILTER (WHERE state = 'PRUNED'),
        count(*) FILTER (WHERE state = 'FAIL' AND r.lost IS NOT TRUE),
        count(*) FILTER (WHERE state = 'RUNNING'), count(*) FILTER (WHERE state = 'WAITING'),
        count(*) FILTER (WHERE state = 'FAIL' AND r.lost)
    FROM trials t LEFT JOIN trialfleet_runs r USING (trial_id)
    WHERE t.study_id = :study_id GROUP BY t.study_id
    """
)
_PARAMS: Final = sa.text(
    """
    INSERT INTO trialfleet_params (study_id, param_name, distribution_json)
    SELECT DISTINCT ON (p.param_name) t.study_id, p.param_name, p.distribution_json
    FROM trials t JOIN trial_params p USING (trial_id)
    WHERE t.study_id = :study_id ORDER BY p.param_name, p.param_id
    """
)
# In this order none that has entered the front leaves it.
_COMPLETE: Final = sa.text(
    """
    SELECT t.trial_id FROM trials t CROSS JOIN LATERAL (
        SELECT array_agg(CASE v.value_type WHEN 'INF_POS' THEN 'Infinity'
                WHEN 'INF_NEG' THEN '-Infinity' ELSE v.value END
            * CASE d.direction WHEN 'MAXIMIZE' THEN -1 ELSE 1 END ORDER BY v.objective) AS costs
        FROM trial_values v JOIN study_directions d
            ON d.study_id = t.study_id AND d.objective = v.objective
        WHERE v.trial_id = t.trial_id) AS c
    WHERE t.study_id = :study_id AND t.state = 'COMPLETE' ORDER BY c.costs, t.trial_id
    """
)
_RANK: Final = sa.text("SELECT trialfleet_rank(CAST(:ids AS int[]))")


def recompute(connection: sa.Connection, study_id: int) -> None:
    """Make anew what is kept of a study. Nobody else may write to its trials meanwhile."""
    # trialfleet_rank wants every table to be reached by an index: see there.
    connection.execute(
        sa.text("SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = on")
    )
    key = {"study_id": study_id}
    for table in ("trialfleet_counts", "trialfleet_params", "trialfleet_best"):
        connection.execute(sa.text(f"DELETE FROM {table} WHERE study_id = :study_id"), key)
    connection.execute(_COUNT, key)
    connection.execute(_PARAMS, key)
    with connection.execute(_COMPLETE, key) as found:
        ids = found.scalars().all()
    connection.execute(sa.text("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off"))
    for chunk in _chunks(iter(ids)):
        connection.execute(_RANK, {"ids": chunk})


def _chunks(ids: Iterator[Any]) -> Iterator[list[int]]:
    while chunk := list(itertools.islice(ids, _RANKED_AT_ONCE)):
        yield chunk

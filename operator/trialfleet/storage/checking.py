"""What is kept of a study beside its trials, made anew: counts, best trials, parameters."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from optuna.distributions import check_distribution_compatibility, json_to_distribution

from trialfleet import names

_RANKED_AT_ONCE: Final = 1000
_STATES: Final = ("complete", "pruned", "failed", "running", "waiting", "lost")

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
_LOST: Final = sa.text(
    """
    SELECT a.value_json, count(*) FROM trials t JOIN trialfleet_runs r USING (trial_id)
    LEFT JOIN trial_system_attributes a ON a.trial_id = t.trial_id AND a.key = :reason
    WHERE t.study_id = :study_id AND t.state = 'FAIL' AND r.lost GROUP BY a.value_json
    """
)
_PARAMS: Final = sa.text(
    """
    SELECT DISTINCT ON (p.param_name) p.param_name, p.distribution_json
    FROM trials t JOIN trial_params p USING (trial_id)
    WHERE t.study_id = :study_id ORDER BY p.param_name, p.param_id
    """
)
_PUT_PARAM: Final = sa.text(
    """
    INSERT INTO trialfleet_params (study_id, param_name, distribution_json)
    VALUES (:study_id, :name, :text)
    ON CONFLICT (study_id, param_name) DO UPDATE SET distribution_json = excluded.distribution_json
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


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one study."""

    counts: dict[str, int]
    lost: dict[str, int]
    """How many trials were lost for each reason."""
    params: dict[str, str]
    """The first distribution of each parameter."""
    best: list[Any]
    """Of the trials in the front the ids; with one objective the cost of the best, which several
    trials may have."""


def kept(connection: sa.Connection, study_id: int) -> Kept:
    """Return what is kept of a study."""
    key = {"study_id": study_id}

    def rows(statement: str) -> Any:
        return connection.execute(sa.text(f"{statement} WHERE study_id = :study_id"), key)

    sums = ", ".join(f"coalesce(sum({state}), 0)::bigint" for state in _STATES)
    counts = rows(f"SELECT {sums} FROM trialfleet_counts").one()
    best = rows("SELECT trial_id, costs FROM trialfleet_best").all()
    single = all(len(costs) == 1 for _, costs in best)
    return Kept(
        counts=dict(zip(_STATES, counts, strict=True)),
        lost=dict(rows("SELECT reason, trials FROM trialfleet_lost").all()),
        params=dict(rows("SELECT param_name, distribution_json FROM trialfleet_params").all()),
        best=sorted(costs[0] if single else trial_id for trial_id, costs in best),
    )


def recompute(connection: sa.Connection, study_id: int) -> None:
    """Make anew what is kept of a study. Nobody else may write to its trials meanwhile."""
    key = {"study_id": study_id}
    known = kept(connection, study_id).params
    for table in ("trialfleet_counts", "trialfleet_lost", "trialfleet_best"):
        connection.execute(sa.text(f"DELETE FROM {table} WHERE study_id = :study_id"), key)
    connection.execute(_COUNT, key)
    _put_lost(connection, study_id)
    for name, text in connection.execute(_PARAMS, key).all():
        if not _fits(known.get(name), text):
            connection.execute(_PUT_PARAM, {**key, "name": name, "text": text})
    ids = connection.execute(_COMPLETE, key).scalars().all()
    # trialfleet_rank wants every table to be reached by an index: see there.
    connection.execute(
        sa.text(
            "SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off; "
            "SET LOCAL enable_bitmapscan = off"
        )
    )
    for chunk in _chunks(iter(ids)):
        connection.execute(_RANK, {"ids": chunk})
    for setting in ("plan_cache_mode", "enable_seqscan", "enable_bitmapscan"):
        connection.execute(sa.text(f"SET LOCAL {setting} TO DEFAULT"))


def check(engine: sa.Engine, study_id: int, *, repair: bool) -> list[str]:
    """Compare what is kept of a study with its trials; return a line for each difference.

    With ``repair`` it is then as its trials say. Who writes to any trial waits meanwhile: some
    seconds for 100,000 trials.
    """
    with engine.connect() as connection:
        connection.execute(sa.text("LOCK TABLE trials IN SHARE ROW EXCLUSIVE MODE"))
        before = kept(connection, study_id)
        recompute(connection, study_id)
        found = list(_differences(before, kept(connection, study_id)))
        if repair and found:
            connection.commit()
    return found


def _differences(found: Kept, expected: Kept) -> Iterator[str]:
    for name, before, after in (
        ("counts", found.counts, expected.counts),
        ("lost", found.lost, expected.lost),
        ("parameters", found.params, expected.params),
    ):
        for key in sorted({*before, *after}):
            one, other = before.get(key), after.get(key)
            if one != other:
                yield f"{name}: {key}: found {_said(one)}, expected {_said(other)}"
    if found.best != expected.best:
        yield f"best trials: found {_listed(found.best)}, expected {_listed(expected.best)}"


def _said(value: object) -> str:
    return "none" if value is None else str(value)


def _listed(values: list[Any]) -> str:
    shown = ", ".join(map(str, values[:10])) or "none"
    return shown if len(values) <= 10 else f"{shown}, ... ({len(values)})"


def _put_lost(connection: sa.Connection, study_id: int) -> None:
    reasons: dict[str, int] = {}
    for text, number in connection.execute(
        _LOST, {"study_id": study_id, "reason": names.ATTR_REASON}
    ):
        reason = json.loads(text) if text is not None else ""
        reasons[reason] = reasons.get(reason, 0) + number
    put = sa.text("INSERT INTO trialfleet_lost VALUES (:study_id, :reason, :trials)")
    for reason, number in reasons.items():
        connection.execute(put, {"study_id": study_id, "reason": reason, "trials": number})


def _fits(kept: str | None, first: str) -> bool:
    """Whether a distribution that is kept may stand for the study's first."""
    if kept is None:
        return False
    try:
        check_distribution_compatibility(json_to_distribution(kept), json_to_distribution(first))
    except (ValueError, LookupError, TypeError, AttributeError):
        return False
    return True


def _chunks(ids: Iterator[Any]) -> Iterator[list[int]]:
    while chunk := list(itertools.islice(ids, _RANKED_AT_ONCE)):
        yield chunk

"""What an operation costs in a large study, against an empty one; and what its history costs."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from optuna.distributions import FloatDistribution, distribution_to_json
from optuna.study import StudyDirection
from optuna.trial import TrialState

from benchmarks import counting
from benchmarks.ways import Trialfleet
from trialfleet.client import FleetStorage, StudyDefinition

TRIALS = 200_000
_ROUNDS = 150
_READINGS = 5
"""Of a history; the fastest counts, for the others were disturbed."""

_FILL = (
    """
    INSERT INTO trials (study_id, number, state, datetime_start, datetime_complete)
    SELECT :study_id, n, 'COMPLETE', now(), now() FROM generate_series(0, :trials - 1) AS n
    """,
    """
    INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT trial_id, 'x' || k, random(), :distribution
    FROM trials, generate_series(0, :params - 1) AS k WHERE study_id = :study_id
    """,
    """
    INSERT INTO trial_values (trial_id, objective, value, value_type)
    SELECT trial_id, 0, random() + 1, 'FINITE' FROM trials WHERE study_id = :study_id
    """,
)


def measure(url: str, trials: int = TRIALS) -> dict[str, Any]:
    """Return medians in milliseconds for a study of so many trials and for an empty one."""
    database = counting.create_database(url, f"growth {trials}")
    way = Trialfleet()
    with way.serve(database, 1) as (address,):
        tool = FleetStorage(address)
        ids = [_create(tool, name) for name in ("empty", "full", "wide")]
        _fill(database, ids[1], trials, 1)
        _fill(database, ids[2], trials // 10, 10)
        seconds = _operations(address, {"empty": ids[0], "full": ids[1]})
        found: dict[str, Any] = {"trials": trials}
        for name in seconds[0]:
            empty, full = (1000 * statistics.median(each[name]) for each in seconds)
            found[name] = {"empty_ms": round(empty, 3), "full_ms": round(full, 3)}
        found["first ask_s"] = round(seconds[1]["ask"][0], 3)
        found["history"] = _history(address, ids[1], trials)
        before = way.memory()
        _history(address, ids[2], trials // 10)
        kept = (way.memory() - before) / (trials // 10)
        found["proxy bytes per trial of 10 parameters"] = round(kept)
        tool.close()
    return found


def _create(tool: FleetStorage, name: str) -> int:
    return tool.ensure_study(StudyDefinition(name=name, directions=[StudyDirection.MINIMIZE]))[0]


def _fill(database: str, study_id: int, trials: int, params: int) -> None:
    engine = sa.create_engine(database, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    values = {
        "study_id": study_id,
        "trials": trials,
        "params": params,
        "distribution": distribution_to_json(FloatDistribution(0, 1)),
    }
    with engine.connect() as connection:
        for statement in _FILL:
            connection.execute(sa.text(statement), values)
        connection.execute(sa.text("ANALYZE"))


def _operations(address: str, studies: dict[str, int]) -> list[dict[str, list[float]]]:
    """Return the seconds of each operation, study by study; in turn, so that all have one day."""
    storages = [FleetStorage(address, study=name) for name in studies]
    found: list[dict[str, list[float]]] = [{} for _ in studies]
    assert all(storage.ordinal >= 0 for storage in storages)
    for _ in range(_ROUNDS):
        for storage, study_id, seconds in zip(storages, studies.values(), found, strict=True):
            _operate(storage, study_id, seconds)
    for storage in storages:
        storage.close()
    return found


def _operate(storage: FleetStorage, study_id: int, seconds: dict[str, list[float]]) -> None:
    def timed(operation: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = call()
        seconds.setdefault(operation, []).append(time.perf_counter() - began)
        return result

    trial_id = timed("ask", lambda: storage.ask(study_id))
    storage.set_trial_intermediate_value(trial_id, 0, 1.0)
    running = storage._core.running
    timed("report", lambda: running._report(running._trials[trial_id]))
    told = TrialState.COMPLETE, [2.0]
    timed("tell", lambda: storage.set_trial_state_values(trial_id, *told))
    timed("summary", lambda: storage.summary(study_id))


def _history(address: str, study_id: int, trials: int) -> dict[str, float]:
    """Return trials a second: the first time through a proxy, and once it has them encoded.

    And so that whoever reads them looks at all of each, not only at what samplers want of all.
    """
    first = _read(address, study_id, trials)
    again = max(_read(address, study_id, trials) for _ in range(_READINGS))
    whole = max(_read(address, study_id, trials, whole=True) for _ in range(_READINGS))
    return {
        "first_trials_per_s": first,
        "again_trials_per_s": again,
        "again_whole_trials_per_s": whole,
    }


def _read(address: str, study_id: int, trials: int, *, whole: bool = False) -> int:
    storage = FleetStorage(address)
    began = time.perf_counter()
    found = storage.news(study_id)
    assert len(found) >= trials
    if whole:
        assert all(trial.datetime_complete is not None for trial in found)
    seconds = time.perf_counter() - began
    storage.close()
    return round(trials / seconds)

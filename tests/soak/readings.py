"""What PostgreSQL says of a study, read beside all that is being tested."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from tests.soak.watcher import Reading

_STUDY: Final = sa.text(
    """
    SELECT s.study_id, d.max_trials,
        count(*) FILTER (WHERE t.state IN ('COMPLETE', 'PRUNED', 'FAIL')),
        count(*) FILTER (WHERE t.state IN ('COMPLETE', 'PRUNED')
            OR t.state = 'FAIL' AND NOT coalesce(r.lost, false)),
        count(*) FILTER (WHERE t.state = 'RUNNING'),
        array_agg(t.number) FILTER (WHERE t.state = 'RUNNING'),
        array_agg(x.worker) FILTER (WHERE t.state = 'RUNNING'),
        ARRAY(SELECT DISTINCT y.worker FROM trialfleet_sessions y
            WHERE y.study_id = s.study_id AND y.ended_at IS NULL)
    FROM studies s JOIN trialfleet_studies d USING (study_id)
    LEFT JOIN trials t USING (study_id) LEFT JOIN trialfleet_runs r USING (trial_id)
    LEFT JOIN trialfleet_sessions x USING (session_id)
    WHERE s.study_name = :name GROUP BY s.study_id, d.max_trials
    """
)
_TRIALS: Final = sa.text(
    """
    SELECT t.number, t.state::text, p.param_value, v.value, coalesce(r.lost, false)
    FROM trials t JOIN studies s USING (study_id)
    LEFT JOIN trialfleet_runs r USING (trial_id)
    LEFT JOIN trial_params p ON p.trial_id = t.trial_id AND p.param_name = 'x'
    LEFT JOIN trial_values v ON v.trial_id = t.trial_id
    WHERE s.study_name = :name AND t.number = ANY (:numbers)
    """
)


class Database:
    """Reads over a connection of its own. Every method raises ``DBAPIError`` while it is away."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(
            url, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 5}
        )

    def close(self) -> None:
        self._engine.dispose()

    def read(self, name: str, alive: Callable[[str], bool]) -> tuple[Reading, int] | None:
        """Return a study, and how many living workers have a session; None if there is none."""
        with self._engine.connect() as connection:
            row = connection.execute(_STUDY, {"name": name}).first()
        if row is None:
            return None
        study_id, budget, finished, counted, running, numbers, workers, sessions = row
        ownerless = [
            number
            for number, worker in zip(numbers or (), workers or (), strict=True)
            if worker is None or not alive(worker)
        ]
        reading = Reading(f"{name} {study_id}", finished, counted, running, budget, ownerless)
        return reading, sum(map(alive, sessions))

    def trials(self, name: str, numbers: list[int]) -> dict[int, tuple[Any, ...]]:
        """Return trials as a ledger has them: state, parameter and value; lost ones as LOST."""
        with self._engine.connect() as connection:
            rows = connection.execute(_TRIALS, {"name": name, "numbers": numbers}).all()
        assert len({row[0] for row in rows}) == len(rows)
        return {
            number: ("LOST" if lost else state, x, value if state == "COMPLETE" else None)
            for number, state, x, value, lost in rows
        }


class Ledgers:
    """What workers were told to be stored, by trial."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.acknowledged: dict[int, tuple[Any, ...]] = {}
        self.twice: list[int] = []
        self._read: dict[Path, int] = {}

    def news(self) -> Mapping[int, tuple[Any, ...]]:
        """Return what was acknowledged since the last call."""
        found = {}
        for path in sorted(self.folder.glob("*.ledger")):
            with path.open() as file:
                file.seek(self._read.get(path, 0))
                # A worker that is killed within a write leaves half a line, of no promise.
                lines = file.read().rpartition("\n")[0]
            self._read[path] = self._read.get(path, 0) + len(lines) + bool(lines)
            for line in filter(None, lines.split("\n")):
                for kind, record in json.loads(line).items():
                    if kind == "acknowledged":
                        number, state = record["number"], record["state"]
                        if number in self.acknowledged:
                            self.twice.append(number)
                        value = record["value"] if state == "COMPLETE" else None
                        found[number] = self.acknowledged[number] = (state, record["x"], value)
        return found

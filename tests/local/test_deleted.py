"""A study that somebody else deletes or renames while it runs."""

import contextlib
import re
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa

from tests.local.conftest import Start
from tests.local.running import write_study
from trialfleet import optimize
from trialfleet.model.errors import NotFound

SLOW = """
import time

def objective(trial):
    time.sleep(0.3)
    return trial.suggest_float("x", 0, 1)
"""


def delete(name: str, url: str) -> None:
    """Delete a study as stock Optuna does, which takes no notice if a trial comes in between.

    Nor does it lock in an order: PostgreSQL may undo it for a trial that is opened meanwhile.
    """
    storage = optuna.storages.RDBStorage(url)
    with contextlib.suppress(KeyError):
        while True:
            try:
                optuna.delete_study(study_name=name, storage=storage)
            except optuna.exceptions.StorageInternalError as error:
                if "deadlock detected" not in str(error.__cause__):
                    raise
    storage.remove_session()
    storage.engine.dispose()


@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_run_ends_and_says_that_its_study_was_deleted(
    folder: Path, start: Start, parallelism: int
) -> None:
    write_study(folder, SLOW, trials=1000, parallelism=parallelism)
    running = start(["run", "study.yaml"])
    running.wait_for(r"best loss .* running")
    host = folder / ".trialfleet" / "postgres"
    delete("test", f"postgresql+psycopg2://postgres@/postgres?host={host}")
    assert running.wait() == 1
    told = [line for line in running.lines if not re.match(r"test: \d+/1000 trials", line)]
    assert set(told) == {"the study 'test' was deleted while it ran"}
    assert running.lines[-1] == told[-1]


def test_a_run_of_a_study_that_is_renamed_goes_on(folder: Path, start: Start) -> None:
    write_study(folder, SLOW, trials=12)
    running = start(["run", "study.yaml"])
    running.wait_for(r"best loss .* running")
    host = folder / ".trialfleet" / "postgres"
    engine = sa.create_engine(f"postgresql+psycopg2://postgres@/postgres?host={host}")
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE studies SET study_name = 'other'"))
    engine.dispose()
    assert running.wait() == 0
    assert "test: 12 of 12 trials (12 complete)" in running.text
    assert "trialfleet trials other --data" in running.text


def test_optimize_says_that_its_study_was_deleted(database_url: str) -> None:
    def objective(trial: optuna.Trial) -> float:
        return trial.suggest_float("x", 0, 1)

    def delete_it(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        delete("mine", database_url)

    with pytest.raises(NotFound, match=r"^the study 'mine' was deleted while it ran$"):
        optimize(objective, 1000, callbacks=[delete_it], study_name="mine", storage=database_url)

"""A database of an earlier Optuna is brought up to date when that is asked for, and not before."""

import optuna
import pytest
from alembic import command
from optuna.storages import RDBStorage

from tests.calling import Call, call, done, refused
from tests.local.conftest import folder
from tests.storage.fleet import check, query, stock, write
from tests.transfer.studies import everything, fill
from trialfleet.storage.schema import SCHEMA_VERSION

__all__ = ["call", "folder"]


def downgrade(url: str, revision: str) -> None:
    """Make Optuna's tables those of an earlier one, by its own steps."""
    # Who makes the tables anew calls an index otherwise than who upgrades them.
    write(url, "ALTER INDEX ix_trials_study_id RENAME TO trials_study_id_key")
    storage = RDBStorage(url)
    try:
        command.downgrade(storage._version_manager._create_alembic_config(), revision)
    finally:
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.parametrize("revision", ["v3.0.0.d", "v3.0.0.c"])
def test_on_request(database_url: str, call: Call, revision: str) -> None:
    with stock(database_url) as storage:
        if revision == "v3.0.0.d":
            fill(storage)
        else:  # which had no place for infinity
            study = optuna.create_study(study_name="s", storage=storage)
            study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5)
        before = everything(storage)
        head = storage.get_head_version()
    downgrade(database_url, revision)
    assert query(database_url, "SELECT version_num FROM alembic_version") == [(revision,)]
    # Not silently: neither by a proxy nor by an import.
    code, _, said = call(["proxy", "--storage", database_url, "--listen", "127.0.0.1:0"])
    assert code == 2
    assert f"has revision {revision} of Optuna's schema" in said
    assert "upgrade it with `trialfleet storage upgrade --storage URL`" in said
    assert query(database_url, "SELECT version_num FROM alembic_version") == [(revision,)]
    options = ["storage", "upgrade", "--storage", database_url]
    assert done(options, call) == (
        f"Optuna's tables: {head}, was {revision}\n"
        f"Trialfleet's tables: {SCHEMA_VERSION}, was none\n"
    )
    with stock(database_url) as storage:
        assert everything(storage) == before
    check(database_url)
    assert done(options, call) == (
        f"Optuna's tables: {head}\nTrialfleet's tables: {SCHEMA_VERSION}\n"
    )


def test_a_newer_one_is_left_alone(url: str, database_url: str, call: Call) -> None:
    write(url, "UPDATE alembic_version SET version_num = 'v9.9.9.a'")
    options = ["storage", "upgrade", "--storage"]
    said = refused([*options, url], call)
    assert said.startswith("the database has revision v9.9.9.a of Optuna's schema, the installed ")
    assert said.endswith(": install the Optuna that made it\n")
    write(url, "UPDATE trialfleet_schema SET version = 99, oldest = 99")
    assert refused([*options, url], call).startswith("the database has version 99 of the ")
    assert query(url, "SELECT version_num FROM alembic_version") == [("v9.9.9.a",)]
    assert "no studies in this database" in refused([*options, database_url], call)

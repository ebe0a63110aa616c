"""The database's schema: Optuna's, created by the installed Optuna, and ours beside it."""

from importlib import resources
from pathlib import Path
from typing import Final

import optuna
import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from optuna.storages import RDBStorage

from trialfleet.model.errors import SchemaMismatch

SCHEMA_VERSION: Final = 6
"""Of the ``trialfleet_`` tables and functions; the number changes with any change of them."""

_SCRIPTS: Final = ("schema.sql", "plain.sql", "reading.sql")

# Serializes proxies that start at once on an empty database. The number is arbitrary.
_PREPARE_LOCK: Final = 0x7472_6961_6C66_6C74


def prepare(engine: sa.Engine) -> None:
    """Create what is missing of the schema; a second call changes nothing.

    Raises :class:`SchemaMismatch`, before anything is written, if the tables were made by a
    version of Optuna or Trialfleet that the installed one can't work with.
    """
    with engine.connect() as connection:
        # Another may take over a large database meanwhile: that takes as long as it takes.
        connection.execute(sa.text("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0"))
        connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": _PREPARE_LOCK})
        connection.commit()
        try:
            _prepare_locked(engine, connection)
        finally:
            connection.rollback()
            connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": _PREPARE_LOCK})
            connection.commit()


def _prepare_locked(engine: sa.Engine, connection: sa.Connection) -> None:
    tables = set(sa.inspect(connection).get_table_names())
    ours = _check_ours(connection, tables)
    if "studies" in tables or "alembic_version" in tables:
        _check_optunas(connection)
    connection.rollback()
    if "studies" not in tables:
        # What Optuna does on a new database: create its tables and stamp the revision.
        RDBStorage(engine.url.render_as_string(hide_password=False)).engine.dispose()
    if not ours:
        # Nobody may write a trial between the counting of old ones and the first trigger. Who
        # comes after us waits behind us, so we wait no longer than for any other lock.
        connection.execute(sa.text("LOCK TABLE trials IN SHARE ROW EXCLUSIVE MODE"))
        connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
        for name in _SCRIPTS:
            script = resources.files(__package__).joinpath(name).read_text()
            connection.execution_options(no_parameters=True).exec_driver_sql(script)
        connection.execute(
            sa.text("INSERT INTO trialfleet_schema VALUES (:version)"), {"version": SCHEMA_VERSION}
        )
        connection.commit()


def _check_ours(connection: sa.Connection, tables: set[str]) -> bool:
    if "trialfleet_schema" not in tables:
        return False
    found = connection.execute(sa.text("SELECT version FROM trialfleet_schema")).scalar_one()
    if found != SCHEMA_VERSION:
        raise SchemaMismatch(
            f"the database has version {found} of the trialfleet_ tables, this Trialfleet works "
            f"with version {SCHEMA_VERSION}: use the Trialfleet that made them"
        )
    return True


def _check_optunas(connection: sa.Connection) -> None:
    found = MigrationContext.configure(connection).get_current_revision()
    scripts = ScriptDirectory(str(Path(optuna.__file__).parent / "storages/_rdb/alembic"))
    accepted = scripts.get_current_head()
    if found == accepted:
        return
    known = {revision.revision for revision in scripts.walk_revisions()}
    remedy = (
        "upgrade it with `optuna storage upgrade --storage URL`"
        if found is None or found in known
        else "install the Optuna that made it"
    )
    raise SchemaMismatch(
        f"the database has revision {found or 'none'} of Optuna's schema, the installed Optuna "
        f"{optuna.__version__} works with {accepted}: {remedy}"
    )

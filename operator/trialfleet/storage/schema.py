"""The database's schema: Optuna's, created by the installed Optuna, and ours beside it."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import optuna
import psycopg2.errors
import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from optuna.storages import RDBStorage

from trialfleet.model.errors import SchemaMismatch
from trialfleet.storage import identity
from trialfleet.storage.migrations import Migration, migrations

SCHEMA_VERSION: Final = migrations()[-1].version
"""Of the ``trialfleet_`` tables and functions that this release makes and works with."""

_OLDEST: Final = migrations()[0].version
"""The first version that is brought up to date."""

_RECORDED: Final = 7
"""The version since which a database records which steps were applied."""

_TRIES: Final = 5
"""Times that a step is tried while a proxy of the release before holds a lock or waits for ours."""

_BUSY: Final = (psycopg2.errors.DeadlockDetected, psycopg2.errors.LockNotAvailable)

# Serializes proxies that start at once on an empty database. The number is arbitrary.
_PREPARE_LOCK: Final = 0x7472_6961_6C66_6C74

_log = logging.getLogger(__name__)


def prepare(engine: sa.Engine, expected: str = "") -> str:
    """Create what is missing of the schema and bring it up to date; a second call changes nothing.

    Returns the database's identity. Raises, before anything is written, :class:`DataLost` if it
    is not the ``expected`` one, and :class:`SchemaMismatch` if the tables were made by a version
    of Optuna or Trialfleet that the installed one can't work with.
    """
    with _locked(engine) as connection:
        if expected:
            identity.check(identity.read(connection), expected)
        _prepare_locked(engine, connection)
        return identity.read(connection)


def require_ours(engine: sa.Engine) -> None:
    """Raise :class:`SchemaMismatch` for a database that is not up to date; change nothing."""
    with engine.connect() as connection:
        found = _versions(connection)
        _is_current(connection)
    if found.trialfleet < SCHEMA_VERSION:
        raise SchemaMismatch(
            f"the database has version {found.trialfleet or 'none'} of the trialfleet_ tables, "
            f"accepted: {SCHEMA_VERSION}: bring it up to date with `trialfleet storage upgrade`"
        )


class Versions(NamedTuple):
    """Of a database's tables."""

    optuna: str | None
    """The revision of Optuna's, None if it has none."""
    trialfleet: int
    """Of ours, 0 if there are none."""


def upgrade(engine: sa.Engine) -> tuple[Versions, Versions]:
    """Bring a database up to date, Optuna's own tables too; return what it had and has.

    Nobody may use the database meanwhile: other versions of Optuna don't know its tables then.
    Raises :class:`SchemaMismatch`, before anything is written, if they were made by a newer version
    than the installed one, or by one of ours that is too old.
    """
    with _locked(engine) as connection:
        before = _versions(connection)
        url = engine.url.render_as_string(hide_password=False)
        if not _is_current(connection, upgradable=True):
            connection.rollback()
            # As `optuna storage upgrade` does it.
            storage = RDBStorage(url, skip_compatibility_check=True)
            try:
                storage.upgrade()
            finally:
                storage.remove_session()
                storage.engine.dispose()
        connection.rollback()
        _prepare_locked(engine, connection)
        return before, _versions(connection)


def _versions(connection: sa.Connection) -> Versions:
    tables = set(sa.inspect(connection).get_table_names())
    revision = MigrationContext.configure(connection).get_current_revision()
    return Versions(revision, _check_ours(connection, tables))


@contextlib.contextmanager
def _locked(engine: sa.Engine) -> Iterator[sa.Connection]:
    with engine.connect() as connection:
        # Another may take over a large database meanwhile: that takes as long as it takes.
        connection.execute(sa.text("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0"))
        connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": _PREPARE_LOCK})
        connection.commit()
        try:
            yield connection
        finally:
            connection.rollback()
            connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": _PREPARE_LOCK})
            connection.commit()


def _prepare_locked(engine: sa.Engine, connection: sa.Connection) -> None:
    tables = set(sa.inspect(connection).get_table_names())
    found = _check_ours(connection, tables)
    if "studies" in tables or "alembic_version" in tables:
        _is_current(connection)
    connection.rollback()
    if "studies" not in tables:
        # What Optuna does on a new database: create its tables and stamp the revision.
        RDBStorage(engine.url.render_as_string(hide_password=False)).engine.dispose()
    for step in migrations():
        if step.version > found:
            _apply(connection, step)


def _apply(connection: sa.Connection, step: Migration) -> None:
    for attempt in range(1, _TRIES + 1):
        try:
            with connection.begin():
                _run(connection, step)
            return
        except sa.exc.DBAPIError as error:
            if not isinstance(error.orig, _BUSY) or attempt == _TRIES:
                raise
            _log.info("migration %d: attempt %d: %s", step.version, attempt, error.orig)


def _run(connection: sa.Connection, step: Migration) -> None:
    connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
    if step.version == _OLDEST:
        # Nobody may write a trial between the counting of old ones and the first trigger. Who
        # comes after us waits behind us, so we wait no longer than for any other lock.
        connection.execute(sa.text("LOCK TABLE trials IN SHARE ROW EXCLUSIVE MODE"))
    connection.execution_options(no_parameters=True).exec_driver_sql(step.script)
    connection.execute(
        sa.text(
            "INSERT INTO trialfleet_schema (version) VALUES (:version)"
            if step.version == _OLDEST
            else "UPDATE trialfleet_schema SET version = :version"
        ),
        {"version": step.version},
    )
    if step.version >= _RECORDED:
        connection.execute(
            sa.text(
                "INSERT INTO trialfleet_migrations (version, name, checksum) "
                "VALUES (:version, :name, :checksum) ON CONFLICT DO NOTHING"
            ),
            [
                {"version": done.version, "name": done.name, "checksum": done.checksum}
                for done in migrations()
                if done.version <= step.version
            ],
        )


def _check_ours(connection: sa.Connection, tables: set[str]) -> int:
    """Return the version of our tables, 0 if there are none."""
    if "trialfleet_schema" not in tables:
        return 0
    row = connection.execute(sa.text("SELECT * FROM trialfleet_schema")).mappings().one()
    found = int(row["version"])
    oldest = int(row.get("oldest", found))
    if found < _OLDEST:
        raise SchemaMismatch(
            f"the database has version {found} of the trialfleet_ tables, accepted: {_OLDEST} to "
            f"{SCHEMA_VERSION}: use the Trialfleet that made them"
        )
    if found > SCHEMA_VERSION and oldest > SCHEMA_VERSION:
        raise SchemaMismatch(
            f"the database has version {found} of the trialfleet_ tables, this Trialfleet works "
            f"with version {SCHEMA_VERSION}: use the Trialfleet that made them, or a newer one"
        )
    if found >= _RECORDED:
        _check_steps(connection)
    return found


def _check_steps(connection: sa.Connection) -> None:
    rows = connection.execute(sa.text("SELECT version, checksum FROM trialfleet_migrations"))
    applied = {row.version: row.checksum for row in rows}
    for step in migrations():
        if applied.get(step.version, step.checksum) != step.checksum:
            raise SchemaMismatch(
                f"the database had another step to version {step.version} of the trialfleet_ "
                f"tables than this Trialfleet's: use the Trialfleet that made them"
            )


def _is_current(connection: sa.Connection, *, upgradable: bool = False) -> bool:
    """Whether Optuna's tables are those of the installed Optuna.

    Raises :class:`SchemaMismatch` if they are not, or with ``upgradable`` if they can't become so.
    """
    found = MigrationContext.configure(connection).get_current_revision()
    scripts = ScriptDirectory(str(Path(optuna.__file__).parent / "storages/_rdb/alembic"))
    accepted = scripts.get_current_head()
    if found == accepted:
        return True
    known = {revision.revision for revision in scripts.walk_revisions()}
    older = found is None or found in known
    if older and upgradable:
        return False
    remedy = (
        "upgrade it with `trialfleet storage upgrade --storage URL`"
        if older
        else "install the Optuna that made it"
    )
    raise SchemaMismatch(
        f"the database has revision {found or 'none'} of Optuna's schema, the installed Optuna "
        f"{optuna.__version__} works with {accepted}: {remedy}"
    )

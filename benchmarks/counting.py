"""What a storage costs PostgreSQL: transactions, statements, log bytes."""

from dataclasses import dataclass

import sqlalchemy as sa


@dataclass(frozen=True)
class Cost:
    """Totals of a server since its start, or what lies between two of them."""

    transactions: int
    statements: int
    wal_bytes: int

    def since(self, before: "Cost") -> "Cost":
        """Return what came after ``before``."""
        return Cost(
            self.transactions - before.transactions,
            self.statements - before.statements,
            self.wal_bytes - before.wal_bytes,
        )


_COST = sa.text(
    """
    SELECT
        (SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database)::bigint,
        (SELECT sum(calls) FROM pg_stat_statements
            WHERE query !~* '^(begin|commit|rollback|start transaction)')::bigint,
        pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint
    """
)


def enable(url: str) -> None:
    """Have the server count statements from its next start on."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(
            sa.text("ALTER SYSTEM SET shared_preload_libraries = pg_stat_statements")
        )
        connection.execute(sa.text("ALTER SYSTEM SET max_connections = 1000"))
        connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS pg_stat_statements"))


def read(url: str) -> Cost:
    """Return the totals of the server; a session reports its own with a delay."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        return Cost(*connection.execute(_COST).one())


def create_database(url: str, name: str) -> str:
    """Create a database; return its URL."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f'CREATE DATABASE "{name}"'))
    return sa.make_url(url).set(database=name).render_as_string(hide_password=False)

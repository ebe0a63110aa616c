"""A transaction of the writer, in as few round trips as it has questions."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import psycopg2
import sqlalchemy as sa

# A plan is made once for a connection, when the tables may still be empty or the statistics old:
# every table is reached by an index, whatever the planner knows of it.
_PLANS: Final = (
    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; "
    "SET enable_bitmapscan = off; SET enable_sort = off"
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that each connection prepares when it first needs it.

    To plan it takes longer than to run it, so its plan is kept.
    """

    name: str
    types: tuple[str, ...]
    """Of its parameters: arrays, ``$1`` the first."""
    text: str

    @property
    def preparation(self) -> str:
        """The text that prepares it."""
        types = f" ({', '.join(self.types)})" if self.types else ""
        return f"PREPARE {self.name}{types} AS {self.text}"


class Prepared:
    """A connection in autocommit mode, and what it has prepared. Belongs to one thread."""

    def __init__(self, engine: sa.Engine) -> None:
        """Make a connection. Raises ``sqlalchemy.exc.DBAPIError``."""
        self.connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self.statements: set[Statement] = set()
        try:
            self.connection.exec_driver_sql(_PLANS)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close it, and don't let it be used again: it has statements and settings of its own."""
        self.connection.invalidate()
        self.connection.close()


class Transaction:
    """A transaction that has begun, on a connection in autocommit mode.

    Statements without an answer wait, and are sent together with the next one that has one: a
    transaction takes one round trip for each question that it asks, and one for its end.

    Methods raise ``sqlalchemy.exc.DBAPIError`` for what the database refuses, also of a statement
    that had waited, and ``ValueError`` for a text that no database takes.
    """

    def __init__(self, prepared: Prepared) -> None:
        """Begin, as soon as something is sent."""
        self._prepared = prepared
        self._dbapi: Any = prepared.connection.connection.dbapi_connection
        self._waiting: list[str] = ["BEGIN"]
        self.committing = False
        """Whether the end was sent: if its answer is missing it may have been committed."""

    def do(self, statement: Statement | str, *arrays: Iterable[Any]) -> None:
        """Make a statement without an answer."""
        if isinstance(statement, str):
            self._waiting.append(statement)
            return
        if statement not in self._prepared.statements:
            self._waiting.append(statement.preparation)
            self._prepared.statements.add(statement)
        values = ", ".join(map(_literal, arrays))
        self._waiting.append(f"EXECUTE {statement.name}({values})")

    def rows(self, statement: Statement, *arrays: Iterable[Any]) -> list[tuple[Any, ...]]:
        """Make a statement, after those that wait, and return its rows."""
        self.do(statement, *arrays)
        return self._send(rows=True)

    @property
    def connection(self) -> sa.Connection:
        """The connection, for what is written for SQLAlchemy; all that waited has been sent."""
        if self._waiting:
            self._send(rows=False)
        return self._prepared.connection

    def execute(
        self, statement: sa.TextClause, values: dict[str, Any] | None = None
    ) -> sa.CursorResult[*tuple[Any, ...]]:
        """Make a statement of SQLAlchemy's, after those that wait."""
        return self.connection.execute(statement, values)

    def commit(self) -> None:
        """End the transaction."""
        self.committing = True
        self.do("COMMIT")
        self._send(rows=False)

    def roll_back(self) -> None:
        """Undo the transaction after an error."""
        self._prepared.statements.clear()  # a part of them may not have been prepared
        self._waiting = ["ROLLBACK", "DEALLOCATE ALL"]
        self._send(rows=False)

    def _send(self, *, rows: bool) -> list[tuple[Any, ...]]:
        script, self._waiting = "; ".join(self._waiting), []
        try:
            with self._dbapi.cursor() as cursor:
                cursor.execute(script)
                return cursor.fetchall() if rows else []
        except psycopg2.Error as error:
            raise sa.exc.DBAPIError("a batch of writes", None, error) from error


def _literal(values: Iterable[Any]) -> str:
    """Return an array as a literal: the server reads its text ten times as fast as ARRAY[...]."""
    text = "{" + ",".join(map(_element, values)) + "}"
    if "\0" in text:
        # As psycopg2 says it of parameters.
        raise ValueError("A string literal cannot contain NUL (0x00) characters.")
    # A backslash in it is a backslash: standard_conforming_strings is on.
    return "'" + text.replace("'", "''") + "'"


def _element(value: str | bytes | float | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        value = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{value}"'
    if isinstance(value, bytes | memoryview):
        return f'"\\\\x{value.hex()}"'
    return str(value)

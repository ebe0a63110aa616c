"""Many rows into one table, in the quickest way that a database has."""

import datetime
import enum
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import psycopg2
import sqlalchemy as sa

_ESCAPES: Final = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def insert(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that have the same columns, in their order. Raises ``sqlalchemy.exc.DBAPIError``.

    PostgreSQL takes a COPY in a fifth of the time of INSERTs.
    """
    if not rows:
        return
    dialect = connection.dialect
    if (dialect.name, dialect.driver) != ("postgresql", "psycopg2"):
        connection.execute(sa.insert(table), rows)
        return
    columns = ", ".join(rows[0])
    text = io.StringIO("".join(_line(row.values()) for row in rows))
    dbapi: Any = connection.connection.dbapi_connection
    try:
        with dbapi.cursor() as cursor:
            cursor.copy_expert(f"COPY {table.name} ({columns}) FROM STDIN", text)
    except psycopg2.Error as error:
        raise _translated(error) from error


def _translated(error: psycopg2.Error) -> sa.exc.DBAPIError:
    for kind, translation in (
        (psycopg2.DataError, sa.exc.DataError),
        (psycopg2.IntegrityError, sa.exc.IntegrityError),
    ):
        if isinstance(error, kind):
            return translation("COPY", None, error)
    return sa.exc.DBAPIError("COPY", None, error)


def _line(values: Iterable[Any]) -> str:
    return "\t".join(map(_text, values)) + "\n"


def _text(value: Any) -> str:
    if value is None:
        return r"\N"
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    return repr(value)

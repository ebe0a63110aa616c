"""Which database it is: the one that was served before, another, or one that came back empty."""

from typing import Any, Final

import psycopg2.errors
import sqlalchemy as sa

from trialfleet import names
from trialfleet.model.errors import DataLost

_IDENTITY: Final = "SELECT identity::text FROM trialfleet_storage"


def read(connection: sa.Connection) -> str:
    """Return the identity of a database; empty if it has none. Ends the transaction."""
    try:
        return str(connection.execute(sa.text(_IDENTITY)).scalar() or "")
    except sa.exc.ProgrammingError as error:
        if isinstance(error.orig, psycopg2.errors.UndefinedTable):
            return ""
        raise
    finally:
        connection.rollback()


def read_new(connection: Any) -> str:
    """Return the identity of the database of a new connection of psycopg2."""
    row = None
    with connection.cursor() as cursor:
        try:
            cursor.execute(_IDENTITY)
            row = cursor.fetchone()
        except psycopg2.errors.UndefinedTable:
            pass
    connection.rollback()
    return "" if row is None else str(row[0])


def check(found: str, expected: str) -> None:
    """Raise :class:`DataLost` if a database is not the expected one."""
    if expected and found != expected:
        what = f"another one, {found}" if found else "empty"
        raise DataLost(
            f"{names.REASON_DATA_LOST}: the database is {what}; the trials of this storage were in "
            f"the one with the identity {expected}"
        )

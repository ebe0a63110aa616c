"""How a database is connected to, and when it is away."""

import psycopg2
import psycopg2.errors


def is_gone(error: BaseException | None) -> bool:
    """Whether an error of psycopg2 means that the connection is of no more use."""
    # A server that starts, stops or has no connection left says so while connecting; one that
    # is read-only is a replica that was the primary a moment ago.
    return (
        # One that breaks off is told by the most general class, without a code.
        (isinstance(error, psycopg2.OperationalError) or type(error) is psycopg2.DatabaseError)
        and (
            error.pgcode is None
            or (
                error.pgcode[:2] in {"08", "53", "57"}
                and not isinstance(error, psycopg2.errors.QueryCanceled)
            )
        )
    ) or isinstance(error, psycopg2.InterfaceError | psycopg2.errors.ReadOnlySqlTransaction)

"""Statements made from the event loop itself, one at a time: no thread is between."""

import asyncio
import logging
import select
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from time import monotonic
from typing import Any, Final

import psycopg2
import psycopg2.extensions
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE

from trialfleet.storage.connecting import is_gone

_log = logging.getLogger(__name__)

_STATES: Final = (POLL_OK, POLL_READ, POLL_WRITE)
_CONNECTION_OK: Final = 0
"""Of libpq."""

_CONNECT_S: Final = 5.0
_PAUSE_S: Final = 1.0
"""After a connection was not to be had, until the next try."""

Done = Callable[[Sequence[Any] | None], None]
"""Takes the row that a statement returned, an empty one if it returns none; None if it failed, or
may have."""


class Express:
    """A connection to the database, made again when it breaks. Belongs to one event loop.

    Each statement is a transaction of its own, unless it says that it begins one. Who is told that
    one failed makes it in another way, and hears there why: it may have been committed all the
    same.
    """

    def __init__(self, settings: Mapping[str, Any], executor: Executor, rehearsal: str) -> None:
        """Take libpq's settings, and who may wait while a connection is made.

        ``rehearsal`` is a statement that changes nothing, made on each new connection: whatever
        the database prepares for those that follow is not waited for with a first trial.
        """
        self._settings = settings
        self._rehearsal = rehearsal
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._connection: Any = None
        self._fileno = -1
        self._cursor: Any = None
        self._opening: asyncio.Task[None] | None = None
        self._open_at = 0.0
        self._done: Done | None = None
        self._writing = False

    @property
    def connected(self) -> bool:
        """Whether there is a connection; if there is none, one is being made."""
        if self._connection is None and self._opening is None and monotonic() >= self._open_at:
            self._opening = self._loop.create_task(self.open())
        return self._connection is not None

    @property
    def idle(self) -> bool:
        """Whether no statement is under way."""
        return self._done is None

    async def open(self) -> None:
        """Make the connection, if it can be had."""
        try:
            cursor = await self._loop.run_in_executor(
                self._executor, _connect, self._settings, self._rehearsal
            )
        except (psycopg2.Error, TimeoutError) as error:
            _log.info("no connection for plain writes: %s", " ".join(str(error).split()))
            self._open_at = monotonic() + _PAUSE_S
        else:
            self._connection, self._cursor = cursor.connection, cursor
            self._fileno = self._connection.fileno()
            self._loop.add_reader(self._fileno, self._poll)
        finally:
            self._opening = None

    def run(self, statement: str, done: Done) -> None:
        """Make a statement that returns a row at most, on a connection that has to be idle."""
        self._done = done
        try:
            self._cursor.execute(statement)
        except (psycopg2.Error, UnicodeError) as error:
            self._fail(error)
        else:
            self._poll()

    async def close(self) -> None:
        """Close the connection; a statement under way has failed."""
        if self._opening is not None:
            await asyncio.wait((self._opening,))
        self._drop()
        self._finish(None)

    def disconnect(self) -> None:
        """Give up the connection, and all that the database holds for it."""
        self._drop()

    def _poll(self) -> None:
        try:
            state = self._connection.poll()
            if self._writing != (state == POLL_WRITE):
                self._writing = not self._writing
                if self._writing:
                    self._loop.add_writer(self._fileno, self._poll)
                else:
                    self._loop.remove_writer(self._fileno)
            if state not in _STATES or self._connection.info.status != _CONNECTION_OK:
                raise psycopg2.OperationalError("the connection is broken")
            done = state == POLL_OK and self._done is not None
            row = (self._cursor.fetchone() if self._cursor.description else ()) if done else None
        except psycopg2.Error as error:
            self._fail(error)
            return
        if row is not None:
            self._finish(row)

    def _fail(self, error: psycopg2.Error | UnicodeError) -> None:
        _log.info("a plain write failed: %s", " ".join(str(error).split()))
        if self._done is None or is_gone(error):
            self._drop()
        self._finish(None)

    def _finish(self, row: Sequence[Any] | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(row)

    def _drop(self) -> None:
        if self._connection is not None:
            # By its number: a connection that broke does not know it any more.
            self._loop.remove_reader(self._fileno)
            self._loop.remove_writer(self._fileno)
            self._connection.close()
            self._connection = self._cursor = None
            self._writing = False


def _connect(settings: Mapping[str, Any], rehearsal: str) -> Any:
    """Return a cursor of a new connection, whose statements are not waited for.

    Raises ``psycopg2.Error`` and ``TimeoutError``.
    """
    deadline = monotonic() + _CONNECT_S
    made = psycopg2.connect(**settings, async_=True)
    try:
        _wait(made, deadline)
        cursor = made.cursor()
        cursor.execute(rehearsal)
        _wait(made, deadline)
    except BaseException:
        made.close()
        raise
    return cursor


def _wait(made: Any, deadline: float) -> None:
    while (state := made.poll()) != POLL_OK:
        # Not select.select, which takes no file above 1023. One for each turn of the loop: the file
        # is another when the next of a host's addresses is tried.
        waiting = select.poll()
        waiting.register(made, select.POLLIN if state == POLL_READ else select.POLLOUT)
        left_s = deadline - monotonic()
        if left_s <= 0 or not waiting.poll(left_s * 1_000):
            raise TimeoutError(f"not connected within {_CONNECT_S:g} s")

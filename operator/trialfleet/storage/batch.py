"""Applying commands: which ones share a transaction, and what is done when one fails."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import psycopg2
import psycopg2.errors
import sqlalchemy as sa
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from trialfleet.model.errors import InvalidInput, NotFound, StorageUnavailable, TrialfleetError
from trialfleet.storage.connecting import is_gone
from trialfleet.storage.opening import create_trial, lock_openings, open_trials
from trialfleet.storage.params import Distributions
from trialfleet.storage.plain import LEFT, PlainWrites
from trialfleet.storage.records import (
    CloseSession,
    Command,
    CreateStudy,
    CreateTrial,
    DeleteStudy,
    EnsureStudy,
    GiveUp,
    KeepAlive,
    OpenSession,
    OpenTrial,
    SetStudyAttribute,
    StopStudy,
    TrialCreated,
    UpdateTrial,
    WriteTrial,
)
from trialfleet.storage.sessions import (
    begin_once,
    close_session,
    finish_once,
    give_up,
    keep_alive,
    open_session,
)
from trialfleet.storage.studies import (
    create_study,
    delete_study,
    ensure_study,
    set_study_attribute,
    stop_study,
)
from trialfleet.storage.updating import update_trials

_log = logging.getLogger(__name__)

_SINGLE: Final[dict[type[Any], Callable[[sa.Connection, Any], Any]]] = {
    EnsureStudy: ensure_study,
    CreateStudy: create_study,
    StopStudy: stop_study,
    DeleteStudy: delete_study,
    SetStudyAttribute: set_study_attribute,
    OpenSession: open_session,
    CloseSession: close_session,
    GiveUp: give_up,
}

_MAX_TRIES: Final = 5
# Two transactions that waited for each other, wrote the same, or of which one deleted what the
# other refers to: the database has undone one, and the same again succeeds or is told why not.
_AGAIN: Final = (
    psycopg2.errors.DeadlockDetected,
    psycopg2.errors.SerializationFailure,
    psycopg2.errors.UniqueViolation,
    psycopg2.errors.ForeignKeyViolation,
)

# For those who waited in vain once, together with others: who holds the lock may well keep it.
_IMPATIENT: Final = sa.text("SET LOCAL lock_timeout = '100ms'")
_MOST_IN_VAIN: Final = 12
"""So many parts of the commands about one study are tried like that before the rest is refused: by
halves, that is enough to find the one of a batch that has to wait."""

# Ranks the trials that were completed so far; else that is done at the end of the transaction.
_RANK: Final = sa.text("SET CONSTRAINTS trialfleet_completed IMMEDIATE")

_Work = Callable[[sa.Connection], list[Any]]


class Writer:
    """Applies batches of commands on one connection. Belongs to one thread."""

    def __init__(self, engine: sa.Engine, plain: PlainWrites | None = None) -> None:
        """Take the engine; a connection is made when the first batch comes."""
        self._engine = engine
        self._connection: sa.Connection | None = None
        self._plain = plain or PlainWrites(Distributions())
        self._distributions = self._plain.distributions
        self._cut = False
        self._in_vain: list[Exception] = []

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def cancel(self) -> None:
        """Let the statement that is under way, in another thread, fail."""
        connection = self._connection
        if connection is not None:
            dbapi: Any = connection.connection.dbapi_connection
            dbapi.cancel()

    def apply(self, commands: Sequence[Command], *, cut: bool = False) -> list[Any]:
        """Apply commands and commit; return for each its answer or its error.

        With ``cut`` they were tried on another connection, which broke: as on a connection of its
        own that breaks, they are tried once more.

        The commands of different callers have no order among each other. All openings of
        trials and writes to trials share one transaction, all keep-alives another one, and
        each of the rare others has its own: so every transaction locks sessions, studies, trials
        and counts in this order. Trials are written to before others are opened.
        """
        self._cut = cut
        if cut:
            self._discard()
        shared = [i for i, command in enumerate(commands) if _is_shared(command)]
        alive = [i for i, command in enumerate(commands) if isinstance(command, KeepAlive)]
        answers: list[Any] = [None] * len(commands)
        for places, work in ((shared, self._shared), (alive, keep_alive)):
            for place, answer in zip(
                places, self._together([commands[i] for i in places], work), strict=True
            ):
                answers[place] = answer
        for place in sorted(set(range(len(commands))) - {*shared, *alive}):
            (answers[place],) = self._together([commands[place]], self._single)
        return answers

    def _together(
        self, commands: Sequence[Any], work: Callable[..., list[Any]], *, patient: bool = True
    ) -> list[Any]:
        if not commands:
            return []
        if not patient and len(self._in_vain) >= _MOST_IN_VAIN:
            return [_refused(self._in_vain[-1])] * len(commands)
        try:
            return self._transaction(lambda connection: work(connection, commands), patient)
        except StorageUnavailable as error:
            return [error] * len(commands)
        except Exception as error:
            locked = _is_locked(error)
            if locked and not patient:
                self._in_vain.append(error)
            if len(commands) == 1:
                return [_refused(error)]
            # Somebody's command is wrong, or waits for a lock that somebody holds: the others
            # are not to suffer for it, nor to wait for it one after the other.
            _log.info("a batch of %d is applied in halves: %s", len(commands), _one_line(error))
            if locked and patient:
                return self._study_by_study(commands, work)
            middle = len(commands) // 2
            return [
                *self._together(commands[:middle], work, patient=patient),
                *self._together(commands[middle:], work, patient=patient),
            ]

    def _study_by_study(self, commands: Sequence[Any], work: Callable[..., list[Any]]) -> list[Any]:
        # Mostly it is one study's lock: what is about others is not to wait for it any more.
        studies: dict[int | None, list[int]] = {}
        for place, command in enumerate(commands):
            studies.setdefault(self._study(command), []).append(place)
        answers: list[Any] = [None] * len(commands)
        for places in studies.values():
            about = [commands[place] for place in places]
            for place, answer in zip(
                places, self._together(about, work, patient=False), strict=True
            ):
                answers[place] = answer
            self._in_vain.clear()
        return answers

    def _study(self, command: Any) -> int | None:
        """Return which study a command is about, as far as that is known."""
        if isinstance(command, UpdateTrial | WriteTrial):
            return self._plain.study(command.update.trial_id)
        study_id: int | None = getattr(command, "study_id", None)
        return study_id

    def _transaction(self, work: _Work, patient: bool) -> list[Any]:
        cut = self._cut
        for attempt in range(1, _MAX_TRIES + 1):
            committing = False
            try:
                if self._connection is None:
                    self._connection = self._engine.connect()
                with self._distributions.transaction(), self._connection.begin():
                    if not patient:
                        self._connection.execute(_IMPATIENT)
                    answers = work(self._connection)
                    committing = True
                return answers
            except sa.exc.DBAPIError as error:
                connected = self._connection is not None
                if error.connection_invalidated or not connected or is_gone(error.orig):
                    self._discard()
                    if connected and not committing and not cut:
                        # Maybe while nobody used it. Nothing was committed: begin anew, once.
                        cut = True
                        _log.info("the database connection is made again: %s", _one_line(error))
                        continue
                    raise StorageUnavailable(f"the database is away: {_one_line(error)}") from error
                if isinstance(error.orig, _AGAIN) and attempt < _MAX_TRIES:
                    _log.info("attempt %d of a transaction: %s", attempt, _one_line(error))
                    continue
                raise
        raise AssertionError("unreachable")

    def _discard(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None

    def _shared(self, connection: sa.Connection, commands: Sequence[Any]) -> list[Any]:
        with _alone(connection):
            answers = self._plain.apply(connection, commands)
        left = [i for i, answer in enumerate(answers) if answer is LEFT]
        opens = [i for i in left if _opens(commands[i])]
        writes = [i for i in left if not _opens(commands[i])]
        if writes:
            if opens:
                lock_openings(connection, [commands[i] for i in opens])
            for place, answer in zip(
                writes,
                update_trials(connection, [commands[i] for i in writes], self._distributions),
                strict=True,
            ):
                answers[place] = answer
        if opens:
            if len(opens) < len(commands):
                # A goal that was just reached ends the study for those who ask.
                connection.execute(_RANK)
            for place, answer in zip(
                opens, open_trials(connection, [commands[i] for i in opens]), strict=True
            ):
                answers[place] = answer
        return answers

    def _single(self, connection: sa.Connection, commands: Sequence[Any]) -> list[Any]:
        (command,) = commands
        write = getattr(command, "write", None)
        if write is None:
            return [self._execute(connection, command)]
        new, answer = begin_once(connection, write)
        if not new:
            return [_restored(connection, command, answer)]
        result = self._execute(connection, command)
        if result is not None:
            # Of a tuple the id, of a truth 0 or 1: see _restored.
            finish_once(connection, write, int(result[0] if isinstance(result, tuple) else result))
        return [result]

    def _execute(self, connection: sa.Connection, command: Any) -> Any:
        if isinstance(command, CreateTrial):
            assert command.template is not None
            return create_trial(connection, command.study_id, command.template, self._distributions)
        if isinstance(command, WriteTrial):
            (answer,) = update_trials(connection, [command], self._distributions)
            if isinstance(answer, TrialfleetError):
                raise answer
            return answer
        return _SINGLE[type(command)](connection, command)


@contextlib.contextmanager
def _alone(connection: sa.Connection) -> Iterator[None]:
    """Let each statement commit itself, unless a transaction has begun.

    That saves two round trips. If what follows fails, what was committed is applied once more,
    and has its effect once, as if a caller had sent it again.
    """
    dbapi: Any = connection.connection.dbapi_connection
    if dbapi.info.transaction_status != TRANSACTION_STATUS_IDLE:
        yield
        return
    dbapi.autocommit = True
    try:
        yield
    finally:
        if not dbapi.closed:
            dbapi.autocommit = False


def _opens(command: Command) -> bool:
    return isinstance(command, OpenTrial) or (
        isinstance(command, CreateTrial) and command.template is None
    )


def _is_shared(command: Command) -> bool:
    return (
        _opens(command)
        or isinstance(command, UpdateTrial)
        or (isinstance(command, WriteTrial) and command.write is None)
    )


def _restored(connection: sa.Connection, command: Command, answer: int | None) -> Any:
    """Return what the first of two equal writes was answered."""
    if isinstance(command, CreateTrial):
        query = sa.text("SELECT trial_id, number FROM trials WHERE trial_id = :trial_id")
        row = connection.execute(query, {"trial_id": answer}).first()
        if row is None:
            raise NotFound(f"no trial has the id {answer}")
        return TrialCreated(*row)
    if isinstance(command, WriteTrial):
        return bool(answer)
    return answer


def _one_line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    # What the database says without the statement that it says it of.
    said = cause.diag.message_primary if isinstance(cause, psycopg2.Error) else None
    return " ".join((said or str(cause)).split())[:300]


def _is_locked(error: Exception) -> bool:
    return isinstance(getattr(error, "orig", None), psycopg2.errors.LockNotAvailable)


def _refused(error: Exception) -> Exception:
    """Return the error that the command's caller is answered with."""
    refused: Exception = error
    if isinstance(error, ValueError) or isinstance(
        getattr(error, "orig", None), psycopg2.DataError | psycopg2.IntegrityError
    ):
        refused = InvalidInput(f"can't be stored: {_one_line(error)}")
    elif isinstance(error, sa.exc.DBAPIError):
        refused = StorageUnavailable(f"the database refused: {_one_line(error)}")
    elif not isinstance(error, TrialfleetError):
        _log.error("a command failed", exc_info=error)
    if refused is not error:
        refused.__cause__ = error
    return refused

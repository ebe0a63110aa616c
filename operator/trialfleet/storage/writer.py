"""Applying commands: which ones share a transaction, and what is done when one fails."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg2
import psycopg2.errors
import sqlalchemy as sa

from trialfleet.model.errors import InvalidInput, NotFound, StorageUnavailable, TrialfleetError
from trialfleet.model.trial import TrialRecord
from trialfleet.storage.commands import (
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
from trialfleet.storage.connecting import is_gone
from trialfleet.storage.opening import create_trial, lock_openings, open_trials
from trialfleet.storage.params import Distributions
from trialfleet.storage.sessions import (
    begin_once,
    close_session,
    finish_once,
    give_up,
    keep_alive,
    open_session,
)
from trialfleet.storage.study_writes import (
    create_study,
    delete_study,
    ensure_study,
    set_study_attribute,
    stop_study,
)
from trialfleet.storage.transaction import Prepared, Transaction
from trialfleet.storage.updating import update_trials

_log = logging.getLogger(__name__)

_SINGLE: Final[dict[type[Any], Callable[[Transaction, Any], Any]]] = {
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
_IMPATIENT: Final = "SET LOCAL lock_timeout = '100ms'"
_MOST_IN_VAIN: Final = 12
"""So many parts of the commands about one study are tried like that before the rest is refused: by
halves, that is enough to find the one of a batch that has to wait."""

# Ranks the trials that were completed so far; else that is done at the end of the transaction.
_RANK: Final = "SET CONSTRAINTS trialfleet_completed IMMEDIATE"

_MAX_REMEMBERED: Final = 100_000
"""Trials of which it is known what study they are of."""

_Work = Callable[[Transaction], list[Any]]


class Writer:
    """Applies batches of commands on one connection. Belongs to one thread."""

    def __init__(self, engine: sa.Engine, distributions: Distributions | None = None) -> None:
        """Take the engine; a connection is made when the first batch comes."""
        self._engine = engine
        self._prepared: Prepared | None = None
        self._distributions = distributions or Distributions()
        self._in_vain: list[Exception] = []
        self._studies: dict[int, int] = {}  # of trials that were opened here

    def close(self) -> None:
        """Close the connection; the next batch makes another."""
        if self._prepared is not None:
            self._prepared.close()
            self._prepared = None

    def cancel(self) -> None:
        """Let the statement that is under way, in another thread, fail."""
        prepared = self._prepared
        if prepared is not None:
            dbapi: Any = prepared.connection.connection.dbapi_connection
            dbapi.cancel()

    def apply(self, commands: Sequence[Command]) -> list[Any]:
        """Apply commands and commit; return for each its answer or its error.

        The commands of different callers have no order among each other. All openings of
        trials and writes to trials share one transaction, all keep-alives another one, and
        each of the rare others has its own: so every transaction locks sessions, studies, trials
        and counts in this order. Trials are written to before others are opened.
        """
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
            return self._transaction(lambda transaction: work(transaction, commands), patient)
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
            return self._studies.get(command.update.trial_id)
        study_id: int | None = getattr(command, "study_id", None)
        return study_id

    def _transaction(self, work: _Work, patient: bool) -> list[Any]:
        cut = False
        for attempt in range(1, _MAX_TRIES + 1):
            transaction = None
            try:
                if self._prepared is None:
                    self._prepared = Prepared(self._engine)
                transaction = Transaction(self._prepared)
                with self._distributions.transaction():
                    if not patient:
                        transaction.do(_IMPATIENT)
                    answers = work(transaction)
                    transaction.commit()
                return answers
            except sa.exc.DBAPIError as error:
                if error.connection_invalidated or transaction is None or is_gone(error.orig):
                    self.close()
                    begun = transaction is not None or error.connection_invalidated
                    committing = transaction is not None and transaction.committing
                    if begun and not committing and not cut:
                        # Maybe while nobody used it. Nothing was committed: begin anew, once.
                        cut = True
                        _log.info("the database connection is made again: %s", _one_line(error))
                        continue
                    raise StorageUnavailable(f"the database is away: {_one_line(error)}") from error
                self._roll_back(transaction)
                if isinstance(error.orig, _AGAIN) and attempt < _MAX_TRIES:
                    _log.info("attempt %d of a transaction: %s", attempt, _one_line(error))
                    continue
                raise
            except BaseException:
                self._roll_back(transaction)
                raise
        raise AssertionError("unreachable")

    def _roll_back(self, transaction: Transaction | None) -> None:
        try:
            if transaction is not None:
                transaction.roll_back()
        except sa.exc.DBAPIError:
            self.close()

    def _shared(self, transaction: Transaction, commands: Sequence[Any]) -> list[Any]:
        answers: list[Any] = [None] * len(commands)
        opens = [i for i, command in enumerate(commands) if _opens(command)]
        writes = [i for i, command in enumerate(commands) if not _opens(command)]
        openings = [commands[i] for i in opens]
        sessions = lock_openings(transaction, openings) if opens else {}
        if writes:
            updates = [commands[i] for i in writes]
            for place, answer in zip(
                writes, update_trials(transaction, updates, self._distributions), strict=True
            ):
                answers[place] = answer
        if opens:
            if writes:
                # A goal that was just reached ends the study for those who ask.
                transaction.do(_RANK)
            for place, answer in zip(
                opens, open_trials(transaction, openings, sessions), strict=True
            ):
                answers[place] = answer
                if isinstance(answer, TrialRecord | TrialCreated):
                    self._remember(answer.trial_id, commands[place].study_id)
        return answers

    def _remember(self, trial_id: int, study_id: int) -> None:
        if len(self._studies) >= _MAX_REMEMBERED:
            del self._studies[next(iter(self._studies))]
        self._studies[trial_id] = study_id

    def _single(self, transaction: Transaction, commands: Sequence[Any]) -> list[Any]:
        (command,) = commands
        write = getattr(command, "write", None)
        if write is None:
            return [self._execute(transaction, command)]
        new, answer = begin_once(transaction, write)
        if not new:
            return [_restored(transaction, command, answer)]
        result = self._execute(transaction, command)
        if result is not None:
            # Of a tuple the id, of a truth 0 or 1: see _restored.
            finish_once(transaction, write, int(result[0] if isinstance(result, tuple) else result))
        return [result]

    def _execute(self, transaction: Transaction, command: Any) -> Any:
        if isinstance(command, CreateTrial):
            assert command.template is not None
            return create_trial(
                transaction, command.study_id, command.template, self._distributions
            )
        if isinstance(command, WriteTrial):
            (answer,) = update_trials(transaction, [command], self._distributions)
            if isinstance(answer, TrialfleetError):
                raise answer
            return answer
        return _SINGLE[type(command)](transaction, command)


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


def _restored(transaction: Transaction, command: Command, answer: int | None) -> Any:
    """Return what the first of two equal writes was answered."""
    if answer is None and isinstance(command, CreateStudy | CreateTrial | WriteTrial):
        raise InvalidInput(
            "write.sequence: found that of a write of another kind, accepted: a number of its own"
        )
    if isinstance(command, CreateTrial):
        query = sa.text(
            "SELECT trial_id, number FROM trials "
            "WHERE trial_id = :trial_id AND study_id = :study_id"
        )
        key = {"trial_id": answer, "study_id": command.study_id}
        row = transaction.execute(query, key).first()
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

"""The interface of a storage."""

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, Final, Self, TypeVar

import sqlalchemy as sa

from trialfleet.model import database_url
from trialfleet.model.errors import DataLost, NotFound, StorageUnavailable
from trialfleet.model.session import SilentSession
from trialfleet.model.study import StudyRecord
from trialfleet.model.trial import TrialRecord
from trialfleet.storage import identity as identities
from trialfleet.storage import reading
from trialfleet.storage.commands import (
    Command,
    DeleteStudy,
    Ended,
    EnsureStudy,
    KeepAlive,
    OpenTrial,
    Summary,
    UpdateTrial,
    Wait,
)
from trialfleet.storage.committer import Committer
from trialfleet.storage.long_poll import LongPoll
from trialfleet.storage.params import Distributions
from trialfleet.storage.purging import purge
from trialfleet.storage.schema import prepare
from trialfleet.storage.sessions import read_silent
from trialfleet.storage.sharing import SharedReads
from trialfleet.storage.standing import Standing, read_standings
from trialfleet.storage.token_owners import TokenOwners, read_token_owners
from trialfleet.storage.writer import Writer

_READERS: Final = 4

# Bounds every wait in the database: for a lock, for a statement, for a peer that went silent.
_SETTINGS: Final = {
    "timezone": "UTC",
    "standard_conforming_strings": "on",
    "lock_timeout": "10s",
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "60s",
    # We look after the names of parameters ourselves, see params.py and migrations/.
    "trialfleet.claims": "on",
}
_CONNECT: Final = {
    "application_name": "trialfleet",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "options": " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items()),
}

T = TypeVar("T")


class Storage:
    """One PostgreSQL database that holds studies and their trials.

    Construct and use it on one asyncio event loop: ``async with Storage(url) as storage``.
    Any number of tasks may call it at once. Every read sees what was committed when it was
    asked for. Any method raises :class:`~trialfleet.model.errors.StorageUnavailable` while the
    database is away, and works again when it is back.
    """

    def __init__(self, url: str, *, max_waiting: int = 20_000, identity: str = "") -> None:
        """Take the SQLAlchemy URL of a PostgreSQL database; nothing is connected yet.

        ``max_waiting`` callers may wait for a commit; more raise ``Overloaded``. No database but
        the one of the ``identity`` is used, if it is given. Raises :class:`InvalidInput` for a URL
        that can't be used.
        """
        self.identity = identity
        """Of the database; empty until it is known."""
        self._engine = _engine(url, pool_size=2)
        # A read is one statement more often than not: it needs no BEGIN and no ROLLBACK. Of a
        # pool of its own: else each would be told twice how its transactions are to be.
        self._reading_engine = _engine(url, pool_size=_READERS, isolation_level="AUTOCOMMIT")
        self._max_waiting = max_waiting
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="reader")
        self._trials = SharedReads(self._read_trials)
        self._summaries = SharedReads(self._read_summaries)
        self._sessions_studies = SharedReads(self._read_sessions_studies)
        self._trials_studies = SharedReads(self._read_trials_studies)
        self._token_owners = SharedReads(self._read_token_owners)
        self._long_poll = LongPoll(self._read_standings)
        # Beside the committer: what takes a minute is not to keep workers from saying they live.
        self._deletions = SharedReads(self._delete)
        self._beside = Writer(self._engine)
        self._beside_lock = asyncio.Lock()
        self._distributions = Distributions()
        self._committer: Committer | None = None
        self._closed = False
        self.committed_at = float("-inf")
        """When a batch was committed last, on the monotonic clock."""
        self.batches = 0
        """Transactions of the committer so far."""
        self.commands = 0
        """Commands committed so far."""
        self.endings = 0
        """Batches committed so far in which a trial may have ended."""

    async def __aenter__(self) -> Self:
        """Prepare the database.

        Raises, before anything is written, ``DataLost`` if it is not the expected one, and
        ``SchemaMismatch`` if it was made by a version of Optuna or Trialfleet that the installed
        ones don't work with.
        """
        self.identity = await self._in_reader(prepare, self._engine, self.identity)
        for engine in (self._engine, self._reading_engine):
            # A connection that was cut may be followed by one to another database.
            sa.event.listen(engine, "connect", self._check_connection)
        writer = Writer(self._engine, self._distributions)
        self._committer = Committer(writer, self._max_waiting, self._committed)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Commit what waits and close the connections."""
        self._long_poll.close()
        if self._committer is not None:
            await self._committer.close()
        self._closed = True
        shutdown = asyncio.create_task(asyncio.to_thread(self._readers.shutdown))
        while not shutdown.done():
            # A deletion may take minutes; another proxy is asked for it again. It is several
            # statements: one may end, and the next begin, just now.
            await asyncio.to_thread(self._beside.cancel)
            await asyncio.wait({shutdown}, timeout=0.1)
        self._beside.close()
        self._engine.dispose()
        self._reading_engine.dispose()

    def release(self) -> None:
        """Answer who waits in :meth:`open_trial`, and whoever still comes: no more waiting."""
        self._long_poll.close()

    @property
    def waiting(self) -> int:
        """How many callers wait for a transaction."""
        return self._committer.waiting if self._committer else 0

    def _committed(self, commands: Sequence[Command]) -> None:
        self.committed_at = monotonic()
        self.batches += 1
        self.commands += len(commands)
        self.endings += not all(map(_ends_nothing, commands))
        self._long_poll.notify()

    async def apply(self, command: Command) -> Any:
        """Apply one command; return when it is committed. See each command for its answer."""
        if isinstance(command, DeleteStudy):
            answer = await self._deletions.get(command)
        elif isinstance(command, EnsureStudy) and command.warm_start:
            (answer,) = await self._apply_beside([command])
        else:
            (answer,) = await self.apply_all((command,))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def apply_all(self, commands: Sequence[Command], *, urgent: bool = True) -> list[Any]:
        """Apply commands of one caller in their order; return for each its answer or its error.

        Updates and openings of trials share a transaction. What is not urgent waits up to 0.1 s
        for others to share one with.
        """
        if self._committer is None:
            raise StorageUnavailable("the storage is not ready")
        return await self._committer.submit(commands, urgent=urgent)

    async def open_trial(self, command: OpenTrial, wait_s: float) -> TrialRecord | Wait | Ended:
        """Open a trial, and while none may be opened wait up to ``wait_s`` seconds for one."""
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            answer: TrialRecord | Wait | Ended | None = await self.apply(command)
            if answer is Wait.WAIT:
                answer = await self._long_poll.wait(command.study_id, deadline)
            if answer is not None:
                return answer

    def parameters(self, study_id: int) -> Mapping[str, str]:
        """Return the first distributions of a study's parameters, by name, as far as known here."""
        return self._distributions.known(study_id)

    async def ready(self) -> bool:
        """Whether the database answers. Raises ``DataLost`` if it is another one by now."""
        if self._committer is None:
            return False
        try:
            found = await self._reading(identities.read)
        except DataLost:
            raise
        except StorageUnavailable:
            return False
        identities.check(found, self.identity)
        return True

    def _check_connection(self, connection: Any, _record: object) -> None:
        identities.check(identities.read_new(connection), self.identity)

    async def purge(self) -> int:
        """Remove some of what is left of sessions that ended long ago; return how many rows.

        It is done when it returns 0. See :mod:`trialfleet.storage.purging`.
        """
        return await self._in_reader(_purge, self._engine)

    async def silent_sessions(self) -> Sequence[SilentSession]:
        """Return the sessions that were last heard a while ago, if the database's clock is right.

        See :func:`trialfleet.storage.sessions.read_silent`.
        """
        return await self._reading(read_silent)

    async def studies(
        self, *, study_id: int | None = None, name: str | None = None, owner: str | None = None
    ) -> Sequence[StudyRecord]:
        """Return one study by id or name, or those whose owner begins as given, or all.

        An empty list if it does not exist.
        """
        read = functools.partial(reading.read_studies, study_id=study_id, name=name, owner=owner)
        return await self._reading(read)

    async def trials(self, trial_ids: Sequence[int]) -> Sequence[TrialRecord]:
        """Return trials as they are now, in the order asked. Raises ``NotFound``."""
        records = await asyncio.gather(*map(self._trials.get, trial_ids))
        for trial_id, record in zip(trial_ids, records, strict=True):
            if record is None:
                raise NotFound(f"no trial has the id {trial_id}")
        return [record for record in records if record is not None]

    async def trial_id(self, study_id: int, number: int) -> int:
        """Return the id of a study's trial by its number. Raises ``NotFound``."""
        read = functools.partial(reading.read_trial_id, study_id=study_id, number=number)
        return await self._reading(read)

    async def trials_since(
        self,
        study_id: int,
        greater_than: int,
        included: Sequence[int],
        limit: int = 10_000,
        bare_unfinished: bool = False,
    ) -> Sequence[TrialRecord]:
        """Return trials of a study whose id is greater or included, ordered by id.

        At most ``limit``, those with the lowest ids; with ``bare_unfinished`` those that have not
        finished have an id, a number and a state only. Raises ``NotFound`` for the study.
        """
        return await self._reading(
            functools.partial(
                reading.read_trials_since,
                study_id=study_id,
                after=greater_than,
                included=included,
                limit=limit,
                bare_unfinished=bare_unfinished,
            )
        )

    async def summary(self, study_id: int, best: int = 1) -> Summary:
        """Return counts and best trials in constant time. Raises ``NotFound``."""
        summary = await self._summaries.get((study_id, best))
        if summary is None:
            raise NotFound(f"no study has the id {study_id}")
        return summary

    async def study_of_session(self, session: bytes) -> str | None:
        """Return the name of a session's study; None if no such session was ever opened.

        Empty for a session that is bound to no study, or to one that was deleted.
        """
        return await self._sessions_studies.get(session)

    async def study_of_trial(self, trial_id: int) -> str | None:
        """Return the name of a trial's study; None if the trial does not exist."""
        return await self._trials_studies.get(trial_id)

    async def token_owners(self, study: str) -> TokenOwners | None:
        """Return whose tokens open the study of a name; None if there is none."""
        return await self._token_owners.get(study)

    async def _delete(self, commands: Sequence[DeleteStudy]) -> dict[DeleteStudy, Any]:
        return dict(zip(commands, await self._apply_beside(commands), strict=True))

    async def _apply_beside(self, commands: Sequence[Command]) -> list[Any]:
        # Its thread does not end with a caller who has gone, and the writer belongs to one thread:
        # who comes next waits for it.
        return await asyncio.shield(asyncio.create_task(self._apply_alone(commands)))

    async def _apply_alone(self, commands: Sequence[Command]) -> list[Any]:
        async with self._beside_lock:
            answers = await self._in_reader(self._beside.apply, commands)
        applied = [
            command
            for command, answer in zip(commands, answers, strict=True)
            if not isinstance(answer, Exception)
        ]
        if applied:
            self._committed(applied)
        return answers

    async def _read_trials(self, ids: Sequence[int]) -> dict[int, TrialRecord]:
        return await self._reading(functools.partial(reading.read_trials, ids=ids))

    async def _read_sessions_studies(self, sessions: Sequence[bytes]) -> dict[bytes, str]:
        return await self._reading(
            functools.partial(reading.read_sessions_studies, sessions=sessions)
        )

    async def _read_trials_studies(self, ids: Sequence[int]) -> dict[int, str]:
        return await self._reading(functools.partial(reading.read_trials_studies, ids=ids))

    async def _read_standings(self, ids: Sequence[int]) -> dict[int, Standing]:
        return await self._reading(functools.partial(read_standings, ids=ids))

    async def _read_token_owners(self, studies: Sequence[str]) -> dict[str, TokenOwners]:
        return await self._reading(functools.partial(read_token_owners, studies=studies))

    async def _read_summaries(
        self, keys: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], Summary]:
        ids = sorted({study_id for study_id, _ in keys})
        most = max(best for _, best in keys)
        read = functools.partial(reading.read_summaries, ids=ids, best=most)
        summaries = await self._reading(read)
        return {key: summaries[key[0]].head(key[1]) for key in keys if key[0] in summaries}

    async def _reading(self, read: Callable[[sa.Connection], T]) -> T:
        return await self._in_reader(_read, self._reading_engine, read)

    async def _in_reader(self, function: Callable[..., T], *args: Any) -> T:
        if self._closed:
            raise StorageUnavailable("the proxy is stopping")
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._readers, function, *args)
        except sa.exc.DBAPIError as error:
            text = " ".join(str(error.orig).split())
            raise StorageUnavailable(f"the database is away: {text}") from error


def _ends_nothing(command: Command) -> bool:
    if isinstance(command, UpdateTrial):
        return command.state is None
    return isinstance(command, OpenTrial | KeepAlive)


def _engine(url: str, **options: Any) -> sa.Engine:
    return sa.create_engine(
        database_url.parse(url),
        max_overflow=0,
        connect_args=dict(_CONNECT),
        **options,
    )


def _read(engine: sa.Engine, read: Callable[[sa.Connection], T]) -> T:
    try:
        with engine.connect() as connection:
            return read(connection)
    except sa.exc.DBAPIError as error:
        if not error.connection_invalidated:
            raise
    # It was cut, maybe while nobody used it: the pool has dropped all that are as old.
    with engine.connect() as connection:
        return read(connection)


def _purge(engine: sa.Engine) -> int:
    with engine.begin() as connection:
        return purge(connection)

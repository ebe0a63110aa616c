"""A worker's life as the storage sees it, and the writes that belong to it."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from google.protobuf.message import Message
from optuna.study import StudyDirection

from trialfleet.client.conversion import decode_directions
from trialfleet.model.errors import SessionGivenUp, StorageUnavailable, TrialfleetError
from trialfleet.wire import background, methods
from trialfleet.wire.connection import CALL_S, Connection
from trialfleet.wire.methods import Method
from trialfleet.wire.v1 import trialfleet_pb2 as pb

_REPLACEMENTS: Final = 3
"""How many sessions in a row may be given up before one write is done."""

_R = TypeVar("_R")

logger = logging.getLogger(__name__)


class Session:
    """One life: from OpenSession until it is closed or given up. Thread-safe."""

    def __init__(
        self,
        name: bytes,
        study_id: int | None,
        ordinal: int,
        directions: list[StudyDirection],
    ) -> None:
        self.name = name
        self.study_id = study_id
        self.ordinal = ordinal
        self.directions = directions
        """Of the study."""
        self.given_up = False
        self.alive_at = time.monotonic()
        """When the storage extended its life last, at the earliest."""
        # Writes that may have opened a trial without our knowing, by method and study.
        self._doubtful: dict[tuple[str, int], list[pb.WriteId]] = {}
        self._lock = threading.Lock()
        self._sequence = 0

    def next_write(self) -> pb.WriteId:
        """Return the identity of a new write: a number that no other write of ours has."""
        with self._lock:
            self._sequence += 1
            return pb.WriteId(session=self.name, sequence=self._sequence)

    def next_opening(self, path: str, study_id: int) -> pb.WriteId:
        """Return the identity of a write that opens a trial of a study by a method.

        If it is not known of an earlier one whether it opened a trial, that one is made again: else
        its trial would run, with nobody to run it, as long as the session.
        """
        with self._lock:
            doubtful = self._doubtful.get((path, study_id))
            if doubtful:
                return doubtful.pop(0)
        return self.next_write()

    def doubt(self, path: str, study_id: int, write: pb.WriteId) -> None:
        """Take note that a write may have opened a trial."""
        with self._lock:
            self._doubtful.setdefault((path, study_id), []).append(write)


class Sessions:
    """The session of a storage object, opened when it is needed, replaced when given up.

    Thread-safe.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        study: str,
        worker: str,
        time_to_live_s: float,
        definition: str,
        opened: Callable[[], None],
    ) -> None:
        """Take what OpenSession says; ``opened`` is called whenever a session was opened."""
        self._connection = connection
        self._study = study
        self.worker = worker or f"{socket.gethostname()}-{os.getpid()}"
        """The name under which the session can be given up."""
        self._time_to_live_s = time_to_live_s
        self._definition = definition
        self._on_opened = opened
        self._opening = threading.Lock()
        self._session: Session | None = None
        # The storage takes a session's other writes in the order of their numbers only.
        self._in_order = threading.Lock()

    def of_study(self, name: str) -> Session | None:
        """Return the session if there is one and it belongs to a study of this name."""
        session = self._session
        if session is None or session.study_id is None or name != self._study:
            return None
        return session

    @property
    def opened(self) -> Session | None:
        """The session if there is one; opens none."""
        return self._session

    def current(self) -> Session:
        """Return the session, a new one if there is none or it was given up.

        Raises :class:`~trialfleet.model.errors.NotFound` if the study does not exist.
        """
        return self._session or self._open()

    def forget(self, session: Session) -> None:
        """Take note that a session was given up: the next write opens another."""
        with self._opening:
            if self._session is session:
                logger.info("the session of worker %s was given up", self.worker)
                self._session = None
            session.given_up = True

    def write(self, method: Method[_R], build: Callable[[pb.WriteId], Message]) -> _R:
        """Make a write of the session, one at a time. Raises as the call does."""
        with self._in_order:
            return self._write(method, build, CALL_S, None)[1]

    def open_trial(
        self,
        method: Method[_R],
        study_id: int,
        build: Callable[[pb.WriteId], Message],
        deadline_s: float,
    ) -> tuple[Session, _R]:
        """Make a write that opens a trial; return also the session that runs the trial."""
        return self._write(method, build, deadline_s, study_id)

    async def keep_alive(self) -> None:
        """Extend the session's life unless that was done a moment ago; tries each proxy once.

        A moment is a quarter of the life. To open a trial extends it too.
        """
        session, now = self._session, time.monotonic()
        if session is None or now < session.alive_at + self._time_to_live_s / 4:
            return
        request = pb.KeepAliveRequest(session=session.name)
        deadline_s = min(CALL_S, self._time_to_live_s / 4)
        try:
            reply = await self._connection.call(
                methods.KEEP_ALIVE, request, deadline_s=deadline_s, patience_s=0
            )
        except StorageUnavailable as error:
            logger.debug("the session was not kept alive: %s", error)
            return
        if reply.alive:
            session.alive_at = now
        else:
            self.forget(session)

    def _write(
        self,
        method: Method[_R],
        build: Callable[[pb.WriteId], Message],
        deadline_s: float,
        opens: int | None,
    ) -> tuple[Session, _R]:
        for _ in range(_REPLACEMENTS):
            session = self.current()
            if opens is None:
                write = session.next_write()
            else:
                write = session.next_opening(method.path, opens)
            request = build(write)
            try:
                calling = self._connection.call(method, request, deadline_s=deadline_s)
                return session, background.run(calling)
            except SessionGivenUp:
                self.forget(session)
            except BaseException as error:
                refused = isinstance(error, TrialfleetError)
                if opens is not None and (isinstance(error, StorageUnavailable) or not refused):
                    session.doubt(method.path, opens, write)
                raise
        raise SessionGivenUp(
            f"{_REPLACEMENTS} sessions of worker {self.worker} were given up one after the other"
        )

    def _open(self) -> Session:
        with self._opening:
            if self._session is not None:
                return self._session
            name = os.urandom(16)
            request = pb.OpenSessionRequest(
                session=name,
                worker=self.worker,
                study=self._study,
                time_to_live_s=self._time_to_live_s,
                definition=self._definition,
            )
            reply = background.run(self._connection.call(methods.OPEN_SESSION, request))
            if reply.max_message_bytes:
                self._connection.max_message_bytes = reply.max_message_bytes
            study_id = reply.study_id if reply.HasField("study_id") else None
            session = self._session = Session(
                name, study_id, reply.ordinal, decode_directions(reply.directions)
            )
            self._on_opened()
            return session

"""What a storage object shares with the event loop in the background, and how that ends."""

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final

from trialfleet.client.history import HistoryCache
from trialfleet.client.running import RunningTrials
from trialfleet.client.session import Sessions
from trialfleet.client.study_calls import Studies
from trialfleet.model.errors import StorageUnavailable
from trialfleet.wire import background, methods
from trialfleet.wire.connection import CALL_S, Connection
from trialfleet.wire.credentials import CredentialFiles
from trialfleet.wire.endpoint import CallFailed
from trialfleet.wire.v1 import trialfleet_pb2 as pb

_BEAT_S: Final = 0.5
"""Hundreds of workers on one machine wake up as often; twice a second keeps what is promised."""
_PAUSE_S: Final = 0.1
"""Between two attempts to send what could not be sent."""
_LAST_CALL_S: Final = 2.0
"""Deadline of each call that is made when a storage object is closed."""

_LASTING_S: Final = 100 * 365.25 * 86400
"""Time to live of a session that does not expire."""

logger = logging.getLogger(__name__)


class Core:
    """A connection, the session over it, and the task that keeps it alive. Thread-safe.

    The task does not know the storage object, so that one which is dropped without being closed
    can be collected, and is then closed in the background.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        study: str,
        worker: str,
        time_to_live_s: float,
        definition: str,
        patience_s: float,
        token_file: str,
        ca_file: str,
        server_name: str,
    ) -> None:
        credentials = CredentialFiles(token_file, ca_file, server_name)
        self.connection = Connection(addresses, patience_s, credentials)
        self.studies = Studies(self.connection)
        self.sessions = Sessions(
            self.connection,
            study=study,
            worker=worker,
            time_to_live_s=time_to_live_s,
            definition=definition,
            opened=self._start,
        )
        # Trials that are made by Optuna's own interface run until somebody tells them, in whatever
        # process: the session that made them neither expires nor hands them back.
        self.created: set[int] = set()
        """Ids of those that were made and not told here."""
        self.lasting = Sessions(
            self.connection,
            study="",
            worker=f"{self.sessions.worker} (Optuna)",
            time_to_live_s=_LASTING_S,
            definition="",
            opened=self._start,
        )
        # A flush that hangs must not outlast the session.
        self._flush_s = min(CALL_S, time_to_live_s / 4)
        self._beat_s = min(_BEAT_S, time_to_live_s / 4)
        self.histories = HistoryCache(self.connection)
        self.running = RunningTrials(self.connection, self.sessions, self.histories)
        self._lock = threading.Lock()
        self._keeping: asyncio.Task[None] | None = None
        self._closing: Future[None] | None = None

    def create_trial(self, study_id: int) -> int:
        """Open a new trial, as Optuna's ``create_new_trial`` does; return its id.

        Raises ``NotFound``, ``StudyEnded``.
        """
        _, reply = self.lasting.open_trial(
            methods.CREATE_TRIAL,
            study_id,
            lambda write: pb.CreateTrialRequest(write=write, study_id=study_id),
            CALL_S,
        )
        self.created.add(reply.trial_id)
        return reply.trial_id

    def close(self) -> None:
        """Send what is unsent, close the session and the channels. Idempotent; takes seconds."""
        self.abandon()
        if self._closing is not None:
            self._closing.result()

    def abandon(self) -> None:
        """Begin to close everything, in the background."""
        with self._lock:
            if self._closing is None:
                self.connection.interrupt()
                # Else no call was made that there is something to close of; or it was by the
                # process that this one was forked from.
                if background.is_running():
                    self._closing = background.start(self._close())

    async def _close(self) -> None:
        # What they have not sent they leave for the last flush.
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        await self.running.flush_last(_LAST_CALL_S)
        for session in (self.sessions.opened, self.lasting.opened):
            # That of trials which run on stays open: to close it would hand them back.
            if session is None or (session is self.lasting.opened and self.created):
                continue
            request = pb.CloseSessionRequest(session=session.name)
            try:
                await self.connection.last_call(methods.CLOSE_SESSION, request, _LAST_CALL_S)
            except (CallFailed, StorageUnavailable) as error:
                logger.info("the session ends when its time to live is over: %s", error)
        await self.connection.close()

    def _start(self) -> None:
        background.run(self._start_keeping())

    async def _start_keeping(self) -> None:
        if self._keeping is None and not self._closing:
            self._keeping = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(min(self._beat_s, max(self.running.due_in(), _PAUSE_S)))
            try:
                await self.sessions.keep_alive()
                await self.running.flush_old(self._flush_s)
            except Exception:
                # The task must outlive what nobody thought of: the session hangs on it.
                logger.exception("the session was not kept alive")

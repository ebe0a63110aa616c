"""What a storage object shares with its background thread, and how that ends."""

import logging
import threading
from collections.abc import Sequence
from typing import Final

import grpc

from trialfleet.client import calls
from trialfleet.client.ahead import Ahead
from trialfleet.client.connection import CALL_S, Connection
from trialfleet.client.credentials import Credentials
from trialfleet.client.endpoint import ChannelClosed
from trialfleet.client.history import Histories
from trialfleet.client.running import RunningTrials
from trialfleet.client.session import Sessions
from trialfleet.wire.v1 import trialfleet_pb2 as pb

_BEAT_S: Final = 0.5
"""Hundreds of workers on one machine wake up as often; twice a second keeps what is promised."""
_LAST_CALL_S: Final = 2.0
"""Deadline of each call that is made when a storage object is closed."""

logger = logging.getLogger(__name__)


class Core:
    """A connection, the session over it, and the thread that keeps it alive. Thread-safe.

    The thread does not know the storage object, so that one which is dropped without being
    closed can be collected, and is then closed by the thread.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        study: str,
        worker: str,
        time_to_live_s: float,
        sequential: bool,
        definition: str,
        patience_s: float,
        token_file: str,
        ca_file: str,
        server_name: str,
    ) -> None:
        credentials = Credentials(token_file, ca_file, server_name)
        self.connection = Connection(addresses, patience_s, credentials)
        self.sessions = Sessions(
            self.connection,
            study=study,
            worker=worker,
            time_to_live_s=time_to_live_s,
            sequential=sequential,
            definition=definition,
            opened=self._start,
        )
        # A flush that hangs must not outlast the session.
        self._flush_s = min(CALL_S, time_to_live_s / 4)
        self._beat_s = min(_BEAT_S, time_to_live_s / 4)
        self.histories = Histories(self.connection)
        self.running = RunningTrials(self.connection, self.sessions, self.histories)
        self.ahead = Ahead(self.connection, self.sessions, self.histories, self.running)
        self._ending = threading.Event()
        self._closing = threading.Lock()
        self._closed = False
        self._thread: threading.Thread | None = None

    def abandon(self) -> None:
        """Let the background thread close everything. Takes no lock."""
        self._ending.set()
        if self._thread is None:
            self.connection.close()

    def close(self) -> None:
        """Send what is unsent, close the session and the channels. Idempotent; takes seconds."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._ending.set()
            self.connection.interrupt()
            self.ahead.settle_last(_LAST_CALL_S)
            session = self.sessions.opened
            if session is not None:
                self.running.flush_last(_LAST_CALL_S)
                request = pb.CloseSessionRequest(session=session.name)
                try:
                    self.connection.last_call(
                        calls.CLOSE_SESSION, request.SerializeToString(), _LAST_CALL_S
                    )
                except (grpc.RpcError, ChannelClosed) as error:
                    logger.info("the session ends when its time to live is over: %s", error)
            self.connection.close()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_LAST_CALL_S)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._keep, name="trialfleet-session", daemon=True
            )
            self._thread.start()

    def _keep(self) -> None:
        while not self._ending.wait(self._beat_s):
            try:
                self.sessions.keep_alive()
                self.running.flush_old(self._flush_s)
                self.ahead.hand_back_old(self._flush_s)
            except Exception:
                # The thread must outlive what nobody thought of: the session hangs on it.
                logger.exception("the session was not kept alive")
        self.close()

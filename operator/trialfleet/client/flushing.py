"""Sends what running trials gained, before their end."""

import logging
from collections.abc import Iterable
from typing import Final

from trialfleet.client.buffer import RunningTrial
from trialfleet.client.history import Reading
from trialfleet.client.requests import report_request
from trialfleet.client.trial_batches import decode_batch
from trialfleet.model.errors import InvalidInput, NotFound, TrialfleetError
from trialfleet.wire import methods
from trialfleet.wire.connection import Connection
from trialfleet.wire.endpoint import CallFailed
from trialfleet.wire.v1 import trialfleet_pb2 as pb

_READ_S: Final = 2.0
"""Deadline of a read that an objective can do without."""

logger = logging.getLogger(__name__)


class Flushing:
    """Reports of running trials over a connection; on the event loop of the calls."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def send(
        self,
        trial: RunningTrial,
        reading: Reading | None,
        deadline_s: float,
        patience_s: float | None = None,
    ) -> pb.ReportReply:
        """Send what a trial has unsent; hold its ``sending``. Raises as the call does."""
        unsent = trial.take()
        request = report_request(trial, unsent, reading)
        try:
            reply = await self._connection.call(
                methods.REPORT, request, deadline_s=deadline_s, patience_s=patience_s
            )
        except InvalidInput:
            # What was refused once would be refused for ever, and keep all else from being sent.
            raise
        except NotFound:
            # Somebody deleted the study.
            trial.fence()
            raise
        except BaseException:
            trial.restore(unsent)
            raise
        if reply.fenced:
            logger.info("trial %d was taken away", trial.number)
            trial.fence()
        return reply

    async def flush(self, trials: Iterable[RunningTrial], deadline_s: float) -> None:
        """Send what trials have unsent; tries each proxy once."""
        for trial in trials:
            if trial.fenced or not trial.sending.acquire(blocking=False):
                continue
            try:
                await self.send(trial, None, deadline_s, patience_s=0)
            except InvalidInput as error:
                trial.refuse(error)
            except TrialfleetError as error:
                logger.debug("trial %d was not flushed: %s", trial.number, error)
            finally:
                trial.sending.release()

    async def read_others(self, trial: RunningTrial) -> None:
        """Read what others wrote to a trial; tries each proxy once.

        The objective goes on without it if no proxy answers.
        """
        # What is being sent is newer than what would be read.
        if trial.fenced or not trial.sending.acquire(blocking=False):
            return
        try:
            reply = await self._connection.call(
                methods.GET_TRIALS,
                pb.GetTrialsRequest(trial_ids=[trial.trial_id]),
                deadline_s=_READ_S,
                patience_s=0,
            )
            (stored,) = decode_batch(reply.trials)
            trial.merge(stored)
        except TrialfleetError as error:
            logger.debug("trial %d was not read: %s", trial.number, error)
        finally:
            trial.sending.release()

    async def flush_last(self, trials: Iterable[RunningTrial], deadline_s: float) -> None:
        """Send what trials have unsent, after the connection was interrupted; one attempt each."""
        for trial in trials:
            # Another thread that is sending sends this too.
            if trial.fenced or not trial.sending.acquire(blocking=False):
                continue
            try:
                if unsent := trial.take():
                    request = report_request(trial, unsent, None)
                    await self._connection.last_call(methods.REPORT, request, deadline_s)
            except (CallFailed, TrialfleetError) as error:
                logger.debug("trial %d was not flushed: %s", trial.number, error)
            finally:
                trial.sending.release()

"""A request for the next trial of a study, and what its answer brings."""

from time import monotonic

from trialfleet.client.buffer import RunningTrial
from trialfleet.client.history import StudyHistory
from trialfleet.client.records import decode_definitions
from trialfleet.client.session import Session
from trialfleet.client.trials import decode_batch
from trialfleet.wire.v1 import trialfleet_pb2 as pb


class Opening:
    """One Ask, alone or with a Tell: carries the study's history where that is wanted.

    Make it when the request is sent, at once.
    """

    def __init__(self, study_id: int, history: StudyHistory, wait_s: float = 0.0) -> None:
        """Take the study, and for how many seconds to wait for a trial."""
        self.study_id = study_id
        self._history = history
        self._wait_s = wait_s
        self._made_at = monotonic()
        self._reading = (
            history.begin(finished_only=not history.unfinished_wanted) if history.wanted else None
        )

    def request(self, write: pb.WriteId) -> pb.AskRequest:
        """Return the message."""
        return pb.AskRequest(
            write=write,
            study_id=self.study_id,
            wait_ms=round(self._wait_s * 1000),
            history=None if self._reading is None else self._reading.cursor,
            definitions=not self._history.known,
        )

    def trial(self, session: Session, reply: pb.AskReply) -> RunningTrial | None:
        """Return the trial that was opened, None for any other outcome."""
        if reply.WhichOneof("outcome") != "trial":
            return None
        session.alive_at = self._made_at
        self._history.know(decode_definitions(reply.definitions))
        (frozen,) = decode_batch(reply.trial)
        trial = RunningTrial(session, self.study_id, frozen)
        if (
            self._reading is not None
            and reply.HasField("news")
            and self._history.accept(self._reading, reply.news)
        ):
            # Who waited for a trial got what was known at the end of that.
            age_s = 0.0 if self._wait_s else monotonic() - self._reading.began
            trial.came_with_news(age_s, finished_only=self._reading.finished_only)
        return trial

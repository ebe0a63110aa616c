"""What the storage is asked of a running trial, of its end and for the next one."""

from time import monotonic

from optuna.trial import TrialState

from trialfleet.client.buffer import RunningTrial, Unsent
from trialfleet.client.conversion import decode_definitions
from trialfleet.client.history import Reading, StudyHistory
from trialfleet.client.session import Session
from trialfleet.client.trial_batches import decode_batch
from trialfleet.model.errors import NotFound
from trialfleet.wire import methods
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


def report_request(
    trial: RunningTrial, unsent: Unsent, reading: Reading | None
) -> pb.ReportRequest:
    """Return a Report of what was unsent, which asks for the study's news if they are wanted."""
    return pb.ReportRequest(
        write=trial.session.next_write(),
        update=unsent.message(trial.trial_id),
        history=None if reading is None else reading.cursor,
        study_id=trial.study_id,
    )


def decision_request(trial: RunningTrial, pruner: str) -> pb.ReportRequest:
    """Return a Report that asks whether to prune."""
    write = trial.session.next_write()
    unsent, values = trial.report(write.sequence)
    return pb.ReportRequest(
        write=write,
        update=unsent.message(trial.trial_id),
        study_id=trial.study_id,
        decision=pb.Decision(pruner=pruner, steps=values.keys(), values=values.values()),
    )


class Telling:
    """One Tell, alone or with an Ask for the next trial. Hold the trial's ``sending``."""

    def __init__(
        self,
        trial: RunningTrial,
        state: TrialState,
        values: list[float] | None,
        opening: Opening | None,
    ) -> None:
        """Take all that the trial has unsent."""
        self.trial = trial
        self._opening = opening
        session = trial.session
        self._unsent = trial.take()
        self._asking = None
        self.kept = True
        """Whether the storage took the end; else the trial was taken away before."""
        if opening is not None:
            self._asking = session.next_opening(methods.ASK.path, trial.study_id)
        self.request = pb.TellRequest(
            write=session.next_write(),
            update=self._unsent.message(trial.trial_id),
            state=state.name,
            values=values,
            next=None if opening is None or self._asking is None else opening.request(self._asking),
        )

    def answered(self, reply: pb.TellReply) -> RunningTrial | None:
        """Take the answer; return the next trial if there is one."""
        if not reply.HasField("next"):
            self._doubt()
        if reply.fenced:
            self.kept = False
            self.trial.fence()
        return (
            None if self._opening is None else self._opening.trial(self.trial.session, reply.next)
        )

    def failed(self, error: BaseException) -> None:
        """Take note that there is no answer, or that it is an error."""
        self._doubt()
        if isinstance(error, NotFound):
            # Somebody deleted the study.
            self.trial.fence()
        else:
            self.trial.restore(self._unsent)

    def _doubt(self) -> None:
        if self._asking is not None:
            self.trial.session.doubt(methods.ASK.path, self.trial.study_id, self._asking)

"""What the storage is told of a running trial and of its end, and what the answer brings."""

from optuna.trial import TrialState

from trialfleet.client import calls
from trialfleet.client.buffer import RunningTrial, Unsent
from trialfleet.client.history import Reading
from trialfleet.client.opening import Opening
from trialfleet.model.errors import NotFound
from trialfleet.wire.v1 import trialfleet_pb2 as pb


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
        """Whether the storage took the end, as far as its answer has come; else the trial was taken
        away before."""
        if opening is not None:
            self._asking = session.next_opening(calls.ASK.path, trial.study_id)
        self.request = pb.TellRequest(
            write=session.next_write(),
            update=self._unsent.message(trial.trial_id),
            state=state.name,
            values=values,
            next=None if opening is None or self._asking is None else opening.request(self._asking),
        ).SerializeToString()

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
            self.trial.session.doubt(calls.ASK.path, self.trial.study_id, self._asking)

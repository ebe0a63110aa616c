"""What a storage is to do with commands, in its simplest form: lists in memory, one study."""

from dataclasses import dataclass, field

from optuna.trial import TrialState

WAITING, RUNNING, FAIL = TrialState.WAITING, TrialState.RUNNING, TrialState.FAIL


@dataclass
class Trial:
    number: int
    state: TrialState
    owner: int | None = None
    """The session that runs it, or ran it last."""
    x: float | None = None
    value: float | None = None
    told: bool = False
    """Ended by its owner."""
    lost: bool = False
    before: list[int] = field(default_factory=list)
    """Numbers of the lost trials that it tries again."""


@dataclass
class Model:
    most: int | None = None
    most_failed: int | None = None
    retries: int = 0
    stopped: bool = False
    trials: list[Trial] = field(default_factory=list)
    alive: set[int] = field(default_factory=set)

    def count(self, *states: TrialState) -> int:
        return sum(trial.state in states and not trial.lost for trial in self.trials)

    def define(self, most: int | None, most_failed: int | None, retries: int) -> None:
        if (most, most_failed) != (self.most, self.most_failed):
            self.stopped = False
        self.most, self.most_failed, self.retries = most, most_failed, retries

    def add(self, state: TrialState, **fields: object) -> Trial:
        self.trials.append(Trial(len(self.trials), state, **fields))  # type: ignore[arg-type]
        return self.trials[-1]

    def ask(self, session: int) -> Trial | str:
        if session not in self.alive:
            return "SessionGivenUp"
        counted = self.count(TrialState.COMPLETE, TrialState.PRUNED, FAIL)
        running = self.count(RUNNING)
        if self.most_failed is not None and self.count(FAIL) >= self.most_failed:
            return "Ended"
        if self.most is not None and counted + running >= self.most:
            return "Ended" if counted >= self.most else "Wait"
        waiting = [trial for trial in self.trials if trial.state == WAITING]
        if not waiting and self.stopped:
            return "Wait" if running else "Ended"
        trial = waiting[0] if waiting else self.add(RUNNING)
        trial.state, trial.owner = RUNNING, session
        return trial

    def update(
        self, session: int, trial: Trial, state: TrialState | None, x: float, value: float | None
    ) -> str | None:
        if trial.owner == session and trial.told and state is None:
            return None  # a report that was overtaken
        if trial.owner != session or trial.state != RUNNING:
            return "SessionGivenUp"
        trial.x, trial.value, trial.state = x, value, state or RUNNING
        trial.told = trial.state.is_finished()
        if state == WAITING:
            trial.owner = None
        return None

    def close(self, session: int) -> None:
        for trial in self._end(session):
            trial.state, trial.owner = WAITING, None

    def give_up(self, session: int, failed: bool) -> None:
        for trial in self._end(session):
            trial.state, trial.lost, trial.owner = FAIL, not failed, None
            before = [*trial.before, trial.number]
            if trial.lost and len(before) <= self.retries:
                self.add(WAITING, x=trial.x, before=before)

    def _end(self, session: int) -> list[Trial]:
        mine = [t for t in self.trials if t.state == RUNNING and t.owner == session]
        found = mine if session in self.alive else []
        self.alive.discard(session)
        return found

    def write(self, trial: Trial, state: TrialState, value: float | None) -> bool | str:
        if trial.state.is_finished():
            return "TrialFinished"
        if state == RUNNING and trial.state != WAITING:
            return False
        trial.state, trial.value = state, trial.value if value is None else value
        return True

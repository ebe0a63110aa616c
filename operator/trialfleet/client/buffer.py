"""A trial that this process runs: what is known of it, and what the storage has yet to hear."""

import math
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

from optuna.trial import FrozenTrial

from trialfleet.client.conversion import ITEM_BYTES, Definition, attribute_bytes, encode_attributes
from trialfleet.client.session import Session
from trialfleet.model.errors import InvalidInput, SessionGivenUp
from trialfleet.wire.v1 import trialfleet_pb2 as pb

_FLUSH_AFTER_S: Final = 0.75
"""What a trial gains is stored within a second; most short trials end before that."""
_STORED_WITHIN_S: Final = 10.0
"""After that a value is sent again that was sent to ask whether to prune, and is not known to be
stored. Mostly the next such call says that it is."""
_OTHERS_S: Final = 0.9
"""What others wrote to a trial is seen within a second by who reads it."""

_NEWS_S: Final = 0.9
_SAME_S: Final = 0.1
"""The history that came with a trial stands for the storage's for so long, and once it was read
for so much longer: what others do is seen within a second, and a sampler that reads all trials
twice for one suggestion, as TPE does, makes no call."""


@dataclass(slots=True)
class Unsent:
    """What a trial gained and no proxy has acknowledged."""

    params: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Internal representation and the distribution's JSON text."""
    user_attrs: dict[str, str] = field(default_factory=dict)
    system_attrs: dict[str, str] = field(default_factory=dict)
    values: dict[int, float] = field(default_factory=dict)
    size: int = 0
    """Bytes in a message, at most."""

    def __bool__(self) -> bool:
        return bool(self.size)

    def before(self, later: "Unsent") -> "Unsent":
        """Return both together; of two with the same name the later one stays."""
        return Unsent(
            self.params | later.params,
            self.user_attrs | later.user_attrs,
            self.system_attrs | later.system_attrs,
            self.values | later.values,
            self.size + later.size,
        )

    def message(self, trial_id: int) -> pb.TrialUpdate:
        """Return it as a message."""
        return pb.TrialUpdate(
            trial_id=trial_id,
            params=[
                pb.Param(name=name, value=value, distribution_json=text)
                for name, (value, text) in self.params.items()
            ],
            user_attrs=encode_attributes(self.user_attrs),
            system_attrs=encode_attributes(self.system_attrs),
            steps=self.values.keys(),
            intermediate_values=self.values.values(),
        )


class RunningTrial:
    """A trial of a session of ours, from Ask until Tell. Thread-safe; makes no calls."""

    def __init__(self, session: Session, study_id: int, trial: FrozenTrial) -> None:
        """Take a trial that was opened just now."""
        self.session = session
        self.study_id = study_id
        self.trial_id = trial._trial_id
        self.number = trial.number
        self.thread = threading.get_ident()
        """The thread that asked for it."""
        self.sending = threading.Lock()
        """Held from taking what is unsent until the proxy's answer: the order of our writes."""
        self._news_until = 0.0
        self._news_are_whole = False
        self._fenced = False
        self._read_at = time.monotonic()
        self._lock = threading.Lock()
        self._trial = trial
        self._unsent = Unsent()
        self._unsent_since = 0.0
        # Values that were sent to ask whether to prune, by the number of the write, and not known
        # to be stored.
        self._reported: dict[int, dict[int, float]] = {}
        self._reported_since = 0.0
        self._refusal: InvalidInput | None = None

    @property
    def fenced(self) -> bool:
        """Whether the trial was taken away: nothing of it is accepted any more."""
        return self._fenced or self.session.given_up

    def fence(self) -> None:
        """Take note that the trial was taken away."""
        self._fenced = True

    def came_with_news(self, age_s: float, *, finished_only: bool) -> None:
        """Take note that the study's history, as it was so long ago, came with the trial."""
        self._news_until = time.monotonic() + _NEWS_S - age_s
        self._news_are_whole = not finished_only

    def news_are_over(self) -> None:
        """Take note that a write of ours made that history old."""
        self._news_until = 0.0

    def use_news(self, *, finished_only: bool) -> bool:
        """Return whether the history that came with the trial is whole and recent enough to use.

        A pruner's decision is made from what it is when a value is reported.
        """
        now = time.monotonic()
        if now >= self._news_until or self._unsent.values:
            self._news_until = 0.0
            return False
        if not (finished_only or self._news_are_whole):
            return False
        self._news_until = min(self._news_until, now + _SAME_S)
        return True

    @property
    def unsent_bytes(self) -> int:
        """What there is to be sent, in bytes; 0: nothing."""
        return self._unsent.size

    def due_in(self) -> float:
        """Return for how many seconds what is unsent, or not known to be stored, may still wait."""
        left_s = math.inf
        now = time.monotonic()
        if self._unsent.size:
            left_s = self._unsent_since + _FLUSH_AFTER_S - now
        if self._reported:
            left_s = min(left_s, self._reported_since + _STORED_WITHIN_S - now)
        return left_s

    def check(self) -> None:
        """Raise if the trial can't go on.

        Raises :class:`~trialfleet.model.errors.SessionGivenUp`, or
        :class:`~trialfleet.model.errors.InvalidInput` if the storage refused what was flushed.
        """
        if self.fenced:
            raise SessionGivenUp(
                f"trial {self.number} was taken away: its session was given up; drop the trial"
            )
        if self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            raise refusal

    def refuse(self, refusal: InvalidInput) -> None:
        """Keep an error of a flush in the background for the next :meth:`check`."""
        self._refusal = refusal

    def set_param(self, definition: Definition, value: float, *, sent: bool) -> None:
        """Set a parameter, in its distribution's internal representation."""
        name, distribution, text = definition
        external = distribution.to_external_repr(value)
        with self._lock:
            self._trial.params[name] = external
            self._trial.distributions[name] = distribution
            if not sent:
                self._waits(4 * len(name) + len(text) + ITEM_BYTES)
                self._unsent.params[name] = (value, text)

    def set_attr(self, key: str, value: Any, text: str, *, system: bool) -> None:
        """Set an attribute: its value as it would be read back, and its JSON text."""
        with self._lock:
            (self._trial.system_attrs if system else self._trial.user_attrs)[key] = value
            self._waits(attribute_bytes(key, text))
            (self._unsent.system_attrs if system else self._unsent.user_attrs)[key] = text

    def set_value(self, step: int, value: float) -> None:
        """Set an intermediate value."""
        with self._lock:
            self._trial.intermediate_values[step] = value
            self._waits(ITEM_BYTES)
            self._unsent.values[step] = value

    def outdated(self) -> bool:
        """Whether others may have written to the trial a while ago, unseen.

        True once in a while: who is told so reads the trial.
        """
        now = time.monotonic()
        if now < self._read_at + _OTHERS_S:
            return False
        self._read_at = now
        return True

    def merge(self, stored: FrozenTrial) -> None:
        """Take over what others wrote to the trial: what we have not just set ourselves."""
        if stored.state.is_finished():
            self.fence()
            return
        with self._lock:
            for mine, unsent, theirs in (
                (self._trial.user_attrs, self._unsent.user_attrs, stored.user_attrs),
                (self._trial.system_attrs, self._unsent.system_attrs, stored.system_attrs),
            ):
                mine.update({key: theirs[key] for key in theirs if key not in unsent})
            for name in stored.params.keys() - self._unsent.params.keys():
                self._trial.params[name] = stored.params[name]
                self._trial.distributions[name] = stored.distributions[name]
            values = stored.intermediate_values
            self._trial.intermediate_values = values | self._trial.intermediate_values

    def snapshot(self) -> FrozenTrial:
        """Return the trial as it is now; later writes don't change what was returned."""
        with self._lock:
            return self._copy()

    def take(self) -> Unsent:
        """Return what is unsent, or not known to be stored, and hold nothing any more.

        Hold ``sending`` until it is sent.
        """
        with self._lock:
            unsent, self._unsent = self._unsent, Unsent()
            if self._reported:
                unsent = self._taken_reports().before(unsent)
            return unsent

    def report(self, sequence: int) -> tuple[Unsent, dict[int, float]]:
        """Return the values that are not known to be stored, and all that there are.

        The number is that of the write that brings them, of which :meth:`stored` may be told.
        """
        with self._lock:
            unsent = self._unsent
            new, unsent.values = unsent.values, {}
            if not (unsent.params or unsent.user_attrs or unsent.system_attrs):
                unsent.size = 0
            if new:
                if not self._reported:
                    self._reported_since = time.monotonic()
                self._reported[sequence] = new
            values = {step: v for report in self._reported.values() for step, v in report.items()}
            return Unsent(values=values), self._trial.intermediate_values.copy()

    def stored(self, sequence: int) -> None:
        """Take note that the reports up to a number are stored."""
        with self._lock:
            for number in [number for number in self._reported if number <= sequence]:
                del self._reported[number]
            self._reported_since = time.monotonic()

    def _taken_reports(self) -> Unsent:
        reports, self._reported = self._reported, {}
        values = {step: value for report in reports.values() for step, value in report.items()}
        return Unsent(values=values, size=len(values) * ITEM_BYTES)

    def restore(self, unsent: Unsent) -> None:
        """Hold again what was taken and not acknowledged."""
        with self._lock:
            if unsent and not self._unsent:
                self._unsent_since = time.monotonic()
            self._unsent = unsent.before(self._unsent)

    def _waits(self, size: int) -> None:
        if not self._unsent.size:
            self._unsent_since = time.monotonic()
        self._unsent.size += size

    def _copy(self) -> FrozenTrial:
        trial = self._trial
        return FrozenTrial(
            number=trial.number,
            state=trial.state,
            value=None,
            values=trial.values,
            datetime_start=trial.datetime_start,
            datetime_complete=trial.datetime_complete,
            params=trial.params.copy(),
            distributions=trial.distributions.copy(),
            user_attrs=trial.user_attrs.copy(),
            system_attrs=trial.system_attrs.copy(),
            intermediate_values=trial.intermediate_values.copy(),
            trial_id=trial._trial_id,
        )

"""A study's trials as this process knows them: each finished one is fetched once."""

import contextlib
import gc
import os
import threading
from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator
from operator import lt
from time import monotonic
from typing import Final

from optuna.trial import FrozenTrial, TrialState

from trialfleet.client.conversion import Definition
from trialfleet.client.trial_batches import DecodedDefinitions, decode_batch, decode_finished
from trialfleet.model.errors import NotFound
from trialfleet.wire import background, methods
from trialfleet.wire.connection import Connection
from trialfleet.wire.endpoint import Endpoint
from trialfleet.wire.v1 import trialfleet_pb2 as pb

_STREAM_S: Final = 60.0
"""Deadline of one attempt to read a history, in seconds; the next goes on where it ended."""

_MANY_TRIALS: Final = 100


class _Collector:
    """The garbage collector, which is kept away while many trials are made.

    They are kept, so it finds nothing, and takes as long to do so as they take to be made.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keepers = 0

    @contextlib.contextmanager
    def away(self, trials: int) -> Iterator[None]:
        """Keep it away while so many trials are made, unless they are few."""
        if trials < _MANY_TRIALS:
            yield
            return
        with self._lock:
            # Where somebody else has sent it away it stays so.
            keeper = bool(self._keepers) or gc.isenabled()
            self._keepers += keeper
            if keeper:
                gc.disable()
        try:
            yield
        finally:
            with self._lock:
                self._keepers -= keeper
                if keeper and not self._keepers:
                    gc.enable()

    def begin_in_child(self) -> None:
        """Bring it back in a forked process, where nobody does who had sent it away."""
        self._lock = threading.Lock()
        if self._keepers:
            self._keepers = 0
            gc.enable()


_collector: Final = _Collector()
os.register_at_fork(after_in_child=_collector.begin_in_child)


class OrderedTrials:
    """Finished trials by number: samplers ask for all of them, over and over."""

    def __init__(self) -> None:
        self._trials: list[FrozenTrial] = []
        self._states: set[TrialState] = set()

    def add(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Add trials; return those that were not there already."""
        numbers = [trial.number for trial in trials]
        # Mostly they are in order, and come after all others.
        before = [self._trials[-1].number if self._trials else -1, *numbers]
        if all(map(lt, before, numbers)):
            added = trials
            self._trials += trials
        else:
            added = [trial for trial in trials if self._insert(trial)]
        self._states.update(trial.state for trial in added)
        return added

    def merged(
        self, others: Iterable[FrozenTrial], states: Container[TrialState] | None
    ) -> list[FrozenTrial]:
        """Return a list of those in ``states``, and of others.

        A trial that has finished here stands for any other of its number, then the last one does.
        """
        if states is None or all(state in states for state in self._states):
            merged = self._trials.copy()
        else:
            merged = [trial for trial in self._trials if trial.state in states]
        for trial in {trial.number: trial for trial in others}.values():
            if (states is None or trial.state in states) and not self.has(trial.number):
                merged.insert(bisect_left(merged, trial.number, key=_number), trial)
        return merged

    def _insert(self, trial: FrozenTrial) -> bool:
        place = bisect_left(self._trials, trial.number, key=_number)
        if place < len(self._trials) and self._trials[place].number == trial.number:
            return False
        self._trials.insert(place, trial)
        return True

    def has(self, number: int) -> bool:
        """Return whether there is a trial of that number."""
        place = bisect_left(self._trials, number, key=_number)
        return place < len(self._trials) and self._trials[place].number == number


def _number(trial: FrozenTrial) -> int:
    return trial.number


class _Log:
    """A copy of one proxy's log of a study, as far as it was read."""

    def __init__(self) -> None:
        self.cursor = pb.Cursor()
        self.definitions = DecodedDefinitions()
        self.finished: list[FrozenTrial] = []  # in the order seen
        self.ordered = OrderedTrials()
        self.ticket = 0
        """The latest request whose answer was added."""

    def add(self, news: pb.News) -> list[Definition]:
        """Add finished trials; return the definitions that came with them.

        News that overlap with what is there are the same there: a log only grows.
        """
        batch = news.finished
        definitions = self.definitions.add(batch.first_definition, batch.definitions)
        with _collector.away(len(batch.trials)):
            self.add_trials(decode_finished(batch, self.definitions))
        if news.cursor.epoch != self.cursor.epoch or news.cursor.trials >= self.cursor.trials:
            self.cursor = news.cursor
        return definitions

    def add_trials(self, trials: list[FrozenTrial]) -> None:
        """Add finished trials, unless they are there."""
        self.finished += self.ordered.add(trials)


class Reading:
    """One request for what changed: the log that it continues, and when it was sent."""

    def __init__(self, log: _Log, ticket: int, *, finished_only: bool) -> None:
        self.log = log
        self.ticket = ticket
        self.finished_only = finished_only
        self.began = monotonic()

    @property
    def cursor(self) -> pb.Cursor:
        """What to send with the request."""
        reached = self.log.cursor
        return pb.Cursor(
            epoch=reached.epoch,
            trials=reached.trials,
            definitions=reached.definitions,
            finished_only=self.finished_only,
        )


class StudyHistory:
    """The trials of one study. Thread-safe; its trials must not be modified."""

    def __init__(self) -> None:
        self.wanted = False
        """Whether anybody in this process ever asked for the trials."""
        self.unfinished_wanted = False
        """Whether they asked for unfinished ones too."""
        self.known: dict[str, Definition] = {}
        """The first definition seen of each parameter: others have to be compatible."""
        self._lock = threading.Lock()
        self._log = _Log()
        self._unfinished: list[FrozenTrial] = []
        # Those that nobody has read yet: others' running trials come with each Ask.
        self._encoded: pb.TrialBatch | None = None
        self._unfinished_ticket = 0
        self._tickets = 0
        self._position = 0  # up to which `news` returned the log's trials
        self._given: set[int] = set()  # numbers of those that it returned of earlier logs
        self.read_at = float("-inf")
        """When what is known was asked for, on the monotonic clock: it may be as old as that."""

    def begin(self, *, finished_only: bool = False) -> Reading:
        """Begin a request; the answer goes to :meth:`accept`."""
        with self._lock:
            self.wanted = True
            self.unfinished_wanted |= not finished_only
            self._tickets += 1
            return Reading(self._log, self._tickets, finished_only=finished_only)

    def accept(self, reading: Reading, news: pb.News) -> bool:
        """Add an answer, or a part of one. Returns whether it was the last part."""
        with self._lock:
            if news.restarted or news.cursor.epoch != reading.log.cursor.epoch:
                reading.log = _Log()
            self.know(reading.log.add(news))
            if news.HasField("unfinished"):
                self._complete(reading, news.unfinished)
            elif news.more or not reading.finished_only:
                return False
            else:
                self._complete(reading, None)
            if reading.log is self._log:
                self.read_at = max(self.read_at, reading.began)
            return True

    def know(self, definitions: Iterable[Definition]) -> None:
        """Take note of parameters that the study has."""
        for definition in definitions:
            self.known.setdefault(definition.name, definition)

    def finish(self, reading: Reading) -> None:
        """Take it that no trial is unfinished: the last part of an answer said nothing else."""
        with self._lock:
            self._complete(reading, pb.TrialBatch())

    def trials(
        self,
        ours: Iterable[FrozenTrial],
        states: Container[TrialState] | None = None,
        *,
        finished_only: bool = False,
    ) -> list[FrozenTrial]:
        """Return the trials in ``states``, or all, ordered by number.

        ``ours`` are of this process, which knows more of them than the storage. With
        ``finished_only`` no others that have not finished are among them.
        """
        with self._lock:
            if finished_only:
                return self._log.ordered.merged(ours, states)
            if self._encoded is not None:
                self._unfinished = decode_batch(self._encoded)
                self._encoded = None
            return self._log.ordered.merged((*self._unfinished, *ours), states)

    def lacks(self, number: int) -> bool:
        """Return whether a trial that has finished is not among those that were read."""
        with self._lock:
            return not self._log.ordered.has(number)

    def outdate(self) -> None:
        """Take note that a trial of ours has finished that was not read yet."""
        self.read_at = float("-inf")

    def news(self) -> list[FrozenTrial]:
        """Return the finished trials that were not returned before, in the order seen."""
        with self._lock:
            new = self._log.finished[self._position :]
            self._position += len(new)
            if self._given:
                new = [trial for trial in new if trial.number not in self._given]
            return new

    def _complete(self, reading: Reading, unfinished: pb.TrialBatch | None) -> None:
        """Use an answer of which all parts have come; None: it has no unfinished trials."""
        # Answers may come in another order than their requests were sent in. One to a later
        # request is never older than that request, so it is new enough for all earlier ones.
        log, ticket = reading.log, reading.ticket
        if unfinished is not None and ticket > self._unfinished_ticket:
            self._unfinished_ticket = ticket
            self._encoded = unfinished
        if log is self._log:
            log.ticket = max(log.ticket, ticket)
        elif ticket > self._log.ticket:
            log.ticket = ticket
            self._given.update(trial.number for trial in self._log.finished[: self._position])
            self._log = log
            self._position = 0
        else:
            # The later one may have come from a proxy that is behind, for who wanted less.
            self._log.add_trials(log.finished)


class HistoryCache:
    """The histories of all studies that this process deals with. Thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._studies: dict[int, StudyHistory] = {}

    def of(self, study_id: int) -> StudyHistory:
        """Return the history of a study, empty at first."""
        found = self._studies.get(study_id)
        if found is None:
            with self._lock:
                found = self._studies.setdefault(study_id, StudyHistory())
        return found

    def drop(self, study_id: int) -> None:
        """Forget a study."""
        with self._lock:
            self._studies.pop(study_id, None)

    def read(self, study_id: int, reading: Reading) -> None:
        """Read all that changed. Raises ``NotFound`` for the study."""
        history = self.of(study_id)

        async def attempt(endpoint: Endpoint) -> None:
            request = pb.HistoryRequest(study_id=study_id, cursor=reading.cursor)
            parts = endpoint.stream(methods.HISTORY, request.SerializeToString(), _STREAM_S)
            complete = False
            with _collector.away(_MANY_TRIALS):
                async for part in parts:
                    complete = history.accept(reading, part.news)
            if not complete:
                history.finish(reading)

        try:
            background.run(self._connection.attempt(attempt))
        except NotFound:
            self.drop(study_id)
            raise

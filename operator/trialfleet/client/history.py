"""A study's trials as this process knows them: each finished one is fetched once."""

import contextlib
import gc
import threading
from collections.abc import Container, Iterable, Iterator
from time import monotonic
from typing import Final

from optuna.trial import FrozenTrial, TrialState

from trialfleet.client import calls
from trialfleet.client.connection import Connection
from trialfleet.client.endpoint import Endpoint
from trialfleet.client.ordered import OrderedTrials
from trialfleet.client.records import Definition
from trialfleet.client.trials import Definitions, decode_batch, decode_finished
from trialfleet.errors import NotFound
from trialfleet.v1 import trialfleet_pb2 as pb

_STREAM_S: Final = 60.0
"""Deadline of one attempt to read a history, in seconds; the next goes on where it ended."""

_MANY_TRIALS: Final = 100


@contextlib.contextmanager
def _without_collector(trials: int) -> Iterator[None]:
    """Keep the garbage collector away while many trials are made.

    They are kept, so it finds nothing, and takes as long to do so as they take to be made.
    """
    if trials < _MANY_TRIALS or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Log:
    """A copy of one proxy's log of a study, as far as it was read."""

    def __init__(self) -> None:
        self.cursor = pb.Cursor()
        self.definitions = Definitions()
        self.finished: list[FrozenTrial] = []  # in the order seen
        self._ordered = OrderedTrials()
        self._unfinished: list[FrozenTrial] = []
        self.encoded: pb.TrialBatch | None = None
        """Unfinished trials that nobody has read yet: others' running trials come with each Ask."""
        self.ticket = 0

    def add(self, news: pb.News) -> list[Definition]:
        """Add finished trials; return the definitions that came with them.

        News that overlap with what is there are the same there: a log only grows.
        """
        batch = news.finished
        definitions = self.definitions.add(batch.first_definition, batch.definitions)
        with _without_collector(len(batch.trials)):
            trials = decode_finished(batch, self.definitions)
            self.finished += self._ordered.add(trials)
        if news.cursor.epoch != self.cursor.epoch or news.cursor.trials >= self.cursor.trials:
            self.cursor = news.cursor
        return definitions

    def trials(
        self,
        ours: Iterable[FrozenTrial],
        states: Container[TrialState] | None,
        *,
        finished_only: bool,
    ) -> list[FrozenTrial]:
        """Return trials as :meth:`StudyHistory.trials` does."""
        if finished_only:
            return self._ordered.merged(ours, states)
        if self.encoded is not None:
            self._unfinished = decode_batch(self.encoded)
            self.encoded = None
        return self._ordered.merged((*self._unfinished, *ours), states)


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
                self._adopt(reading.log, reading.ticket)
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
            return self._log.trials(ours, states, finished_only=finished_only)

    def news(self) -> list[FrozenTrial]:
        """Return the finished trials that were not returned before, in the order seen."""
        with self._lock:
            new = self._log.finished[self._position :]
            self._position += len(new)
            if self._given:
                new = [trial for trial in new if trial.number not in self._given]
            return new

    def _complete(self, reading: Reading, unfinished: pb.TrialBatch) -> None:
        # Answers may come in another order than their requests were sent in. One to a later
        # request is never older than that request, so it is new enough for all earlier ones.
        log = reading.log
        if reading.ticket > log.ticket:
            log.ticket = reading.ticket
            log.encoded = unfinished
        self._adopt(log, log.ticket)

    def _adopt(self, log: _Log, ticket: int) -> None:
        if log is not self._log and ticket > self._log.ticket:
            log.ticket = ticket
            self._given.update(trial.number for trial in self._log.finished[: self._position])
            self._log = log
            self._position = 0


class Histories:
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
        """Read all that changed. Raises :class:`~trialfleet.errors.NotFound` for the study."""
        history = self.of(study_id)

        def attempt(endpoint: Endpoint) -> None:
            request = pb.HistoryRequest(study_id=study_id, cursor=reading.cursor)
            complete = False
            with _without_collector(_MANY_TRIALS):
                for part in endpoint.stream(calls.HISTORY, request.SerializeToString(), _STREAM_S):
                    complete = history.accept(reading, part.news)
            if not complete:
                history.finish(reading)

        try:
            self._connection.attempt(attempt)
        except NotFound:
            self.drop(study_id)
            raise

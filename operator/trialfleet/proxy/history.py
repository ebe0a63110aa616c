"""The finished trials of studies, in memory, as the bytes that workers get.

A log is read from the database when someone first asks for a study's history, and then only
what is new: each finished trial is read once and encoded once, whatever the number of readers.
A log may be dropped at any time; who had a part of it starts anew with the next one's epoch.
"""

import secrets
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Final, NamedTuple

from trialfleet.model.errors import NotFound
from trialfleet.model.trial import TrialRecord
from trialfleet.proxy.batches import Definitions, encode_batch, encode_trial
from trialfleet.proxy.flights import SharedFlight
from trialfleet.proxy.scanning import scan
from trialfleet.storage import Storage
from trialfleet.wire.fields import tag, varint
from trialfleet.wire.v1 import trialfleet_pb2 as pb

_CURSOR: Final = tag(pb.News, "cursor")
_FINISHED: Final = tag(pb.News, "finished")
_UNFINISHED: Final = tag(pb.News, "unfinished")

# Of a bytes object, its place in the list, and the mark beside it.
_ENTRY_OVERHEAD: Final = 33 + 8 + 8


class Bound(NamedTuple):
    """How much one message may carry; at least one trial goes into any."""

    trials: int
    size: int
    """Bytes, of encoded trials and definitions."""


class Cursor(NamedTuple):
    """What a reader has."""

    epoch: int
    trials: int
    definitions: int
    finished_only: bool = False


@dataclass(frozen=True, slots=True)
class HistoryView:
    """A study's history as one refresh found it; what follows in the log doesn't change it."""

    epoch: int
    entries: list[bytes]
    definitions: list[bytes]
    marks: "array[int]"
    """Of each trial, how many definitions there were when it was added."""
    end: int
    """How many trials of the log are part of this view."""
    unfinished: bytes | None
    """None if nobody wanted them."""

    def news(self, cursor: Cursor, bound: Bound) -> Iterator[bytes]:
        """Yield encoded ``News`` that bring a reader from its cursor to this view.

        A reader that wants unfinished trials has to be given a view that has them.

        All but the last say that there is more.
        """
        restarted = (
            cursor.epoch != self.epoch
            or cursor.trials > self.end
            or cursor.definitions > len(self.definitions)
        )
        trials, definitions = (0, 0) if restarted else (cursor.trials, cursor.definitions)
        while True:
            upto, known = self._reach(trials, definitions, bound)
            more = upto < self.end
            head = pb.News(
                restarted=restarted,
                cursor=pb.Cursor(epoch=self.epoch, trials=upto, definitions=known),
                more=more,
            ).SerializeToString()
            finished = b"".join(
                (
                    pb.TrialBatch(first_definition=definitions).SerializeToString(),
                    *self.definitions[definitions:known],
                    *self.entries[trials:upto],
                )
            )
            parts = [head, _FINISHED, varint(len(finished)), finished]
            if not (more or cursor.finished_only):
                assert self.unfinished is not None
                parts += (_UNFINISHED, varint(len(self.unfinished)), self.unfinished)
            yield b"".join(parts)
            if not more:
                return
            restarted, trials, definitions = False, upto, known

    def _reach(self, trials: int, definitions: int, bound: Bound) -> tuple[int, int]:
        """Return how far one message reaches, in trials and in definitions."""
        size = 0
        upto, known = trials, definitions
        while upto < min(self.end, trials + bound.trials):
            mark = self.marks[upto]
            size += len(self.entries[upto])
            if mark > known:
                size += sum(map(len, self.definitions[known:mark]))
            if size > bound.size and upto > trials:
                break
            upto, known = upto + 1, max(known, mark)
        return upto, known


class _Log:
    """The history of one study."""

    def __init__(
        self,
        storage: Storage,
        study_id: int,
        refreshed: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._storage = storage
        self._study_id = study_id
        self._refreshed = refreshed
        self._clock = clock
        self._epoch = secrets.randbits(63) + 1
        self._definitions = Definitions()
        self._entries: list[bytes] = []
        self._marks: array[int] = array("I")
        self._last_id = -1
        self._unfinished: list[int] = []
        self._bytes_of_entries = 0
        self.refresh: Final = SharedFlight(self._refresh)
        self.used_at = 0.0
        self.view: HistoryView
        self._endings = -1
        self._viewed_at = 0.0
        self.wanting_unfinished = 0
        """How many readers that want unfinished trials wait for a refresh."""

    @property
    def size(self) -> int:
        """Bytes in memory, without those of a refresh under way."""
        return self._bytes_of_entries + self._definitions.size

    def finished_since(self, moment: float, told_at: float | None) -> bool:
        """Whether a trial may have finished that the view lacks.

        That is one that ended in any way before a moment of the clock, or through this proxy:
        before ``told_at`` if that is given, else at any time.
        """
        if told_at is None:
            return self._endings != self._storage.endings or self._viewed_at < moment
        return self._viewed_at < max(moment, told_at)

    async def _refresh(self) -> None:
        endings, began = self._storage.endings, self._clock()
        last_id = self._last_id
        unfinished: list[TrialRecord] = []
        entries: list[bytes] = []
        marks: array[int] = array("I")
        bare = self.wanting_unfinished == 0
        async for record in scan(
            self._storage, self._study_id, last_id, self._unfinished, bare_unfinished=bare
        ):
            last_id = max(last_id, record.trial_id)
            if record.state.is_finished():
                entries.append(encode_trial(record, self._definitions))
                marks.append(len(self._definitions))
            else:
                unfinished.append(record)
        # From here nothing awaits: a failed or cancelled refresh has changed nothing but the
        # dictionary, which may hold more than the trials need.
        self._last_id = last_id
        self._unfinished = [record.trial_id for record in unfinished]
        self._entries += entries
        self._marks += marks
        self._bytes_of_entries += sum(map(len, entries)) + _ENTRY_OVERHEAD * len(entries)
        self.view = HistoryView(
            epoch=self._epoch,
            entries=self._entries,
            definitions=self._definitions.entries,
            marks=self._marks,
            end=len(self._entries),
            unfinished=None if bare else encode_batch(unfinished),
        )
        self._endings, self._viewed_at = endings, began
        self._refreshed()


class Histories:
    """The logs of a proxy's studies, within bounds of memory and of time unused.

    Use it on one event loop. ``max_bytes`` bounds all logs together, but for the one that was
    used last; a log that nobody asked for in ``idle_s`` seconds is dropped.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        max_bytes: int,
        idle_s: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._storage = storage
        self._max_bytes = max_bytes
        self._idle_s = idle_s
        self._clock = clock
        # The log that was used last is the last.
        self._logs: OrderedDict[int, _Log] = OrderedDict()

    def __len__(self) -> int:
        return len(self._logs)

    @property
    def size(self) -> int:
        """Bytes in memory of all logs; any thread may ask."""
        return sum(log.size for log in tuple(self._logs.values()))

    async def view(
        self,
        study_id: int,
        *,
        finished_only: bool = False,
        late_s: float = 0.0,
        told_at: float | None = None,
    ) -> HistoryView:
        """Return a study's history, with all that was committed before this call.

        With ``finished_only`` unfinished trials may be missing, and so may trials that finished in
        the last ``late_s`` seconds through others than this proxy; if ``told_at``, a moment of the
        monotonic clock, is given, also those that finished through this proxy after it.

        Raises :class:`NotFound` for a study that does not exist, and what
        :meth:`Storage.trials_since` raises.
        """
        log = self._logs.get(study_id)
        if log is None:
            log = self._logs[study_id] = _Log(self._storage, study_id, self._bound, self._clock)
        now = log.used_at = self._clock()
        self._logs.move_to_end(study_id)
        if finished_only and late_s and not log.finished_since(now - late_s, told_at):
            return log.view
        wanting = 0 if finished_only else 1
        log.wanting_unfinished += wanting
        try:
            await log.refresh()
            while not finished_only and log.view.unfinished is None:
                await log.refresh()  # a later one has ended by the time this one was heard of
        except NotFound:
            self.drop(study_id, log)
            raise
        finally:
            log.wanting_unfinished -= wanting
        return log.view

    def drop(self, study_id: int, log: _Log | None = None) -> None:
        """Forget a study that was deleted; if ``log`` is given, only while it is that one."""
        if log is None or self._logs.get(study_id) is log:
            self._logs.pop(study_id, None)

    def drop_idle(self) -> None:
        """Forget the logs that nobody asked for in a while."""
        since = self._clock() - self._idle_s
        for study_id, log in list(self._logs.items()):
            if log.used_at < since and not log.refresh.under_way:
                del self._logs[study_id]

    async def close(self) -> None:
        """Forget all; a refresh under way is cancelled."""
        logs = list(self._logs.values())
        self._logs.clear()
        for log in logs:
            await log.refresh.close()

    def _bound(self) -> None:
        size = self.size
        for study_id, log in list(self._logs.items())[:-1]:
            if size <= self._max_bytes:
                return
            if not log.refresh.under_way:
                size -= log.size
                del self._logs[study_id]

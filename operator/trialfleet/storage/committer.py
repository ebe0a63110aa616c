"""Group commit: the writes of many callers share a transaction."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from time import monotonic
from typing import Any, Final

import sqlalchemy as sa

from trialfleet.model.errors import Overloaded, StorageUnavailable
from trialfleet.storage.batch import Writer
from trialfleet.storage.express import Express
from trialfleet.storage.params import Distributions
from trialfleet.storage.plain import LEFT, Busy, PlainBatch, PlainWrites, may_be_plain, take_turn
from trialfleet.storage.records import Command, GiveUp, OpenTrial, TrialRecord

_log = logging.getLogger(__name__)

_MAX_BATCH = 1_000
"""Commands a transaction, about: bounds the time for which it holds its locks."""

_NOT_PLAIN_S: Final = 1.0
"""For how long a study whose openings are not plain is taken to remain so."""


@dataclass(slots=True, eq=False)
class _Submitted:
    """One caller's commands, and the future of their answers."""

    commands: Sequence[Command]
    answers: list[Any]
    future: asyncio.Future[list[Any]]
    cut: bool = False
    """Whether a connection broke on which they were tried."""

    @property
    def left(self) -> list[int]:
        """Places of the commands that are not applied yet."""
        return [place for place, answer in enumerate(self.answers) if answer is LEFT]


@dataclass(frozen=True, slots=True)
class _Flight:
    """A batch that is being applied."""

    batch: PlainBatch
    passengers: Sequence[_Submitted]
    """Whose commands it has."""
    followers: Sequence[_Submitted]
    """Who come after it, by the thread."""
    in_turn: bool
    """Whether it is a part of a transaction that was begun with a turn."""


class Committer:
    """Applies commands in batches.

    While one batch commits the next gathers, so a batch is as large as the load makes it and a
    lone command never waits for company but that of the commands that came at the same time.

    Plain writes are committed from the event loop, in one statement a batch; all others, and what
    turned out not to be plain, by a thread. Create and use it on one event loop.
    """

    def __init__(
        self,
        engine: sa.Engine,
        express: Express,
        max_waiting: int,
        on_commit: Callable[[Sequence[Command]], None],
    ) -> None:
        """Start the thread. ``on_commit`` gets each batch on the loop, before its answers."""
        self._loop = asyncio.get_running_loop()
        self._express = express
        self._plain = PlainWrites(Distributions())
        self._writer = Writer(engine, self._plain)
        self._max_waiting = max_waiting
        self._on_commit = on_commit
        self._waiting: deque[_Submitted] = deque()
        self._others: deque[_Submitted] = deque()
        self._not_plain_until: dict[int, float] = {}
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._departing = False
        self._busy = False
        """Whether others open trials of the studies that are waited for."""
        self._closed = False
        self._ended = False
        """Whether nothing is handed to the thread any more."""
        self._idle = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many callers wait for a transaction."""
        return len(self._waiting) + len(self._others)

    def submit(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Return a future of the commands' answers or errors; done when they are committed.

        They are applied in their order, in one transaction as far as they can share one.
        Raises :class:`Overloaded` if too many callers wait already.
        """
        if self._closed:
            raise StorageUnavailable("the proxy is stopping")
        if self.waiting >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} writes are waiting already")
        submitted = _Submitted(commands, [LEFT] * len(commands), self._loop.create_future())
        if self._departs(commands):
            self._waiting.append(submitted)
            # Not before the loop has read all that arrived: a batch takes it all.
            if self._express.idle:
                self._depart_soon()
        else:
            self._hand_over(submitted)
        return submitted.future

    def parameters(self, study_id: int) -> Mapping[str, str]:
        """Return the first distributions of a study's parameters, by name, as far as known."""
        return self._plain.distributions.known(study_id)

    async def close(self) -> None:
        """Apply what waits, then end the thread."""
        self._closed = True
        while self._waiting or not self._express.idle:
            self._idle.clear()
            await self._idle.wait()
        await self._express.close()
        self._ended = True
        self._wake.put(None)
        await asyncio.to_thread(self._thread.join)

    # -- plain writes, on the event loop -------------------------------------------------------

    def _departs(self, commands: Sequence[Command]) -> bool:
        if not self._express.connected:
            return False
        if len(commands) == 1 and isinstance(commands[0], GiveUp):
            # What a worker told before it died is to be applied before it is given up.
            return bool(self._waiting) or not self._express.idle
        return may_be_plain(commands) and self._opens_plainly(commands)

    def _opens_plainly(self, commands: Sequence[Command]) -> bool:
        if self._not_plain_until:
            for command in commands:
                if isinstance(command, OpenTrial):
                    until = self._not_plain_until.get(command.study_id, 0.0)
                    if until > monotonic():
                        return False
                    self._not_plain_until.pop(command.study_id, None)
        return True

    def _depart_soon(self) -> None:
        if not self._departing:
            self._departing = True
            self._loop.call_soon(self._depart)

    def _depart(self) -> None:
        self._departing = False
        if not self._express.idle:
            return  # what is under way calls when it is done
        if not self._express.connected:
            self._hand_over_all()
        studies = _openings(self._waiting) if self._busy else frozenset()
        if studies:
            self._express.run(take_turn(studies), lambda row: self._turn_taken(studies, row))
        else:
            self._send()
        if self._closed and self._express.idle:
            self._idle.set()

    def _turn_taken(self, studies: frozenset[int], row: Sequence[Any] | None) -> None:
        if row is None:
            # Somebody does not end a turn: the thread waits for those who open trials only.
            self._express.disconnect()  # else the transaction would go on
            self._busy = False
            self._hand_over_all()
            self._depart_soon()
        else:
            (self._busy,) = row
            self._send(studies)

    def _send(self, turns: frozenset[int] = frozenset()) -> None:
        batch, passengers, others = PlainBatch(), list[_Submitted](), list[_Submitted]()
        followers: list[_Submitted] = []
        while self._waiting and len(batch) < _MAX_BATCH:
            submitted = self._waiting.popleft()
            if not may_be_plain(submitted.commands):
                # Behind what was put off, too: that may be what the worker told.
                (others or followers).append(submitted)
            elif not self._fits(submitted):
                self._hand_over(submitted)
            elif turns and not turns >= _openings((submitted,)):
                others.append(submitted)
            elif batch.add(submitted.commands):
                passengers.append(submitted)
            else:
                others.append(submitted)  # it has to follow one that is aboard
        self._waiting.extendleft(reversed(others))
        try:
            statement = batch.statement()
        except Exception as error:
            # Somebody's command is wrong; the thread finds out whose.
            _log.info("a batch of %d is not plain: %s", len(batch), error)
            for submitted in passengers:
                self._hand_over(submitted)
            passengers.clear()
        flight = _Flight(batch, passengers, followers, in_turn=bool(turns))
        if passengers:
            self._express.run(statement, lambda row: self._applied(flight, row))
        elif turns:
            self._commit(flight, ())
        else:
            self._hand_over_each(followers)
            if self._waiting:
                self._depart_soon()  # what was put off for the sake of those handed over

    def _applied(self, flight: _Flight, row: Sequence[Any] | None) -> None:
        if row is None or not flight.in_turn:
            self._arrived(flight, row)
        else:
            self._commit(flight, row)

    def _commit(self, flight: _Flight, row: Sequence[Any] | None) -> None:
        self._express.run(
            "COMMIT", lambda done: self._arrived(flight, None if done is None else row)
        )

    def _fits(self, submitted: _Submitted) -> bool:
        try:
            return self._plain.fit(submitted.commands)
        except Exception:
            # A defect of ours must not take along those who are aboard already.
            _log.exception("it was not found out whether a write is plain")
            return False

    def _arrived(self, flight: _Flight, row: Sequence[Any] | None) -> None:
        passengers, followers = flight.passengers, flight.followers
        if row is None and flight.in_turn:
            self._express.disconnect()  # and with it the transaction, if it goes on
        cut = not self._express.connected
        if row:
            try:
                self._answer_plain(self._plain.answers(flight.batch, row), passengers)
            except Busy:
                self._busy = True
                self._waiting.extendleft(reversed((*passengers, *followers)))
                passengers = followers = ()
            except Exception:
                # A defect of ours must not leave callers waiting for ever: the thread takes them.
                _log.exception("the answer to a batch of %d was not understood", len(flight.batch))
        for submitted in passengers:
            submitted.cut = cut
            if LEFT in submitted.answers:
                self._hand_over(submitted)
            elif not submitted.future.done():
                submitted.future.set_result(submitted.answers)
        self._hand_over_each(followers)
        if self._waiting or self._closed:
            self._depart_soon()

    def _answer_plain(self, answers: Sequence[Any], passengers: Sequence[_Submitted]) -> None:
        given = iter(answers)
        applied: list[Command] = []
        for submitted in passengers:
            for place, command in enumerate(submitted.commands):
                submitted.answers[place] = answer = next(given)
                if answer is not LEFT:
                    applied.append(command)
                elif isinstance(command, OpenTrial):
                    self._not_plain_until[command.study_id] = monotonic() + _NOT_PLAIN_S
        if applied:
            self._on_commit(applied)

    def _hand_over_all(self) -> None:
        self._hand_over_each(self._waiting)
        self._waiting.clear()

    def _hand_over_each(self, submitted: Iterable[_Submitted]) -> None:
        for one in submitted:
            self._hand_over(one)

    # -- all others, by the thread -------------------------------------------------------------

    def _hand_over(self, submitted: _Submitted) -> None:
        self._others.append(submitted)
        if len(self._others) == 1:
            # Not before the loop has read all that arrived, as above.
            self._loop.call_soon(self._wake.put, None)

    def _run(self) -> None:
        while True:
            self._wake.get()
            batch: list[tuple[_Submitted, list[int]]] = []
            commands: list[Command] = []
            while self._others and len(commands) < _MAX_BATCH:
                submitted = self._others.popleft()
                left = submitted.left
                batch.append((submitted, left))
                commands.extend(submitted.commands[place] for place in left)
            if len(commands) >= _MAX_BATCH:
                self._wake.put(None)  # there may be more, which nobody will say again
            if batch:
                cut = any(submitted.cut for submitted, _ in batch)
                answers = self._apply(commands, cut)
                self._loop.call_soon_threadsafe(self._answer, batch, commands, answers)
            elif self._ended:
                self._writer.close()
                return

    def _apply(self, commands: Sequence[Command], cut: bool) -> list[Any]:
        try:
            return self._writer.apply(commands, cut=cut)
        except Exception as error:
            # A defect of ours must not leave callers waiting for ever.
            _log.exception("a batch of %d commands failed", len(commands))
            return [error] * len(commands)

    def _answer(
        self,
        batch: Sequence[tuple[_Submitted, list[int]]],
        commands: Sequence[Command],
        answers: Sequence[Any],
    ) -> None:
        applied = [
            command
            for command, answer in zip(commands, answers, strict=True)
            if not isinstance(answer, StorageUnavailable)
        ]
        if applied:
            self._on_commit(applied)
        given = iter(answers)
        for submitted, left in batch:
            for place in left:
                submitted.answers[place] = answer = next(given)
                command = submitted.commands[place]
                if isinstance(command, OpenTrial) and isinstance(answer, TrialRecord):
                    self._plain.remember(answer.trial_id, command.study_id)
            if not submitted.future.done():
                submitted.future.set_result(submitted.answers)


def _openings(submitted: Iterable[_Submitted]) -> frozenset[int]:
    """Return the studies of which trials are to be opened."""
    return frozenset(
        command.study_id
        for one in submitted
        for command in one.commands
        if isinstance(command, OpenTrial)
    )

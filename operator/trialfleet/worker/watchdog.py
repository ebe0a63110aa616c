"""Calls a worker's main thread away when a trial's time is over or the worker has to leave."""

import contextlib
import enum
import faulthandler
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Final, Self

from optuna.trial import TrialState

from trialfleet.client import FleetStorage
from trialfleet.model import errors
from trialfleet.worker import failure, signals
from trialfleet.worker.interrupts import (
    HandBack,
    Interrupt,
    Leave,
    TrialTimedOut,
    in_client,
    in_group,
    in_import,
)

GRACE_S: Final = 25.0
"""For a leaving worker's running trial; Kubernetes kills a pod 30 s after it asks it to end."""

LAST_S: Final = 4.0
"""After the grace: to hand the trial back and close the session, before the process ends."""

_OVERRUN_LAST_S: Final = 60.0
"""As ``LAST_S``, where nobody waits for the process to end."""
_RETRY_S: Final = 0.05

# Ignored by default, so harmless to a child process, and, other than SIGALRM or SIGUSR1, used
# by no training code. The Go runtime chose it for the same reasons.
_INTERRUPT: Final = signal.SIGURG

_WAKE: Final = 255
_STOP: Final = 254
_LEAVE: Final = 253

_log = logging.getLogger(__name__)


class _Phase(enum.Enum):
    STARTING = enum.auto()
    """Nothing is lost if the process just ends."""
    AWAY = enum.auto()
    """Nothing may be interrupted."""
    ASKING = enum.auto()
    RUNNING = enum.auto()
    TELLING = enum.auto()


@dataclass(slots=True, eq=False)
class _Spell:
    """What the main thread does for a while; replaced as a whole when it goes on."""

    phase: _Phase
    trial_id: int | None = None
    limit_s: float | None = None
    time_over: float | None = None
    raised: type[Interrupt] | None = None
    due_since: float | None = None
    next_raise: float = 0.0


class Watch:
    """Interrupts the main thread by exceptions, and ends the process if that does not help.

    Use it as a context manager in the main thread. While inside, SIGTERM and SIGINT (unless
    ``handle_signals`` is false) and :meth:`leave` make the worker leave: at once while it
    starts or asks for a trial, else when its trial is done, at the latest after ``grace_s``
    seconds; a second request ends the grace. A process that hangs ``LAST_S`` seconds longer
    exits with ``errors.EXIT_DRAINED``.

    An interrupt is raised in the objective wherever it is, except inside a call to the storage,
    an import or the start of a program. An objective that does not end within 10 s after its time
    was over (it is in C code, or swallows every exception) is told FAIL by the watching thread and
    the process exits with ``errors.EXIT_OVERRUN``. One that does not even let other threads run is
    ended by faulthandler with exit code 1 and its stack on stderr.

    ``asking``, ``running``, ``telling`` and ``away`` are for the main thread only; ``leave`` and
    ``leaving`` for any.
    """

    def __init__(
        self, storage: FleetStorage, *, grace_s: float = GRACE_S, handle_signals: bool = True
    ) -> None:
        self._storage = storage
        self._grace_s = grace_s
        self._signals = (signal.SIGTERM, signal.SIGINT) if handle_signals else ()
        self._spell = _Spell(_Phase.STARTING)
        self._leaving_since: float | None = None
        self._grace_over: float | None = None
        self._thread = threading.Thread(target=self._watch, name="trialfleet-watch", daemon=True)

    def __enter__(self) -> Self:
        self._main = threading.get_ident()
        with contextlib.ExitStack() as stack:
            self._receiver, self._sender = map(stack.enter_context, socket.socketpair())
            self._receiver.setblocking(False)
            self._sender.setblocking(False)
            stack.enter_context(signals.routed_to(self._sender.fileno(), self._signals))
            stack.callback(signal.signal, _INTERRUPT, signal.signal(_INTERRUPT, self._interrupt))
            self._thread.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._spell = _Spell(_Phase.AWAY)
        self._send(_STOP)
        self._thread.join()
        self._stack.close()

    @property
    def leaving(self) -> bool:
        """Whether the worker was asked to leave."""
        return self._leaving_since is not None

    def leave(self) -> None:
        """Ask the worker to leave; a second time, to leave now."""
        self._send(_LEAVE)

    def asking(self) -> None:
        """From here on the main thread may be interrupted by ``Leave``, at any time."""
        self._spell = _Spell(_Phase.ASKING)
        if self.leaving:
            self._send(_WAKE)

    def running(self, trial_id: int, limit_s: float | None) -> None:
        """From here on the main thread may be interrupted by ``TrialTimedOut`` or ``HandBack``."""
        time_over = None if limit_s is None else time.monotonic() + limit_s
        self._spell = _Spell(_Phase.RUNNING, trial_id, limit_s, time_over)
        if limit_s is not None:
            self._send(_WAKE)
            faulthandler.dump_traceback_later(limit_s + TrialTimedOut.yield_s, exit=True, file=2)

    def telling(self) -> type[Interrupt] | None:
        """From here on only ``Leave`` may be raised, when the grace is long over.

        Returns the interrupt that was raised while the trial ran, if any.
        """
        spell = self._spell
        if spell.phase is _Phase.RUNNING:
            self._spell = _Spell(_Phase.TELLING, spell.trial_id, raised=spell.raised)
            if spell.limit_s is not None:
                faulthandler.cancel_dump_traceback_later()
        return spell.raised

    def away(self) -> None:
        """From here on nothing is raised."""
        self._spell = _Spell(_Phase.AWAY)

    # -- in the main thread ------------------------------------------------------------------

    def _due(self, spell: _Spell, now: float) -> type[Interrupt] | None:
        if spell.phase in (_Phase.STARTING, _Phase.ASKING):
            return Leave if self.leaving else None
        if spell.phase is _Phase.RUNNING and spell.time_over is not None and now >= spell.time_over:
            return TrialTimedOut
        if self._grace_over is None or now < self._grace_over:
            return None
        if spell.phase is _Phase.RUNNING:
            return HandBack
        # What was handed back or has just ended is told, if that is possible at all.
        if spell.phase is _Phase.TELLING and now >= self._grace_over + Leave.yield_s:
            return Leave
        return None

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        spell, now = self._spell, time.monotonic()
        due = self._due(spell, now)
        if due is None or spell.phase is _Phase.STARTING or in_import(frame):
            return
        if now < spell.next_raise:
            return  # this signal was sent before the one before it was heard
        if spell.phase is _Phase.RUNNING and (in_client(frame) or in_group(frame)):
            return
        spell.raised = due
        # Python drops an exception that is raised in a finalizer, so one may not do; but what the
        # objective does to end in order is not interrupted at once.
        spell.next_raise = now + due.yield_s / 2
        raise due

    # -- in the watching thread --------------------------------------------------------------

    def _watch(self) -> None:
        while self._receive(self._consider(time.monotonic())):
            pass

    def _consider(self, now: float) -> float | None:
        """Interrupt what is due; return after how many seconds to look again."""
        if self._grace_over is not None and now >= self._grace_over + LAST_S:
            os._exit(errors.EXIT_DRAINED)
        spell = self._spell
        due = self._due(spell, now)
        if due is None:
            return self._until_due(spell, now)
        if spell.due_since is None:
            spell.due_since = now
            faulthandler.cancel_dump_traceback_later()  # threads do run
        yield_s = 0.0 if spell.phase is _Phase.STARTING else due.yield_s
        if due is TrialTimedOut and in_client(sys._current_frames().get(self._main)):
            spell.due_since = now  # late because no proxy answers, which is not its failure
        elif now >= spell.due_since + yield_s:
            self._end_process(spell, due)
        if now >= spell.next_raise:
            signal.pthread_kill(self._main, _INTERRUPT)
        return _RETRY_S

    def _until_due(self, spell: _Spell, now: float) -> float | None:
        times = [] if spell.time_over is None else [spell.time_over]
        if self._grace_over is not None:
            times += [self._grace_over + later_s for later_s in (0.0, Leave.yield_s, LAST_S)]
        return min((at - now for at in times if at > now), default=None)

    def _receive(self, wait_s: float | None) -> bool:
        if not select.select([self._receiver], [], [], wait_s)[0]:
            return True
        for byte in self._receiver.recv(4096):
            if byte == _STOP:
                return False
            if byte == _LEAVE or byte in self._signals:
                self._asked_to_leave(byte)
        return True

    def _asked_to_leave(self, byte: int) -> None:
        now = time.monotonic()
        why = "asked to leave" if byte == _LEAVE else f"got {signal.Signals(byte).name}"
        if self._leaving_since is None:
            if self._spell.phase in (_Phase.RUNNING, _Phase.TELLING):
                self._grace_over = now + self._grace_s
                _log.info("%s: finishing the running trial, %g s at most", why, self._grace_s)
            else:
                self._grace_over = now
                _log.info("%s: leaving", why)
            self._leaving_since = now
        else:
            self._grace_over = min(now, self._grace_over or now)
            _log.info("%s again: leaving now", why)

    def _end_process(self, spell: _Spell, due: type[Interrupt]) -> None:
        overrun = due is TrialTimedOut
        code = errors.EXIT_OVERRUN if overrun else errors.EXIT_DRAINED
        last_s = _OVERRUN_LAST_S if self._grace_over is None else LAST_S - Leave.yield_s
        bound = threading.Timer(last_s, os._exit, [code])
        bound.daemon = True
        bound.start()
        try:
            if overrun and spell.trial_id is not None and spell.limit_s is not None:
                found = failure.timed_out(spell.limit_s, None)
                _log.error("a trial ignores the end of its time: ending this process")
                for key, value in found.attributes.items():
                    self._storage.set_trial_system_attr(spell.trial_id, key, value)
                self._storage.set_trial_state_values(spell.trial_id, TrialState.FAIL)
            elif spell.phase is _Phase.RUNNING and spell.trial_id is not None:
                self._storage.hand_back(spell.trial_id)
            self._storage.close()
        except Exception as error:
            _log.error("can't end this worker in order: %s", failure.one_line(error))
        finally:
            _flush()
            os._exit(code)

    def _send(self, byte: int) -> None:
        try:
            self._sender.send(bytes([byte]))
        except BlockingIOError:
            return  # the thread has so much to read that it is awake anyway


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            continue  # closed or broken: there is no one left to tell

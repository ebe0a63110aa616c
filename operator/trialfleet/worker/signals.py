"""Signals that reach a thread at once, whatever the main thread is busy with.

A handler written in Python runs in the main thread between two bytecodes, which may be
minutes away while an objective sits in C code. The interpreter's wakeup descriptor is written
by the C handler itself, so a thread that reads it hears of the signal without delay.
"""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from types import FrameType

_routed: dict[int, object] = {}
"""Handlers that were there before ours, by signal."""


@contextlib.contextmanager
def routed_to(descriptor: int, signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Write the numbers of these signals to a non-blocking descriptor, a byte each.

    Main thread only. The number of every other signal that has a handler in Python is written
    too. Processes forked meanwhile get the former handlers back: a pool's ``terminate()`` must
    end its worker, and not be taken for a signal to the parent.
    """

    def forward(number: int, frame: FrameType | None) -> None:
        # An event loop in the objective may have taken the wakeup descriptor for itself.
        taken = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
        if taken != descriptor:
            signal.set_wakeup_fd(taken, warn_on_full_buffer=False)
            with contextlib.suppress(BlockingIOError):
                os.write(descriptor, bytes([number]))

    former = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    try:
        for number in signals:
            _routed[number] = signal.signal(number, forward)
        yield
    finally:
        _restore()
        signal.set_wakeup_fd(former)


def _restore() -> None:
    for number in list(_routed):
        handler = _routed.pop(number)
        # None stands for a handler that was not set from Python, and can't be set from it.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]


def _hold() -> None:
    """Keep signals from a child until it has handlers of its own."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _routed)


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _routed)


def _forget_and_release() -> None:
    held = list(_routed)
    if held:
        signal.set_wakeup_fd(-1)
        _restore()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)


os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_forget_and_release)

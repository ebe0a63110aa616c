"""Storage objects in forked processes: the process that was forked answers what they are asked.

gRPC's threads do not live on in a forked child, and it can't be begun there anew. So a child keeps
a pipe to its parent, and a thread of the parent makes the calls. What a child writes to a trial is
written as if the parent did; a child of a child is told that it can't.
"""

import os
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection as End
from typing import Any, Final

from trialfleet.model.errors import ForkedProcess, StorageUnavailable, TrialfleetError
from trialfleet.wire import background

_Answer = Callable[[str, str, tuple[Any, ...], dict[str, Any]], Any]
"""From a storage object's key, the name of a method or property, and arguments to the result."""


class Parent:
    """The parent process, as a forked child sees it. Thread-safe."""

    def __init__(self, end: End) -> None:
        self._end = end
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def ask(self, key: str, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return what the parent's storage object returns; raise what it raises.

        Raises :class:`~trialfleet.model.errors.StorageUnavailable` if the parent has ended.
        """
        if self._pid != os.getpid():
            raise ForkedProcess(background.FORKED)
        try:
            with self._lock:
                self._end.send((key, name, args, kwargs))
                succeeded, result = self._end.recv()
        except (OSError, EOFError) as error:
            raise StorageUnavailable("the process that was forked has ended") from error
        if not succeeded:
            raise result
        return result


_pending: Final = threading.local()
_parents_ends: Final[set[End]] = set()


def before() -> None:
    """Make a pipe, if this process has made calls. Call it before each fork."""
    _pending.ends = Pipe() if background.is_running() else None


def after_in_parent(answer: _Answer) -> None:
    """Answer the child, in a thread, until it ends."""
    if _pending.ends is not None:
        here, there = _pending.ends
        there.close()
        _parents_ends.add(here)
        threading.Thread(
            target=_serve, args=(here, answer), name="trialfleet-child", daemon=True
        ).start()


def after_in_child() -> Parent | None:
    """Return the parent, if there is something to ask it for."""
    for end in _parents_ends:  # to other children
        end.close()
    _parents_ends.clear()
    if _pending.ends is None:
        return None
    here, there = _pending.ends
    here.close()
    return Parent(there)


def _serve(end: End, answer: _Answer) -> None:
    while True:
        try:
            key, name, args, kwargs = end.recv()
        except (OSError, EOFError):
            break
        try:
            told = True, answer(key, name, args, kwargs)
        except Exception as error:
            told = False, error
        try:
            end.send(told)
        except (OSError, ValueError):
            break
        except Exception as error:  # what can't be pickled
            end.send((False, TrialfleetError(f"{name}: {error}")))
    _parents_ends.discard(end)
    end.close()


def forwarding(parent: Parent, key: str, found: Any, name: str) -> Any:
    """Return in a child what stands for a method of its storage object, or a property's value."""
    return partial(parent.ask, key, name) if callable(found) else parent.ask(key, name)

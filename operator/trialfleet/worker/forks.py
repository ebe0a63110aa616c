"""Forked copies of a worker: an objective may fork, and only the worker itself is the worker.

A copy is for what the objective gives it to do. If it comes back from the objective as the worker
does, it must neither tell the trial nor ask for another one, nor say anything of an end.
"""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def end_here() -> Iterator[None]:
    """End a copy that was forked inside as soon as it leaves, without any of the worker's own ends.

    It exits with code 0, with 1 if an exception leaves it, or with the code of ``sys.exit``.
    """
    pid = os.getpid()
    try:
        yield
    except BaseException as error:
        if os.getpid() != pid:
            os._exit(_code(error))
        raise
    if os.getpid() != pid:
        os._exit(0)


def _code(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        if error.code is None:
            return 0
        if isinstance(error.code, int):
            return error.code & 0xFF
    return 1


_count = 0


def _note() -> None:
    global _count
    _count += 1


def count() -> int:
    """Return how often this process has been forked by Python."""
    return _count


os.register_at_fork(after_in_parent=_note)

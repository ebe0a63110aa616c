"""Why a trial failed, told to people: a short message, where it was, the user's traceback."""

import importlib
import os
import sys
import sysconfig
import traceback
from dataclasses import dataclass
from types import TracebackType

from trialfleet import names
from trialfleet.worker.interrupts import Interrupt

TRACEBACK_BYTES = 64 * 1024
MESSAGE_CHARACTERS = 500

_CUT = "\n  [... cut ...]\n"
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_WORKER = os.path.dirname(os.path.abspath(__file__)) + os.sep
_CALLERS = (_PACKAGE, "<frozen importlib", os.path.dirname(importlib.__file__) + os.sep)


@dataclass(frozen=True, slots=True)
class ObjectiveFailure:
    """An objective's own failure."""

    reason: str
    """One of ``names.REASON_*``."""
    message: str
    """One line."""
    place: str = ""
    """File and line of the user's code that raised, as ``objective.py:34``; may be empty."""
    traceback: str = ""
    """At most ``TRACEBACK_BYTES`` long in UTF-8."""

    def __str__(self) -> str:
        return f"{self.message} ({self.place})" if self.place else self.message

    @property
    def attributes(self) -> dict[str, str]:
        """The system attributes of the trial that keep it."""
        found = {names.ATTR_REASON: self.reason, names.ATTR_MESSAGE: str(self)}
        if self.traceback:
            found[names.ATTR_TRACEBACK] = self.traceback
        return found


class Failed(Exception):
    """Raised by an objective that says itself why it failed.

    ``was_stopped``: something outside ended it, perhaps together with its worker.
    """

    def __init__(self, failure: ObjectiveFailure, *, was_stopped: bool = False) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.was_stopped = was_stopped


def raised(error: BaseException) -> ObjectiveFailure:
    """Describe an exception that left an objective, without the frames that called it."""
    if isinstance(error, Failed):
        return error.failure
    return ObjectiveFailure(
        reason=names.REASON_OBJECTIVE_RAISED,
        message=one_line(error),
        place=place_of(error),
        traceback=user_traceback(error),
    )


def timed_out(limit_s: float, error: BaseException | None) -> ObjectiveFailure:
    """Describe a trial that ran for longer than ``limit_s`` seconds.

    ``error`` is what left the objective, if anything did: the interrupt, or what became of it.
    """
    while error is not None and not isinstance(error, Interrupt):
        error = error.__cause__ or error.__context__
    return ObjectiveFailure(
        reason=names.REASON_TRIAL_TIMEOUT,
        message=f"not done after its time limit of {limit_s:g} s",
        place="" if error is None else place_of(error),
        traceback="" if error is None or not place_of(error) else user_traceback(error),
    )


def describe(error: BaseException) -> str:
    """Return the exception in one line, with the place where it was raised."""
    place = place_of(error)
    return f"{one_line(error)} ({place})" if place else one_line(error)


def user_traceback(error: BaseException) -> str:
    """Return the traceback from the user's first frame on, of at most ``TRACEBACK_BYTES``."""
    shown = traceback.TracebackException(
        type(error), error, first_foreign(error.__traceback__), compact=True
    )
    while shown.stack and shown.stack[-1].filename.startswith(_WORKER):
        shown.stack.pop()  # of the handler that raised an interrupt
    return bounded("".join(shown.format()))


def first_foreign(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the first frame that is not of Trialfleet or the import system."""
    at = trace
    while at is not None and at.tb_frame.f_code.co_filename.startswith(_CALLERS):
        at = at.tb_next
    return at


def one_line(error: BaseException) -> str:
    """Return the exception's type and text in one line of at most ``MESSAGE_CHARACTERS``."""
    kind = type(error).__name__
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:  # a user's exception may fail to describe itself
        text = ""
    line = " ".join(f"{kind}: {text}".split()) if text else kind
    return shortened(line.encode("utf-8", "backslashreplace").decode())


def shortened(line: str) -> str:
    """Cut off what a line has more than ``MESSAGE_CHARACTERS``."""
    return line if len(line) <= MESSAGE_CHARACTERS else line[: MESSAGE_CHARACTERS - 3] + "..."


def place_of(error: BaseException) -> str:
    """Return file and line where the user's own code raised, or called what raised."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{os.path.basename(error.filename)}:{error.lineno}"
    stack = traceback.extract_tb(first_foreign(error.__traceback__))
    if not stack:
        return ""
    own = [frame for frame in stack if not _is_library(frame.filename)]
    frame = (own or stack)[-1]
    return f"{os.path.basename(frame.filename)}:{frame.lineno}"


def bounded(text: str, limit: int = TRACEBACK_BYTES) -> str:
    """Cut the middle out of a text that is longer than ``limit`` bytes of UTF-8."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data.decode()
    half = (limit - len(_CUT)) // 2
    return data[:half].decode(errors="ignore") + _CUT + data[-half:].decode(errors="ignore")


def _is_library(filename: str) -> bool:
    if filename.startswith(("<frozen ", _PACKAGE)):
        return True
    return filename.startswith(_LIBRARIES)


def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    found = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    found.update(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))
    return tuple(path + os.sep for path in sorted(found))


_LIBRARIES = _library_folders()

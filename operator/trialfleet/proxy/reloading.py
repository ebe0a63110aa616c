"""Files that are read again when they change, as a mounted Secret's do."""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Final, Generic, TypeVar

from trialfleet.model.errors import InvalidInput
from trialfleet.proxy.log_events import event

_log = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 1.0

T = TypeVar("T")


class Reloaded(Generic[T]):
    """What some files say, at most a second late. Thread-safe.

    Files that are unusable are reported once in the log, and what was read before stays in force.
    """

    def __init__(self, option: str, paths: Sequence[Path], parse: Callable[..., T]) -> None:
        """Read the files; ``parse`` takes the content of each as bytes.

        It raises ``InvalidInput`` for files that can't be used, and so
        does this, naming the option.
        """
        self._option = option
        self._paths = paths
        self._parse = parse
        self._lock = threading.Lock()
        self._look_at = monotonic() + _LOOK_EVERY_S
        try:
            self._seen = self._stamps()
            self._value = self._read()
        except OSError as error:
            raise InvalidInput(f"{option}: {error.filename}: {error.strerror}") from error
        except InvalidInput as error:
            raise InvalidInput(f"{option}: {error}") from error

    def get(self) -> T:
        """Return what the files say."""
        # One caller looks; the others go on with what there is.
        if monotonic() >= self._look_at and self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._lock.release()
        return self._value

    def _look(self) -> None:
        self._look_at = monotonic() + _LOOK_EVERY_S
        try:
            # Before they are read: what changes meanwhile is read again next time.
            stamps = self._stamps()
            if stamps == self._seen:
                return
            self._seen = stamps
            self._value = self._read()
        except (OSError, InvalidInput) as error:
            if isinstance(error, OSError):
                missing = [(0, 0, 0)] * len(self._paths)
                if self._seen == missing:
                    return
                self._seen = missing
            event(_log, logging.WARNING, "files unusable", option=self._option, error=error)
            return
        event(_log, logging.INFO, "files read again", option=self._option)

    def _read(self) -> T:
        return self._parse(*(path.read_bytes() for path in self._paths))

    def _stamps(self) -> list[tuple[int, int, int]]:
        found = [os.stat(path) for path in self._paths]
        return [(one.st_ino, one.st_mtime_ns, one.st_size) for one in found]

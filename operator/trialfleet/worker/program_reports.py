"""What a program reports by itself: lines that it writes to a named pipe."""

import contextlib
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_NAME: Final = "report"


class Inbox:
    """A named pipe for the reports of one trial's program, to be used as a context manager.

    Entering it raises ``OSError`` if there can be no named pipe.
    """

    path: Path
    """Whatever this user writes to it is a report, a line each."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            made = tempfile.TemporaryDirectory(prefix="trialfleet-", ignore_cleanup_errors=True)
            self.path = Path(stack.enter_context(made), _NAME)
            os.mkfifo(self.path, 0o600)
            # Open for writing too: so the pipe has no end while those who write come and go.
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
            stack.callback(os.close, self._descriptor)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def fileno(self) -> int:
        """The pipe to be read, which does not block."""
        return self._descriptor

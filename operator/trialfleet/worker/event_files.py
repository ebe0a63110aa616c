"""Metrics in TensorBoard's event files, read by TensorBoard itself."""

import contextlib
import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from trialfleet.model.errors import ObjectiveImportError
from trialfleet.worker.metric_lines import MissingValue, Reported, cut
from trialfleet.worker.program_files import Places

_FILES: Final = "**/*tfevents*"
_LOADER: Final = "tensorboard.backend.event_processing.event_file_loader"
_TENSORS: Final = "tensorboard.util.tensor_util"


def check_reader(path: str) -> None:
    """Raise ``ObjectiveImportError`` for a field if there is nothing that reads event files."""
    try:
        importlib.import_module(_LOADER)
    except ImportError as error:
        raise ObjectiveImportError(
            f"{path}: event files can't be read: {error}; accepted: with the package tensorboard, "
            "as pip install 'trialfleet[tensorboard]' has it"
        ) from error


class EventFiles:
    """The event files of a folder and those below it that were made since this was.

    ``report`` is called with each value of the tag.
    """

    def __init__(self, places: Places, tag: str, report: Callable[[Reported], None]) -> None:
        self._places = places
        self._tag = tag
        self._report = report
        self._before = {file for place in places.all for file in place.glob(_FILES)}
        self._loaders: dict[Path, Any] = {}
        self._tags = set[str]()
        self._last: object = None
        self._last_time = float("-inf")
        # A file that is being written may end within an event: that is told as a warning.
        logging.getLogger("tensorboard").setLevel(logging.ERROR)

    def look(self) -> None:
        """Report what was written since the last look."""
        with contextlib.suppress(MissingValue):
            self._see()

    def value(self, key: str) -> object:
        """Return the last value, after the program's end. Raises ``MissingValue``."""
        self._see()
        if not self._loaders:
            raise MissingValue(f"the program has not written event files into {self._places}")
        if self._last_time == float("-inf"):
            tags = cut(", ".join(sorted(map(repr, self._tags))) or "none")
            raise MissingValue(f"the event files have no tag {self._tag!r}; their tags: {tags}")
        return self._last

    def _see(self) -> None:
        for file in self._files():
            if file not in self._loaders:
                self._loaders[file] = importlib.import_module(_LOADER).EventFileLoader(str(file))
            for event in self._loaders[file].Load():
                for value in event.summary.value:
                    self._take(event, value)

    def _files(self) -> list[Path]:
        for place in self._places.all:
            found = sorted(file for file in place.glob(_FILES) if file not in self._before)
            if found:
                self._places.check(place)
                return found
        return []

    def _take(self, event: Any, value: Any) -> None:
        self._tags.add(value.tag)
        if value.tag != self._tag:
            return
        array = importlib.import_module(_TENSORS).make_ndarray(value.tensor)
        is_number = array.size == 1 and array.dtype.kind in "fiu"
        number = array.item() if is_number else f"{array.dtype} of shape {array.shape}"
        if event.wall_time >= self._last_time:
            self._last, self._last_time = number, event.wall_time
        self._report(Reported(number, event.step))

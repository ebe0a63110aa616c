"""Failed trials: told in few lines, and told from lost ones."""

import re
import threading
from typing import Final

from optuna.trial import FrozenTrial, TrialState

from trialfleet import names

SHOWN: Final = 5
"""So many different messages are told at once; the rest is in the count at the end."""

_OWN_DOING: Final = frozenset(
    {
        names.REASON_OBJECTIVE_RAISED,
        names.REASON_OBJECTIVE_RETURNED,
        names.REASON_TRIAL_TIMEOUT,
        names.REASON_CRASHED,
        names.REASON_OOM_KILLED,
    }
)
"""Reasons of trials that count as failed."""

_FAILED: Final = re.compile(r"trial (\d+) failed: (.*)")


class Failures:
    """Collects what workers say of failed trials. Every method may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[str, list[int]] = {}

    def hear(self, line: str) -> str | None:
        """Take a line of a worker's output; return what of it is to be told now, if anything.

        A message that was told before is not told again.
        """
        match = _FAILED.search(line)
        if match is None:
            return line
        number, message = int(match[1]), match[2]
        with self._lock:
            numbers = self._numbers.setdefault(message, [])
            numbers.append(number)
            if len(numbers) > 1 or len(self._numbers) > SHOWN:
                return None
        return f"trial {number} failed: {message}"

    def summary(self) -> list[str]:
        """Return a line for each message that came more than once, the most frequent first."""
        with self._lock:
            often = sorted(self._numbers.items(), key=lambda item: -len(item[1]))
        return [
            f"{len(numbers)} trials failed: {message} (the first: {numbers[0]})"
            for message, numbers in often
            if len(numbers) > 1
        ][:SHOWN]


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a trial was taken away with its worker, rather than failed by itself."""
    reason = trial.system_attrs.get(names.ATTR_REASON)
    return trial.state is TrialState.FAIL and reason is not None and reason not in _OWN_DOING

"""A study as the data path carries it, and its counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from optuna.study import StudyDirection


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """A study as Optuna sees it."""

    study_id: int
    name: str
    directions: Sequence[StudyDirection]
    user_attrs: Sequence[tuple[str, str]] = ()
    system_attrs: Sequence[tuple[str, str]] = ()
    owner: str = ""
    """Whose it is, as told by the owner; empty: nobody's."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many trials of a study are in each state; a lost trial is not a failed one."""

    complete: int = 0
    pruned: int = 0
    failed: int = 0
    running: int = 0
    waiting: int = 0
    lost: int = 0

    @property
    def counted(self) -> int:
        """Trials that the budget counts."""
        return self.complete + self.pruned + self.failed


class Failure(NamedTuple):
    """The newest failed trial."""

    number: int
    reason: str
    """One word in CamelCase; empty if whoever ended it gave none."""
    message: str

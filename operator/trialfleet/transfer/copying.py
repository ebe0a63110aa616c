"""Copying studies from a source to a target: which ones, under what name, and what of a trial."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

from optuna.distributions import json_to_distribution
from optuna.trial import TrialState

from trialfleet import names
from trialfleet.model.errors import InvalidInput
from trialfleet.model.study import StudyRecord
from trialfleet.model.trial import TrialRecord

SLICE: Final = 250
"""Trials that are in memory at once."""

Add = Callable[[Sequence[TrialRecord]], None]


class Source(Protocol):
    """Where studies are read."""

    def studies(self) -> list[StudyRecord]:
        """Return all studies, the oldest first."""
        ...

    def trials(self, study_id: int) -> Iterator[list[TrialRecord]]:
        """Return a study's trials in slices of at most ``SLICE``, ordered by number."""
        ...


class Found(NamedTuple):
    """A study that a target has already."""

    directions: list[str]
    trials: int


class Target(Protocol):
    """Where studies are written."""

    def find(self, name: str) -> Found | None:
        """Return what the target has of a study, None if it does not exist."""
        ...

    def write(self, study: StudyRecord) -> AbstractContextManager[Add]:
        """Create a study, or fill the empty one of its name: within, trials are added in order.

        A trial gets the number that comes next. A new study that is left by an error is removed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Copied:
    """A study that was copied."""

    source: str
    name: str
    trials: int
    waiting_again: int
    """Trials that ran at the source."""


def choose(
    source: Source, target: Target, wanted: Sequence[str], everything: bool, rename: str | None
) -> list[tuple[StudyRecord, str]]:
    """Return the studies to copy, each with its name at the target.

    ``wanted`` are names; if there are none and ``everything`` is False, the only study is meant.
    Raises ``InvalidInput``, before anything is written, for a name that the source lacks and for
    one that the target has with trials or with other objectives.
    """
    if everything and wanted:
        raise InvalidInput("STUDY, --all: accepted: one of the two")
    studies = {study.name: study for study in source.studies()}
    if not studies:
        raise InvalidInput("STUDY: there is no study yet")
    listed = ", ".join(sorted(studies))
    if everything:
        wanted = list(studies)
    elif not wanted:
        if len(studies) > 1:
            raise InvalidInput(f"STUDY: missing, accepted: --all, or of {listed}")
        wanted = list(studies)
    for name in wanted:
        if name not in studies:
            raise InvalidInput(f"STUDY: found {name!r}, accepted: {listed}")
    wanted = list(dict.fromkeys(wanted))
    if rename is not None and len(wanted) > 1:
        raise InvalidInput(f"--as: found {len(wanted)} studies, accepted: one")
    chosen = [(studies[name], rename if rename is not None else name) for name in wanted]
    for study, name in chosen:
        _check_free(study, name, target.find(name))
    return chosen


def _check_free(study: StudyRecord, name: str, found: Found | None) -> None:
    if found is None:
        return
    if found.trials:
        count = f"{found.trials} trial{'s' if found.trials > 1 else ''}"
        raise InvalidInput(
            f"study {name!r}: exists at the target with {count}, accepted: a name that is free "
            "there (--as NAME), or an empty study"
        )
    directions = [direction.name for direction in study.directions]
    if found.directions != directions:
        raise InvalidInput(
            f"study {name!r}: exists at the target, empty, with the directions "
            f"{', '.join(found.directions).lower()}, accepted: {', '.join(directions).lower()}; or "
            "another name (--as NAME)"
        )


def copy_study(source: Source, study: StudyRecord, target: Target, name: str) -> Copied:
    """Copy a study with all that it has. Raises ``InvalidInput`` for numbers with a gap."""
    copied = waiting_again = 0
    with target.write(replace(study, name=name)) as add:
        for trials in source.trials(study.study_id):
            _check_numbers(study.name, trials, copied)
            waiting_again += sum(trial.state == TrialState.RUNNING for trial in trials)
            add([_settled(trial) for trial in trials])
            copied += len(trials)
    return Copied(study.name, name, copied, waiting_again)


def _check_numbers(study: str, trials: Iterable[TrialRecord], first: int) -> None:
    # No storage of Optuna's can be told a number: each gives the next one.
    for expected, trial in enumerate(trials, first):
        if trial.number != expected:
            raise InvalidInput(
                f"study {study!r}: found trial {trial.number} after trial {expected - 1}, "
                f"accepted: trials that are numbered without a gap"
            )


def _settled(trial: TrialRecord) -> TrialRecord:
    """Return a trial as it can go on elsewhere.

    Nobody at the target runs a trial that runs at the source. It waits to be run, as one that its
    worker handed back: with its parameters and attributes, without its reports.
    """
    if trial.state != TrialState.RUNNING:
        return trial
    attrs = dict(trial.system_attrs)
    fixed = {
        name: json_to_distribution(text).to_external_repr(value)
        for name, value, text in trial.params
    }
    if fixed and names.ATTR_FIXED_PARAMS not in attrs:
        attrs[names.ATTR_FIXED_PARAMS] = json.dumps(fixed)
    return replace(
        trial,
        state=TrialState.WAITING,
        started=None,
        values=None,
        intermediate_values=(),
        system_attrs=list(attrs.items()),
    )

"""Reports that ask whether to prune: decided from memory, written with the next batch."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from time import monotonic
from typing import Final

from optuna.pruners import BasePruner
from optuna.study import StudyDirection

from trialfleet.model.errors import InvalidInput, NotFound, SessionGivenUp, TrialfleetError
from trialfleet.proxy.history import Histories
from trialfleet.proxy.pruning import StepValues, should_prune
from trialfleet.storage import Storage
from trialfleet.storage.commands import UpdateTrial
from trialfleet.wire.pruners import decode_pruner

_STUDIES: Final = 64
"""Studies whose intermediate values are kept in order; of others they are read again."""
_TRIALS: Final = 50_000
"""Trials of which it is known what was stored; of others it is told later."""
_SESSIONS: Final = 50_000
"""Sessions of which it is known when they told a trial last."""


@dataclass(slots=True)
class _Study:
    direction: StudyDirection
    values: StepValues


@dataclass(slots=True)
class _Reports:
    """What became of a running trial's reports."""

    stored: int = 0
    failed: TrialfleetError | None = None


class Decisions:
    """Whether trials are to be pruned, and their reports. Belongs to one event loop."""

    def __init__(self, storage: Storage, histories: Histories) -> None:
        """Take where reports are written, and what is known of finished trials."""
        self._storage = storage
        self._histories = histories
        # Of both the one that was used last is the last.
        self._studies: OrderedDict[int, _Study] = OrderedDict()
        self._reports: OrderedDict[tuple[bytes, int], _Reports] = OrderedDict()
        self._told_at: OrderedDict[bytes, float] = OrderedDict()
        self._writing: set[asyncio.Task[None]] = set()

    def told(self, session: bytes) -> None:
        """Take note that a session has ended a trial: its next decision is to know of it."""
        self._told_at[session] = monotonic()
        self._told_at.move_to_end(session)
        if len(self._told_at) > _SESSIONS:
            self._told_at.popitem(last=False)

    def write(self, update: UpdateTrial) -> int:
        """Begin to write a report; return up to which number the trial's are committed.

        Raises what an earlier one of the trial did, :class:`SessionGivenUp` among it.
        """
        key = update.write.session, update.update.trial_id
        reports = self._reports.get(key)
        if reports is None:
            reports = self._reports[key] = _Reports()
            if len(self._reports) > _TRIALS:
                self._reports.popitem(last=False)
        self._reports.move_to_end(key)
        if reports.failed is not None:
            del self._reports[key]
            raise reports.failed
        if update.update.intermediate_values:
            task = asyncio.create_task(self._write(update, reports))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)
        return reports.stored

    async def prune(
        self, study_id: int, session: bytes, pruner: str, values: dict[int, float], late_s: float
    ) -> bool:
        """Return what a pruner decides of a trial with intermediate values, by step.

        It knows of all trials that the session ended itself, and of others' that ended more than
        ``late_s`` seconds ago.

        Raises ``InvalidInput`` for a text that is no pruner, ``NotFound`` for the study.
        """
        decoded = _pruner(pruner)
        study = await self._study(study_id)
        told_at = self._told_at.get(session, 0.0)
        view = await self._histories.view(
            study_id, finished_only=True, late_s=late_s, told_at=told_at
        )
        await study.values.update(view)
        return should_prune(decoded, study.direction, study.values, values)

    def drop(self, study_id: int) -> None:
        """Forget a study that was deleted."""
        self._studies.pop(study_id, None)

    async def _study(self, study_id: int) -> _Study:
        study = self._studies.get(study_id)
        if study is None:
            found = await self._storage.studies(study_id=study_id)
            if not found:
                raise NotFound(f"no study has the id {study_id}")
            if len(found[0].directions) > 1:
                raise InvalidInput("decision: found a study of several objectives, accepted: one")
            study = self._studies.setdefault(study_id, _Study(found[0].directions[0], StepValues()))
            if len(self._studies) > _STUDIES:
                self._studies.popitem(last=False)
        self._studies.move_to_end(study_id)
        return study

    async def _write(self, update: UpdateTrial, reports: _Reports) -> None:
        try:
            # Nobody waits for it: it goes with what somebody waits for.
            (answer,) = await self._storage.apply_all([update], urgent=False)
            if isinstance(answer, Exception):
                raise answer
        except (SessionGivenUp, NotFound, InvalidInput) as error:
            reports.failed = error
        except TrialfleetError:
            pass  # what is not stored is sent again
        else:
            reports.stored = max(reports.stored, update.write.sequence)


@lru_cache(maxsize=256)
def _pruner(text: str) -> BasePruner:
    return decode_pruner(text)

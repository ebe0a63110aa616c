"""Reading many trials without holding other calls up."""

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Final

from trialfleet.model.trial import TrialRecord
from trialfleet.storage import Storage

_READ_TRIALS: Final = 1000
"""Trials of one query: their records take some 2 KiB each until they are encoded."""

_ENCODE_TRIALS: Final = 200
"""Trials encoded in one go, some milliseconds: other calls are answered in between."""


async def scan(
    storage: Storage,
    study_id: int,
    after: int,
    included: Collection[int],
    *,
    bare_unfinished: bool = False,
) -> AsyncIterator[TrialRecord]:
    """Yield a study's trials with an id over ``after`` or in ``included``, ordered by id.

    ``bare_unfinished`` and what it raises are as of :meth:`Storage.trials_since`.
    """
    while True:
        page = await storage.trials_since(
            study_id, after, list(included), _READ_TRIALS, bare_unfinished
        )
        for place, record in enumerate(page, 1):
            yield record
            if place % _ENCODE_TRIALS == 0:
                await asyncio.sleep(0)
        if len(page) < _READ_TRIALS:
            return
        last = page[-1].trial_id
        after, included = max(after, last), [trial_id for trial_id in included if trial_id > last]

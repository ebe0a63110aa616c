"""What the proxy decides is what Optuna's pruners decide of all trials."""

import asyncio
import math
import random
import warnings
from collections.abc import Sequence

import optuna
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    PercentilePruner,
    ThresholdPruner,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from trialfleet.model.errors import InvalidInput
from trialfleet.model.trial import TrialRecord
from trialfleet.proxy.batches import Definitions, encode_trial
from trialfleet.proxy.history import HistoryView
from trialfleet.proxy.pruning import StepValues, should_prune
from trialfleet.wire.pruners import decode_pruner, encode_pruner

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ExperimentalWarning)
    PATIENT: Sequence[BasePruner] = (
        PatientPruner(None, 2),
        PatientPruner(MedianPruner(n_startup_trials=3), 1, min_delta=0.1),
        PatientPruner(PatientPruner(PercentilePruner(10.0, n_startup_trials=1), 0), 0),
    )
    PATIENT_NO = PatientPruner(NopPruner(), 1)

PRUNERS: Sequence[BasePruner] = (
    *PATIENT,
    MedianPruner(),
    MedianPruner(n_startup_trials=0, n_warmup_steps=2, interval_steps=3, n_min_trials=4),
    PercentilePruner(0.0, n_startup_trials=1),
    PercentilePruner(25.0, n_startup_trials=2),
    PercentilePruner(37.5, n_startup_trials=0, n_warmup_steps=1),
    PercentilePruner(100.0, n_startup_trials=0),
)
NUMBERS = (0.0, 1.0, 1.0, 2.5, -3.0, 0.1, 7.0, math.nan, math.inf, -math.inf)


class Log:
    """A history as a proxy has it."""

    def __init__(self, epoch: int = 1) -> None:
        self.epoch = epoch
        self.entries: list[bytes] = []
        self._definitions = Definitions()

    def add(self, values: dict[int, float], state: TrialState = TrialState.COMPLETE) -> None:
        steps = list(values.items())
        record = TrialRecord(1, len(self.entries), state, [0.0], intermediate_values=steps)
        self.entries.append(encode_trial(record, self._definitions))

    def view(self) -> HistoryView:
        entries = list(self.entries)
        return HistoryView(self.epoch, entries, [], None, len(entries), None)  # type: ignore[arg-type]


def values_of(chance: random.Random) -> dict[int, float]:
    steps = chance.sample(range(8), chance.randint(0, 8))
    return {step: chance.choice([*NUMBERS, chance.uniform(-3, 8)]) for step in steps}


def stock_decides(
    pruner: BasePruner, direction: str, finished: Sequence[FrozenTrial], values: dict[int, float]
) -> bool:
    study = optuna.create_study(direction=StudyDirection[direction.upper()])
    study.add_trials(finished)
    trial = create_trial(state=TrialState.RUNNING, intermediate_values=values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return bool(pruner.prune(study, trial))


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("place", range(len(PRUNERS)))
def test_as_optuna(place: int, direction: str) -> None:
    chance = random.Random(place)
    text = encode_pruner(PRUNERS[place])
    assert text is not None
    pruner = decode_pruner(text)
    decided = {True: 0, False: 0}
    for _ in range(25):
        log, finished = Log(), []
        values = StepValues()
        for _ in range(chance.randint(0, 12)):
            state = chance.choice([TrialState.COMPLETE] * 3 + [TrialState.PRUNED])
            reported = values_of(chance)
            log.add(reported, state)
            finished.append(create_trial(state=state, value=0.0, intermediate_values=reported))
            if chance.random() < 0.3:
                asyncio.run(values.update(log.view()))
        asyncio.run(values.update(log.view()))
        for _ in range(12):
            mine = values_of(chance)
            expected = stock_decides(PRUNERS[place], direction, finished, mine)
            found = should_prune(pruner, StudyDirection[direction.upper()], values, mine)
            assert found == expected, (finished, mine)
            decided[expected] += 1
    assert decided[True] and decided[False]


def test_another_log_begins_anew() -> None:
    async def main() -> None:
        values = StepValues()
        log = Log(epoch=1)
        for number in range(1200):
            log.add({0: float(number)})
        await asyncio.gather(*(values.update(log.view()) for _ in range(3)))
        assert (values.complete, values.count(0), values.around(0, 50)) == (
            1200,
            1200,
            ((599.0, 600.0), 50.0),
        )
        other = Log(epoch=2)
        other.add({0: 5.0})
        await values.update(other.view())
        assert (values.complete, values.count(0), values.around(0, 50)) == (1, 1, ((5.0,), 0.0))

    asyncio.run(main())


class Derived(MedianPruner):
    """May decide in another way."""


@pytest.mark.parametrize(
    "pruner",
    [NopPruner(), ThresholdPruner(upper=1), HyperbandPruner(), PATIENT_NO, Derived()],
)
def test_the_worker_decides_for_all_others(pruner: BasePruner) -> None:
    assert encode_pruner(pruner) is None


WRONG = (
    "",
    "[]",
    "{}",
    '{"percentile":200}',
    '{"wrapped":{"patience":1}}',
    "[" * 9999,
)


@pytest.mark.parametrize("text", WRONG)
def test_a_text_that_is_no_pruner(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^pruner: found "):
        decode_pruner(text)

"""Which faults come when: decided by a number alone, so that they can come again."""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Fault(NamedTuple):
    """Something that is broken for a while."""

    kind: str
    pause_s: float
    """From the fault before it in the same burst."""
    place: int
    """Which of several parts it befalls."""


class Burst(NamedTuple):
    """Faults that overlap."""

    faults: Sequence[Fault]
    lasting_s: float
    """From the last of them until all are mended."""


def bursts(kinds: Sequence[str], seed: int, longest_s: float) -> Iterator[Burst]:
    """Yield bursts of one to three faults without end; every kind comes before one comes twice."""
    chance = random.Random(seed)
    waiting: list[str] = []
    while True:
        found: list[Fault] = []
        for _ in range(chance.choice((1, 1, 2, 3))):
            if not waiting:
                waiting = chance.sample(kinds, len(kinds))
            kind = waiting.pop()
            if kind not in [fault.kind for fault in found]:
                found.append(Fault(kind, chance.uniform(0, 2), chance.randrange(1000)))
        yield Burst(found, chance.uniform(0.5, longest_s))

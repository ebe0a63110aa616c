"""How much is fuzzed: the same inputs with every run of the tests, new ones for long in a soak."""

import random
import time
from collections.abc import Callable
from typing import Any, Final

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

_COMMON: Final[dict[str, Any]] = {
    "deadline": None,
    "database": None,
    "print_blob": True,
    "suppress_health_check": list(HealthCheck),
}
_PHASES: Final = (Phase.explicit, Phase.generate)
_ROUND: Final = 200
"""Inputs that follow from one number, in a soak."""


class Effort:
    """Makes inputs: a number of them, always the same, or new ones for a number of minutes."""

    def __init__(self, minutes: float, number: int) -> None:
        self._minutes = minutes
        self._numbers = random.Random(number)

    def fuzz(self, test: Callable[[], None], inputs: int) -> None:
        """Call a function that ``given`` has made, with ``inputs`` of them unless it is a soak."""
        if self._minutes:
            numbered = _new()(test)  # once: a function takes settings one time only
            self._rounds(lambda: seed(self._next())(numbered)())
        else:
            _same(inputs)(test)()

    def walk(self, machine: type[RuleBasedStateMachine], walks: int, steps: int) -> None:
        """Run a state machine, ``walks`` times unless it is a soak."""
        if self._minutes:
            numbered = settings(_new(), stateful_step_count=steps)
            self._rounds(
                lambda: run_state_machine_as_test(seed(self._next())(machine), settings=numbered)
            )
        else:
            same = settings(_same(walks), stateful_step_count=steps)
            run_state_machine_as_test(machine, settings=same)

    def _next(self) -> int:
        number = self._numbers.randrange(2**32)
        print(f"inputs of {number}", flush=True)
        return number

    def _rounds(self, go: Callable[[], object]) -> None:
        began, rounds = time.monotonic(), 0
        while time.monotonic() < began + self._minutes * 60:
            go()
            rounds += 1
        print(f"{rounds * _ROUND} inputs in {time.monotonic() - began:.0f} s", flush=True)


def _same(inputs: int) -> settings:
    return settings(max_examples=inputs, derandomize=True, phases=_PHASES, **_COMMON)


def _new() -> settings:
    return settings(max_examples=_ROUND, **_COMMON)

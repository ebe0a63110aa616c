"""How much is fuzzed: little with every run of the tests, for long in a soak."""

import pytest

from tests.fuzz.effort import Effort

FUZZED = 4
"""Tests that share the time of a soak."""


@pytest.fixture(params=["few", pytest.param("many", marks=pytest.mark.soak)])
def effort(request: pytest.FixtureRequest) -> Effort:
    """How many inputs are made."""
    if request.param == "few":
        return Effort(0, 0)
    minutes, seed = (request.getfixturevalue(name) for name in ("soak_minutes", "soak_seed"))
    return Effort(minutes / FUZZED, seed)

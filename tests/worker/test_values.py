"""What an objective may return, and what is said of all else."""

import math
from typing import Any

import numpy as np
import pytest

from trialfleet.worker.values import check_values


@pytest.mark.parametrize(
    ("returned", "objectives", "values"),
    [
        (0.5, 1, [0.5]),
        (3, 1, [3.0]),
        (True, 1, [1.0]),
        ([0.5], 1, [0.5]),
        ((0.5, -1), 2, [0.5, -1.0]),
        (np.float32(0.5), 1, [0.5]),
        (np.array(0.5), 1, [0.5]),
        (math.inf, 1, [math.inf]),
        ((-math.inf, 0), 2, [-math.inf, 0.0]),
    ],
)
def test_values(returned: Any, objectives: int, values: list[float]) -> None:
    assert check_values(returned, objectives) == values


class _Unspeakable:
    def __float__(self) -> float:
        raise RuntimeError("no float")

    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("returned", "objectives", "sentence"),
    [
        (None, 1, "the objective returned None; expected a number"),
        (None, 2, "the objective returned None; expected 2 numbers"),
        ("0.5", 1, "the objective returned '0.5' (str); expected a number"),
        ("12", 2, "the objective returned '12' (str); expected 2 numbers"),
        (b"1", 1, "the objective returned b'1' (bytes); expected a number"),
        (math.nan, 1, "the objective returned NaN; expected a number"),
        ((1, math.nan), 2, "the objective returned NaN as value 2 of 2; expected a number"),
        (("a", 1), 2, "the objective returned 'a' (str) as value 1 of 2; expected a number"),
        ([None], 1, "the objective returned None; expected a number"),
        (0.5, 2, "the objective returned 1 value; expected 2 numbers"),
        ((1, 2), 1, "the objective returned 2 values; expected a number"),
        ((), 1, "the objective returned 0 values; expected a number"),
        ((1, 2, 3), 2, "the objective returned 3 values; expected 2 numbers"),
        ({"a": 1}, 1, "the objective returned {'a': 1} (dict); expected a number"),
        (1j, 1, "the objective returned 1j (complex); expected a number"),
        (10**400, 1, f"the objective returned 1{56 * '0'}... (int); expected a number"),
        (
            np.array([1.0, 2.0]),
            1,
            "the objective returned array([1., 2.]) (ndarray); expected a number",
        ),
        (
            _Unspeakable(),
            1,
            "the objective returned an object of type _Unspeakable; expected a number",
        ),
    ],
)
def test_what_is_no_value(returned: Any, objectives: int, sentence: str) -> None:
    assert check_values(returned, objectives) == sentence

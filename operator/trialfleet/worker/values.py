"""What an objective may return, and the sentence for what it may not."""

import math
from collections.abc import Sequence

_REPR_CHARACTERS = 60


def check_values(returned: object, objectives: int) -> list[float] | str:
    """Return an objective's values as floats, or a sentence for people that says what is wrong.

    Accepts what Optuna accepts, one number or a sequence of them, whatever ``float()`` takes;
    refuses NaN as Optuna does and, other than Optuna, text: ``"12"`` is not ``[1.0, 2.0]``.
    """
    if _is_sequence(returned):
        found: Sequence[object] = returned  # type: ignore[assignment]
    elif returned is None or (objectives > 1 and _number(returned) is None):
        return f"the objective returned {_shown(returned)}; expected {_expected(objectives)}"
    else:
        found = [returned]
    if len(found) != objectives:
        count = "1 value" if len(found) == 1 else f"{len(found)} values"
        return f"the objective returned {count}; expected {_expected(objectives)}"
    values: list[float] = []
    for position, item in enumerate(found, 1):
        number = _number(item)
        if number is None or math.isnan(number):
            place = f" as value {position} of {objectives}" if objectives > 1 else ""
            return f"the objective returned {_shown(item)}{place}; expected a number"
        values.append(number)
    return values


def _is_sequence(returned: object) -> bool:
    return isinstance(returned, Sequence) and not isinstance(returned, str | bytes | bytearray)


def _number(item: object) -> float | None:
    if isinstance(item, str | bytes | bytearray):
        return None
    try:
        return float(item)  # type: ignore[arg-type]
    except Exception:  # a foreign type's __float__ raises whatever it likes
        return None


def _expected(objectives: int) -> str:
    return "a number" if objectives == 1 else f"{objectives} numbers"


def _shown(item: object) -> str:
    if item is None:
        return "None"
    if isinstance(item, float) and math.isnan(item):
        return "NaN"
    kind = type(item).__name__
    try:
        text = " ".join(repr(item).split())
    except Exception:  # a foreign type's __repr__ raises whatever it likes
        return f"an object of type {kind}"
    if len(text) > _REPR_CHARACTERS:
        text = text[: _REPR_CHARACTERS - 3] + "..."
    return f"{text} ({kind})"

"""Reports from inside of a program that is an objective, without Optuna or a connection."""

import json
import os
import select
import warnings
from collections.abc import Mapping
from typing import Final, SupportsFloat, SupportsIndex

from trialfleet import names

_ATOMIC_BYTES: Final = select.PIPE_BUF
"""What is written to a pipe at once stays together if it is no longer."""

_NO_TRIAL: Final = (
    f"{names.ENV_REPORT} is not set: this program was not started for a trial, so nothing is "
    "recorded"
)


class NoTrial(Exception):
    """This program was not started for a trial of a study."""


def report(
    values: Mapping[str, SupportsFloat] | None = None,
    /,
    *,
    step: SupportsIndex | None = None,
    **named: SupportsFloat,
) -> None:
    """Report values of the trial for which this program was started.

    A value with a step is an intermediate value, of a study with one objective: where the pruner
    gives the trial up, the program gets SIGTERM. The last value reported of each objective is the
    trial's. Values that are no objective's are left out. A program that was not started for a trial
    is warned, and goes on.

    Args:
        values: By the name of an objective, where it can't be an argument's.
        step: A whole number from 0 to 2147483647; the first value of a step counts.
        named: As ``values``.

    Raises:
        ValueError: None of the names is an objective's, or a value or the step is no number.
        OSError: The worker that runs the program has gone.
    """
    try:
        send({**(values or {}), **named}, step)
    except NoTrial as error:
        warnings.warn(str(error), stacklevel=2)


def send(values: Mapping[str, object], step: object = None) -> None:
    """Hand values over to the worker that runs this program; see :func:`report`.

    Raises ``NoTrial`` besides.
    """
    told: dict[str, float | int] = {name: _number(name, value) for name, value in values.items()}
    if step is not None:
        told[names.REPORT_STEP] = _step(step)
    place, listed = os.environ.get(names.ENV_REPORT), os.environ.get(names.ENV_OBJECTIVES)
    if place is None or listed is None:
        raise NoTrial(_NO_TRIAL)
    objectives = json.loads(listed)
    if not any(name in values for name in objectives):
        shown = ", ".join(map(repr, values)) or "no value"
        raise ValueError(f"found {shown}, accepted: {', '.join(map(repr, objectives))}")
    kept = {name: told[name] for name in (*objectives, names.REPORT_STEP) if name in told}
    line = json.dumps(kept).encode() + b"\n"
    if len(line) > _ATOMIC_BYTES:
        raise ValueError(f"found {len(line)} bytes of values, accepted: at most {_ATOMIC_BYTES}")
    # Without waiting for a reader there may be none of; but a full pipe is waited for.
    pipe = os.open(place, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.set_blocking(pipe, True)
        os.write(pipe, line)
    finally:
        os.close(pipe)


def _number(name: str, value: object) -> float:
    # A scalar of NumPy or PyTorch is a number by this protocol only; so is no text.
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        raise ValueError(f"{name}: found {value!r}, accepted: a number")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError(f"{name}: found {value!r}, accepted: a number") from None


def _step(step: object) -> int:
    if not isinstance(step, bool) and isinstance(step, SupportsIndex):
        number = step.__index__()
        if 0 <= number <= names.LARGEST_STEP:
            return number
    accepted = f"accepted: a whole number from 0 to {names.LARGEST_STEP}"
    raise ValueError(f"step: found {step!r}, {accepted}")

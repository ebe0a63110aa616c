"""``trialfleet report``: values of a trial, from inside of its program."""

from typing import Annotated

import typer

from trialfleet import names
from trialfleet.model.errors import InvalidInput
from trialfleet.worker import reporting


def report(
    values: Annotated[
        list[str],
        typer.Argument(metavar="NAME=NUMBER...", help="Values, by the name of an objective."),
    ],
    step: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, max=names.LARGEST_STEP, help="The step that the values are of."
        ),
    ] = None,
) -> None:
    """Report values of the trial for which this program runs; the pruner hears those of steps."""
    try:
        reporting.send(dict(_parsed(value) for value in values), step)
    except (ValueError, reporting.NoTrial) as error:
        raise InvalidInput(str(error)) from error
    except OSError as error:
        raise InvalidInput(f"the worker of this program has gone: {error.strerror}") from error


def _parsed(text: str) -> tuple[str, float]:
    name, equals, number = text.rpartition("=")
    try:
        return name if equals else number, float(number)
    except ValueError:
        raise InvalidInput(f"found {text!r}, accepted: NAME=NUMBER, such as loss=0.3") from None

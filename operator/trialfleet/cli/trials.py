"""``trialfleet trials``: all trials of a study."""

import enum
from typing import Annotated

import typer
from optuna.trial import TrialState

from trialfleet.cli.credential_options import CaFileOption, TokenFileOption
from trialfleet.cli.sources import (
    ContextOption,
    DataOption,
    NamespaceOption,
    ProxyOption,
    StorageOption,
    StudyArgument,
    Where,
)
from trialfleet.cli.trial_output import OutputFormat, metric_names, standard_output, write_trials
from trialfleet.cli.trial_slices import open_slices


class State(enum.StrEnum):
    """A trial's state, as an option."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAIL = "fail"
    RUNNING = "running"
    WAITING = "waiting"


def trials(
    study: StudyArgument = None,
    data: DataOption = None,
    storage: StorageOption = None,
    proxy: ProxyOption = None,
    token_file: TokenFileOption = None,
    ca_file: CaFileOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    output: Annotated[
        OutputFormat, typer.Option(help="How the trials are written.")
    ] = OutputFormat.TABLE,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the last so many trials.")] = None,
    state: Annotated[
        list[State] | None, typer.Option(help="Only trials in this state; may be repeated.")
    ] = None,
) -> None:
    """List a study's trials with values, parameters and attributes, ordered by number."""
    states = [TrialState[name.name] for name in state] if state else None
    where = Where(data, storage, proxy, token_file, ca_file, namespace, context)
    with where.open_study(study) as found, open_slices(found) as slices:
        write_trials(
            standard_output(),
            slices.read(states, limit),
            slices.keys,
            metric_names(found),
            output,
        )

"""``trialfleet best``: a study's best trials."""

from typing import Annotated

import typer

from trialfleet.cli.credentials import CaFileOption, TokenFileOption
from trialfleet.cli.sources import (
    DEFAULT_FOLDER,
    DataOption,
    ProxyOption,
    StorageOption,
    StudyArgument,
    open_source,
    open_study,
)
from trialfleet.cli.trial_output import (
    Output,
    best_trials,
    metric_names,
    standard_output,
    write_trials,
)


def best(
    study: StudyArgument = None,
    data: DataOption = DEFAULT_FOLDER,
    storage: StorageOption = None,
    proxy: ProxyOption = None,
    token_file: TokenFileOption = None,
    ca_file: CaFileOption = None,
    output: Annotated[Output, typer.Option(help="How the trials are written.")] = Output.TABLE,
    limit: Annotated[int, typer.Option(min=1, help="So many trials at most.")] = 5,
) -> None:
    """Show a study's best trials; with several objectives, those on the Pareto front."""
    with open_source(data, storage, proxy, token_file, ca_file) as source:
        found = open_study(source, study)
        write_trials(standard_output(), best_trials(found, limit), metric_names(found), output)

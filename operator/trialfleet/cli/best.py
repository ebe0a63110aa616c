"""``trialfleet best``: a study's best trials."""

from typing import Annotated

import typer

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
from trialfleet.cli.trial_output import (
    OutputFormat,
    best_trials,
    metric_names,
    standard_output,
    write_trials,
)
from trialfleet.cli.trial_slices import keys_of


def best(
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
    limit: Annotated[int, typer.Option(min=1, help="So many trials at most.")] = 5,
) -> None:
    """Show a study's best trials; with several objectives, those on the Pareto front."""
    where = Where(data, storage, proxy, token_file, ca_file, namespace, context)
    with where.open_study(study) as found:
        listed = best_trials(found, limit)
        write_trials(standard_output(), [listed], keys_of(listed), metric_names(found), output)

"""``trialfleet plot``: a picture of a study."""

import re
from pathlib import Path
from typing import Annotated

import typer

from trialfleet.cli.credential_options import CaFileOption, TokenFileOption
from trialfleet.cli.drawing import PlotKind, check_plot, default_kind, save_plot
from trialfleet.cli.sources import (
    ContextOption,
    DataOption,
    NamespaceOption,
    ProxyOption,
    StorageOption,
    StudyArgument,
    Where,
)
from trialfleet.cli.trial_output import metric_names


def plot(
    study: StudyArgument = None,
    kind: Annotated[
        PlotKind | None,
        typer.Option(
            help="What is drawn; else the history, or the Pareto front of two or three objectives."
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="FILE",
            help="The picture: .png, .svg or .pdf by matplotlib, .html by plotly; else "
            "STUDY-KIND.png.",
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this parameter; may be repeated."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="This one of several objectives.")
    ] = None,
    data: DataOption = None,
    storage: StorageOption = None,
    proxy: ProxyOption = None,
    token_file: TokenFileOption = None,
    ca_file: CaFileOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Draw a study with Optuna's own functions, and write the picture to a file."""
    check_plot(to or Path("study.png"), "--to", kind)
    where = Where(data, storage, proxy, token_file, ca_file, namespace, context)
    with where.open_study(study) as found:
        metrics = metric_names(found)
        drawn = kind or default_kind(metrics)
        # Of a study of Optuna's own the name may have any characters.
        file = to or Path(re.sub(r"[^\w.-]", "-", f"{found.study_name}-{drawn}.png"))
        save_plot(found, metrics, file, kind=drawn, metric=metric, params=param)
    print(file)

"""``trialfleet logs``: what a study's pods write."""

import contextlib
from typing import Annotated

import typer

from trialfleet.cli.sources import ContextOption, NamespaceOption, StudyArgument, open_cluster
from trialfleet.model import errors


def logs(
    study: StudyArgument = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the study has ended.")
    ] = False,
    tail: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Only the last N lines of each pod.")
    ] = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Write what a study's workers on a cluster have printed, each line with its pod."""
    from trialfleet.cluster import connect
    from trialfleet.cluster import pod_logs as reading

    with open_cluster(namespace, context) as cluster:
        name = connect.find_study(cluster, study)["metadata"]["name"]
        read = reading.follow if follow else reading.read
        some = False
        try:
            with contextlib.closing(read(cluster, name, tail)) as lines:
                for line in lines:
                    some = True
                    print(f"{line.pod} | {line.text}", flush=follow)
        except KeyboardInterrupt:
            raise typer.Exit(errors.EXIT_INTERRUPTED) from None
        if not some:
            raise errors.NotFound(
                f"{name}: no pod of it is left that has written anything; its trials: trialfleet "
                f"trials {name}, what is in its way: trialfleet why {name}"
            )

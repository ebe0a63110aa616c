"""``trialfleet scale``: more or fewer workers."""

from typing import Annotated

import typer

from trialfleet.cli.sources import ContextOption, NamedStudyArgument, NamespaceOption, open_cluster


def scale(
    study: NamedStudyArgument,
    workers: Annotated[int, typer.Argument(metavar="N", min=0, help="Workers at once.")],
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Give a study on a cluster so many workers; who leaves finishes or hands back its trial."""
    from trialfleet.cluster import connect, steer

    with open_cluster(namespace, context) as cluster:
        before = connect.find_study(cluster, study)["spec"].get("parallelism", 1)
        steer.scale(cluster, study, workers)
    print(f"{study}: {workers} workers wanted, {before} before")

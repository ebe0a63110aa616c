"""``trialfleet suspend``: let a study's workers leave."""

from trialfleet.cli.sources import (
    ContextOption,
    NamedStudyArgument,
    NamespaceOption,
    open_cluster,
)


def suspend(
    study: NamedStudyArgument, namespace: NamespaceOption = None, context: ContextOption = None
) -> None:
    """Let the workers of a study on a cluster leave: trials are finished or handed back."""
    from trialfleet.cluster import connect, steer

    with open_cluster(namespace, context) as cluster:
        connect.find_study(cluster, study)
        steer.suspend(cluster, study, suspended=True)
    print(f"{study}: suspended; go on: trialfleet resume {study}")

"""``trialfleet resume``: let a suspended study go on."""

from trialfleet.cli.sources import (
    ContextOption,
    NamedStudyArgument,
    NamespaceOption,
    open_cluster,
)


def resume(
    study: NamedStudyArgument, namespace: NamespaceOption = None, context: ContextOption = None
) -> None:
    """Start the workers of a suspended study on a cluster again; a failed one tries once more."""
    from trialfleet.cluster import connect, steer

    with open_cluster(namespace, context) as cluster:
        connect.find_study(cluster, study)
        steer.suspend(cluster, study, suspended=False)
    print(f"{study}: goes on; how far it is: trialfleet watch {study}")

"""``trialfleet stop``: end a study early."""

from trialfleet.cli.sources import (
    ContextOption,
    NamedStudyArgument,
    NamespaceOption,
    open_cluster,
)


def stop(
    study: NamedStudyArgument, namespace: NamespaceOption = None, context: ContextOption = None
) -> None:
    """End a study on a cluster: no new trial is made, and those that run or wait are finished.

    A change of its budget lets it go on.
    """
    from trialfleet.cluster import connect

    with open_cluster(namespace, context) as cluster:
        found = connect.find_study(cluster, study)
        with connect.open_trials(cluster, found) as storage:
            storage.stop_study(storage.get_study_id_from_name(study))
    print(f"{study}: no new trial is made; the result: trialfleet best {study}")

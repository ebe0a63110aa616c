"""``trialfleet logs``: what a study's workers write."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trialfleet.cli.sources import (
    DEFAULT_FOLDER,
    ContextOption,
    DataOption,
    NamespaceOption,
    StudyArgument,
    Where,
)
from trialfleet.model import errors

if TYPE_CHECKING:
    from trialfleet.cluster.namespace import Namespace


def logs(
    study: StudyArgument = None,
    trial: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Only what was written while trial N ran."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the study has ended.")
    ] = False,
    tail: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Only the last N lines of each worker.")
    ] = None,
    data: DataOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Write what a study's workers have printed, each line with its pod or its worker."""
    if trial is not None and (follow or tail is not None):
        other = "--follow" if follow else "--tail"
        raise errors.InvalidInput(f"{other}: found beside --trial, accepted: one of the two")
    with Where(data=data, namespace=namespace, context=context).open_namespace() as cluster:
        if cluster is None:
            if follow:
                raise errors.InvalidInput(
                    "--follow: found beside a folder, accepted beside a cluster; 'trialfleet run' "
                    "shows what its workers print"
                )
            _write_local(data or DEFAULT_FOLDER, study, trial, tail)
        elif trial is not None:
            _write_trial(cluster, study, trial)
        else:
            _write_pods(cluster, study, follow, tail)


def _write_local(data: Path, study: str | None, trial: int | None, tail: int | None) -> None:
    from trialfleet.local import worker_logs

    name = worker_logs.find_logs(data, study)
    if trial is None:
        _write(worker_logs.read(data, name, tail))
        return
    lines = worker_logs.read_trial(data, name, trial)
    if lines is None:
        raise errors.NotFound(
            f"{name}: no worker has written that it ran trial {trial}; the trials: trialfleet "
            f"trials {name}"
        )
    _write(lines)


def _write_trial(cluster: "Namespace", study: str | None, number: int) -> None:
    from trialfleet.cluster import connect
    from trialfleet.cluster.pod_logs import open_trial

    found = connect.find_study(cluster, study)
    name = found["metadata"]["name"]
    with connect.open_trials(cluster, found) as storage:
        try:
            study_id = storage.get_study_id_from_name(name)
            trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        except KeyError:
            raise errors.InvalidInput(
                f"--trial: found {number}, accepted: a number that 'trialfleet trials {name}' shows"
            ) from None
        started = storage.get_trial(trial_id).datetime_start
    if started is None:
        raise errors.NotFound(f"{name}: trial {number} waits, no worker has begun it")
    with open_trial(cluster, name, number, started) as lines:
        if lines is None:
            raise errors.NotFound(
                f"{name}: the pod that ran trial {number} is gone, or has dropped so old lines; "
                f"the trial's values and error: trialfleet trials {name}"
            )
        _write(lines)


def _write_pods(cluster: "Namespace", study: str | None, follow: bool, tail: int | None) -> None:
    from trialfleet.cluster import connect
    from trialfleet.cluster import pod_logs as reading

    name = connect.find_study(cluster, study)["metadata"]["name"]
    read = reading.follow if follow else reading.read
    try:
        with contextlib.closing(read(cluster, name, tail)) as lines:
            some = _write(lines, flush=follow)
    except KeyboardInterrupt:
        raise typer.Exit(errors.EXIT_INTERRUPTED) from None
    if not some:
        raise errors.NotFound(
            f"{name}: no pod of it is left that has written anything; its trials: trialfleet "
            f"trials {name}, what is in its way: trialfleet why {name}"
        )


def _write(lines: Iterable[tuple[str, str]], *, flush: bool = False) -> bool:
    """Write lines, each with who wrote it; return whether there were any."""
    some = False
    for writer, text in lines:
        some = True
        print(f"{writer} | {text}", flush=flush)
    return some

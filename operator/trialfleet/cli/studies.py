"""``trialfleet studies``: what a storage holds."""

import csv
from typing import TYPE_CHECKING, Annotated, Any

import optuna
import typer
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from rich.table import Table

from trialfleet.cli.credential_options import CaFileOption, TokenFileOption
from trialfleet.cli.sources import (
    ContextOption,
    DataOption,
    NamespaceOption,
    ProxyOption,
    StorageOption,
    Where,
    count_trials,
    open_study,
)
from trialfleet.cli.trial_output import (
    OutputFormat,
    cell,
    metric_names,
    standard_output,
    write_json,
)
from trialfleet.model.errors import InvalidInput

if TYPE_CHECKING:
    from trialfleet.cluster.namespace import Namespace

_STATES = tuple(state.name.lower() for state in TrialState)


def studies(
    data: DataOption = None,
    storage: StorageOption = None,
    proxy: ProxyOption = None,
    token_file: TokenFileOption = None,
    ca_file: CaFileOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    output: Annotated[
        OutputFormat, typer.Option(help="How the studies are written.")
    ] = OutputFormat.TABLE,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the last so many studies.")] = None,
    delete: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Delete a study with its trials, instead of listing."),
    ] = None,
) -> None:
    """List the studies of a storage or of a cluster's namespace, the oldest first."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    where = Where(data, storage, proxy, token_file, ca_file, namespace, context)
    with where.open_namespace() as cluster:
        if cluster is not None:
            rows = _rows_of(cluster, delete)
        else:
            with where.open_storage() as source:
                if delete is not None:
                    source.delete_study(open_study(source, delete)._study_id)
                    return
                found = [study.study_name for study in source.get_all_studies()]
                rows = [
                    _row(optuna.load_study(study_name=name, storage=source), source)
                    for name in found
                ]
    rows = rows if limit is None else rows[-limit:]
    console = standard_output()
    if output is OutputFormat.JSON:
        write_json(console.file, rows)
    elif output is OutputFormat.CSV:
        writer = csv.writer(console.file, lineterminator="\n")
        writer.writerow(["name", "objectives", *_STATES])
        writer.writerows([[r["name"], _objectives(r), *r["trials"].values()] for r in rows])
    else:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("study", "objectives"):
            table.add_column(column)
        for column in _STATES:
            table.add_column(column, justify="right")
        for row in rows:
            cells = [row["name"], _objectives(row), *map(str, row["trials"].values())]
            table.add_row(*map(cell, cells))
        console.print(table)


def _rows_of(namespace: "Namespace", delete: str | None) -> list[dict[str, Any]]:
    """Return the rows of a namespace's studies, as the operator tells of them."""
    from trialfleet.cluster.namespace import STUDIES

    if delete is not None:
        raise InvalidInput(
            f"--delete: found beside a cluster, accepted: kubectl delete study {delete} "
            f"-n {namespace.name}; what is left of it in a shared storage: --delete with --proxy "
            "and an administrator's token (docs/security.md)"
        )
    found = namespace.list(STUDIES)
    found.sort(key=lambda study: str(study["metadata"].get("creationTimestamp")))
    rows = []
    for study in found:
        told = study.get("status", {}).get("trials", {})
        # A lost trial is a failed one to Optuna.
        counts = {**told, "fail": told.get("failed", 0) + told.get("lost", 0)}
        objectives = study["spec"]["objectives"]
        rows.append(
            {
                "name": study["metadata"]["name"],
                "objectives": {one["name"]: one["direction"] for one in objectives},
                "trials": {state: counts.get(state, 0) for state in _STATES},
            }
        )
    return rows


def _row(study: optuna.Study, source: BaseStorage) -> dict[str, Any]:
    directions = [direction.name.lower() for direction in study.directions]
    counts = count_trials(source, study._study_id)
    return {
        "name": study.study_name,
        "objectives": dict(zip(metric_names(study), directions, strict=True)),
        "trials": {state.name.lower(): counts[state] for state in TrialState},
    }


def _objectives(row: dict[str, Any]) -> str:
    return ", ".join(f"{direction} {name}" for name, direction in row["objectives"].items())

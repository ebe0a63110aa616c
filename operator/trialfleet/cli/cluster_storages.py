"""``trialfleet storage list`` and ``wake``: the storages of a cluster, and what is left of some."""

import asyncio
import contextlib
import datetime
import enum
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from kubernetes.aio import config
from rich.table import Table

from trialfleet import names
from trialfleet.cli.trial_output import standard_output, write_json
from trialfleet.controller.observe import finished_trials, storage_name
from trialfleet.kube.cluster import Cluster, ClusterError
from trialfleet.kube.kinds import CLAIM, STORAGE, STUDY
from trialfleet.model.errors import InvalidInput, StorageUnavailable

WAKE_S: Final = 180.0
"""For PostgreSQL and the proxies to start."""

_LOOK_S: Final = 1.0
_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

_COLUMNS: Final = ("storage", "phase", "studies", "trials", "volume", "size")


class Output(enum.StrEnum):
    """How the storages are written."""

    TABLE = "table"
    JSON = "json"


NamespaceOption = Annotated[
    str,
    typer.Option("--namespace", "-n", metavar="NAME", help="Absent: the kubeconfig's."),
]


def list_storages(
    namespace: NamespaceOption = "",
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="List those of all namespaces.")
    ] = False,
    output: Annotated[Output, typer.Option(help="How the storages are written.")] = Output.TABLE,
) -> None:
    """List the storages of a cluster, and the volumes of those that are deleted.

    Logs in by the kubeconfig, or as a pod's service account.
    """
    place = "" if all_namespaces else namespace or _own_namespace()
    with _told():
        rows = asyncio.run(_list(place))
    console = standard_output()
    if output is Output.JSON:
        write_json(console.file, rows)
        return
    columns = ("namespace", *_COLUMNS) if all_namespaces else _COLUMNS
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in ("studies", "trials") else "left")
    for row in rows:
        table.add_row(*("" if row[column] is None else str(row[column]) for column in columns))
    console.print(table)


def wake(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The StudyStorage to wake.")],
    namespace: NamespaceOption = "",
) -> None:
    """Wake a storage of a cluster that sleeps, and wait until it is ready.

    Logs in by the kubeconfig, or as a pod's service account.
    """
    place = namespace or _own_namespace()
    with _told():
        asyncio.run(_wake(place, name))


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except ClusterError as error:
        raise StorageUnavailable(f"the cluster: {error}") from error


async def _list(namespace: str) -> list[dict[str, Any]]:
    async with Cluster() as cluster:
        storages = await cluster.list(STORAGE, namespace, "")
        studies = await cluster.list(STUDY, namespace, "")
        label = f"{names.LABEL_COMPONENT}={names.COMPONENT_POSTGRES}"
        claims = await cluster.list(CLAIM, namespace, label)
    volumes = {
        (one["metadata"]["namespace"], one["metadata"]["labels"].get(names.LABEL_STORAGE, "")): one
        for one in claims
    }
    trials: Counter[tuple[str, str]] = Counter()
    for one in studies:
        trials[one["metadata"]["namespace"], storage_name(one)] += finished_trials(one)
    rows = []
    for one in storages:
        metadata, status = one["metadata"], one.get("status", {})
        place = metadata["namespace"], metadata["name"]
        # What the storage's own status says was counted when something happened to it.
        known = max(status.get("database", {}).get("trials", 0), trials[place])
        row = _row(place, status.get("phase", ""), volumes.pop(place, None))
        rows.append({**row, "studies": status.get("studies"), "trials": known})
    rows += [_row(place, "Deleted", claim) for place, claim in volumes.items()]
    return sorted(rows, key=lambda row: (row["namespace"], row["storage"]))


def _row(place: tuple[str, str], phase: str, claim: dict[str, Any] | None) -> dict[str, Any]:
    requests = {} if claim is None else claim["spec"].get("resources", {}).get("requests", {})
    return {
        "namespace": place[0],
        "storage": place[1],
        "phase": phase,
        "studies": None,
        "trials": None,
        "volume": None if claim is None else claim["metadata"]["name"],
        "size": requests.get("storage"),
    }


async def _wake(namespace: str, name: str) -> None:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + WAKE_S
    async with Cluster() as cluster:
        found = await cluster.get(STORAGE, namespace, name)
        if found is None:
            raise InvalidInput(f"NAME: found no StudyStorage {name!r} in {namespace!r}")
        found = await cluster.annotate(STORAGE, namespace, name, {names.ANNOTATION_WAKE: now})
        while (found or {}).get("status", {}).get("phase") != "Ready":
            if loop.time() > deadline:
                message = (found or {}).get("status", {}).get("message", "")
                raise StorageUnavailable(f"{name}: not ready within {WAKE_S:.0f} s: {message}")
            await asyncio.sleep(_LOOK_S)
            found = await cluster.get(STORAGE, namespace, name)


def _own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text().strip()
    except OSError:
        pass
    try:
        _, active = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
    except config.ConfigException as error:
        raise InvalidInput(f"the cluster: {error}") from error
    return str(active["context"].get("namespace", "default"))

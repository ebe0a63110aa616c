"""Where a command reads studies from: a folder of local data, a database, a proxy, or a cluster."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import optuna
import sqlalchemy as sa
import typer
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState

from trialfleet import names
from trialfleet.model import database_url, errors

if TYPE_CHECKING:
    from trialfleet.cluster.namespace import Namespace

DEFAULT_FOLDER: Final = Path(".trialfleet")


def read_url(given: str | None) -> str | None:
    """Return the URL of a database, which ``@FILE`` is read from.

    All users of a machine see the arguments of its processes: a password is no argument.
    """
    if given is None or not given.startswith("@"):
        return given
    path = Path(given[1:])
    try:
        return path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise errors.InvalidInput(f"--storage {given}: found bytes that are no UTF-8") from None
    except OSError as error:
        raise errors.InvalidInput(f"--storage {given}: {error.strerror}") from error


DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help=f"Folder of the data that 'trialfleet run' keeps; {DEFAULT_FOLDER} if there is one.",
    ),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        envvar=names.ENV_STORAGE_URL,
        callback=read_url,
        help="A PostgreSQL database instead: postgresql+psycopg2://USER:PASSWORD@HOST/NAME, or "
        "@FILE with such a URL.",
    ),
]
ProxyOption = Annotated[
    str | None,
    typer.Option("--proxy", metavar="HOST:PORT", help="A running proxy instead."),
]


def complete_study(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of studies that begin so, of where the options before say; for a shell."""
    fields = {field.name for field in dataclasses.fields(Where)}
    given = {name: value for name, value in ctx.params.items() if name in fields and value}
    for name in ("data", "token_file", "ca_file"):
        if name in given:
            given[name] = Path(given[name])
    # Whatever is wrong with it is told when the command is run.
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stderr(nowhere),
        contextlib.suppress(errors.TrialfleetError, OSError),
    ):
        return [
            name for name in sorted(Where(**given).study_names()) if name.startswith(incomplete)
        ]
    return []


NamedStudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="The study.", autocompletion=complete_study)
]
NamespaceOption = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        metavar="NAME",
        help="A namespace of a cluster; else the context's own.",
    ),
]
ContextOption = Annotated[
    str | None,
    typer.Option(
        "--context", metavar="NAME", help="A context of the kubeconfig; else its current one."
    ),
]
StudyArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[STUDY]",
        help="The study; needed where there are several.",
        autocompletion=complete_study,
    ),
]

PROXY_PATIENCE_S: Final = 10.0

CONNECT_S: Final = 10
"""For a database to accept a connection."""


@dataclass(frozen=True)
class Where:
    """What the options of a command say of where to look."""

    data: Path | None = None
    storage: str | None = None
    proxy: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    namespace: str | None = None
    context: str | None = None

    @contextlib.contextmanager
    def open_namespace(self) -> Iterator["Namespace | None"]:
        """Give the namespace of a cluster, or None if studies are elsewhere.

        A proxy, a database, a folder that is named, or a namespace or context that is named;
        else a folder of data in the current folder, else what the kubeconfig names. What was not
        named is told, in one line on standard error.

        Raises ``InvalidInput`` if two are named, or there is nothing.
        """
        options: dict[str, object] = {"--proxy": self.proxy, "--data": self.data}
        local = [option for option, value in options.items() if value is not None]
        options = {"--namespace": self.namespace, "--context": self.context}
        cluster = [option for option, value in options.items() if value is not None]
        if cluster and local:
            raise errors.InvalidInput(
                f"{cluster[0]}: found beside {local[0]}, accepted: one of the two"
            )
        if not cluster and (local or self.storage is not None):
            yield None
            return
        if not cluster and not _is_plugin() and _has_data(DEFAULT_FOLDER):
            print(f"looking at {DEFAULT_FOLDER} (a cluster instead: --namespace)", file=sys.stderr)
            yield None
            return
        if not cluster and not _has_kubeconfig():
            raise _nothing(DEFAULT_FOLDER)
        with open_cluster(self.namespace, self.context) as namespace:
            yield namespace

    def study_names(self) -> list[str]:
        """Return the names of the studies there are. Raises as :meth:`open_study`."""
        with self.open_namespace() as namespace:
            if namespace is None:
                with self.open_storage() as storage:
                    return [study.study_name for study in storage.get_all_studies()]
            from trialfleet.cluster.namespace import STUDIES

            return [study["metadata"]["name"] for study in namespace.list(STUDIES)]

    @contextlib.contextmanager
    def open_study(self, name: str | None) -> Iterator[optuna.Study]:
        """Give the study of a name, or the only one there is.

        Raises as :meth:`open_namespace` and :meth:`open_storage`, and ``InvalidInput`` if there is
        no such study, or several and no name.
        """
        with self.open_namespace() as namespace:
            if namespace is None:
                with self.open_storage() as storage:
                    yield open_study(storage, name)
                return
            from trialfleet.cluster import connect

            found = connect.find_study(namespace, name)
            with connect.open_trials(namespace, found) as storage:
                yield open_study(storage, found["metadata"]["name"])

    @contextlib.contextmanager
    def open_storage(self) -> Iterator[BaseStorage]:
        """Open what is named, but for a cluster: a proxy, a database, or a folder.

        A folder's PostgreSQL server is used if it runs, else started for as long as it is read.

        Raises ``InvalidInput`` if there is nothing to read, ``StorageUnavailable`` if it can't be
        reached, and ``SchemaMismatch`` if another version of Optuna made it.
        """
        if self.proxy is not None:
            from trialfleet.client import FleetStorage

            if not self.proxy.isascii():
                raise errors.InvalidInput(f"--proxy: found {self.proxy!r}, accepted: HOST:PORT")
            client = FleetStorage(
                self.proxy,
                patience_s=PROXY_PATIENCE_S,
                token_file=self.token_file,
                ca_file=self.ca_file,
            )
            try:
                yield client
            finally:
                client.close()
            return
        with contextlib.ExitStack() as stack:
            url = self.storage
            if url is None:
                from trialfleet.local.postgres import Postgres

                folder = self.data or DEFAULT_FOLDER
                if not _has_data(folder):
                    raise _nothing(folder)
                url = stack.enter_context(Postgres(folder)).url
            opened = open_database(url)
            stack.callback(opened.engine.dispose)
            stack.callback(opened.remove_session)
            yield opened


def _is_plugin() -> bool:
    """Whether this is ``kubectl trialfleet``: it looks at clusters, whatever folder it is in."""
    return Path(sys.argv[0]).name.startswith("kubectl-")


def _has_data(folder: Path) -> bool:
    from trialfleet.local.postgres import has_data

    return has_data(folder)


def _has_kubeconfig() -> bool:
    from trialfleet.cluster.namespace import has_kubeconfig

    return has_kubeconfig()


@contextlib.contextmanager
def open_cluster(namespace: str | None, context: str | None) -> Iterator["Namespace"]:
    """Give a namespace of a cluster, and tell which, in one line on standard error.

    Raises ``InvalidInput`` if there is no kubeconfig, or no such context in it.
    """
    from trialfleet.cluster.namespace import Namespace

    with Namespace.open(namespace, context) as opened:
        print(f"looking at {opened}", file=sys.stderr)
        yield opened


def _nothing(folder: Path) -> errors.InvalidInput:
    return errors.InvalidInput(
        f"--data {folder}: no data of 'trialfleet run', accepted: a folder that it made; or name a "
        "database with --storage, a proxy with --proxy, or a cluster by KUBECONFIG or --context"
    )


def open_database(url: str) -> RDBStorage:
    """Open a database to read from; nothing is written to it.

    Raises as ``Where.open_storage``.
    """
    shown = hide_password(url)
    address = database_url.parse(url, "--storage")
    options = {"connect_args": {"connect_timeout": CONNECT_S}}
    try:
        engine = sa.create_engine(address, poolclass=sa.NullPool, **options)
        # Optuna would write the error's trace to the log.
        has_studies = sa.inspect(engine).has_table("studies")
    except ImportError as error:
        raise errors.InvalidInput(f"--storage {shown}: {error}") from error
    except sa.exc.OperationalError as error:
        reason = " ".join(str(error.orig).split())
        raise errors.StorageUnavailable(f"--storage {shown}: {reason}") from error
    if not has_studies:
        raise errors.InvalidInput(f"--storage {shown}: no studies in this database")
    try:
        return RDBStorage(
            address.render_as_string(hide_password=False),
            skip_table_creation=True,
            engine_kwargs={"pool_size": 1, **options},
        )
    except RuntimeError as error:
        raise errors.SchemaMismatch(f"--storage {shown}: {error}") from error


def open_study(storage: BaseStorage, name: str | None) -> optuna.Study:
    """Return the study of a name, or the only one there is.

    Raises ``InvalidInput`` if there is none, or several and no name.
    """
    found = [study.study_name for study in storage.get_all_studies()]
    listed = ", ".join(sorted(found))
    if not found:
        raise errors.InvalidInput("STUDY: there is no study yet")
    if name is None and len(found) > 1:
        raise errors.InvalidInput(f"STUDY: missing, accepted: {listed}")
    wanted = name if name is not None else found[0]
    if wanted not in found:
        raise errors.InvalidInput(f"STUDY: found {wanted!r}, accepted: {listed}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name=wanted, storage=storage)


def count_trials(storage: BaseStorage, study_id: int) -> dict[TrialState, int]:
    """Return how many trials of a study are in each state, without reading them."""
    counts = dict.fromkeys(TrialState, 0)
    if isinstance(storage, RDBStorage):
        statement = sa.text(
            "SELECT state, count(*) FROM trials WHERE study_id = :id GROUP BY state"
        )
        with storage.engine.connect() as connection:
            for state, count in connection.execute(statement, {"id": study_id}):
                counts[TrialState[state]] = count
    else:
        for trial in storage.get_all_trials(study_id, deepcopy=False):
            counts[trial.state] += 1
    return counts


def hide_password(url: str) -> str:
    """Return a database's URL for people.

    Raises ``InvalidInput`` if it is none.
    """
    return database_url.parse(url, "--storage").render_as_string(hide_password=True)

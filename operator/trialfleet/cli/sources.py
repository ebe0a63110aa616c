"""Where a command reads studies from: a folder of local data, a database, or a proxy."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import optuna
import sqlalchemy as sa
import typer
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState

from trialfleet import names
from trialfleet.model import database_url, errors

DEFAULT_FOLDER: Final = Path(".trialfleet")

DataOption = Annotated[
    Path,
    typer.Option("--data", metavar="DIR", help="Folder of the data that 'trialfleet run' keeps."),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        envvar=names.ENV_STORAGE_URL,
        show_envvar=True,
        help="A PostgreSQL database instead: postgresql+psycopg2://USER:PASSWORD@HOST/NAME. All "
        "users of a machine see an option's password, so better by the environment variable.",
    ),
]
ProxyOption = Annotated[
    str | None,
    typer.Option("--proxy", metavar="HOST:PORT", help="A running proxy instead."),
]
StudyArgument = Annotated[
    str | None,
    typer.Argument(metavar="[STUDY]", help="The study; needed where there are several."),
]

PROXY_PATIENCE_S: Final = 10.0

CONNECT_S: Final = 10
"""For a database to accept a connection."""


@contextlib.contextmanager
def open_source(
    data: Path,
    storage: str | None,
    proxy: str | None,
    token_file: Path | None = None,
    ca_file: Path | None = None,
) -> Iterator[BaseStorage]:
    """Open what the options name: a proxy before a database before a folder.

    ``token_file`` and ``ca_file`` are for a proxy.

    A folder's PostgreSQL server is used if it runs, else started for as long as it is read.

    Raises ``InvalidInput`` if there is nothing to read, ``StorageUnavailable`` if it can't be
    reached, and ``SchemaMismatch`` if another version of Optuna made it.
    """
    if proxy is not None:
        from trialfleet.client import FleetStorage

        if not proxy.isascii():
            raise errors.InvalidInput(f"--proxy: found {proxy!r}, accepted: HOST:PORT")
        client = FleetStorage(
            proxy, patience_s=PROXY_PATIENCE_S, token_file=token_file, ca_file=ca_file
        )
        try:
            yield client
        finally:
            client.close()
        return
    with contextlib.ExitStack() as stack:
        if storage is None:
            from trialfleet.local.postgres import Postgres, has_data

            if not has_data(data):
                raise errors.InvalidInput(
                    f"--data {data}: no data of 'trialfleet run', accepted: a folder that it "
                    "made; or name a database with --storage, or a proxy with --proxy"
                )
            postgres = stack.enter_context(Postgres(data))
            storage = postgres.url
        opened = open_database(storage)
        stack.callback(opened.engine.dispose)
        stack.callback(opened.remove_session)
        yield opened


def open_database(url: str) -> RDBStorage:
    """Open a database to read from; nothing is written to it.

    Raises as ``open_source``.
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

"""``trialfleet export`` and ``trialfleet import``: studies that move."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import optuna
import sqlalchemy as sa
import typer
from optuna.storages import RDBStorage

from trialfleet.cli.credential_options import CaFileOption, TokenFileOption
from trialfleet.cli.sources import (
    CONNECT_S,
    DEFAULT_FOLDER,
    PROXY_PATIENCE_S,
    DataOption,
    ProxyOption,
    StorageOption,
    Where,
)
from trialfleet.model import database_url
from trialfleet.transfer import places
from trialfleet.transfer.copying import Source, Target, choose, copy_study
from trialfleet.transfer.database import DatabaseTarget, snapshot
from trialfleet.transfer.interface import InterfaceSource, InterfaceTarget

StudiesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[STUDY]...", help="The studies; needed where there are several."),
]
AllOption = Annotated[bool, typer.Option("--all", help="All studies.")]
AsOption = Annotated[
    str | None, typer.Option("--as", metavar="NAME", help="The study's name at the target.")
]


def export_studies(
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FILE|URL",
            help="A file of SQLite (.db, .sqlite3) or of Optuna's journal (.journal, .log), or the "
            "URL of a database.",
        ),
    ],
    studies: StudiesArgument = None,
    everything: AllOption = False,
    name: AsOption = None,
    data: DataOption = None,
    storage: StorageOption = None,
    proxy: ProxyOption = None,
    token_file: TokenFileOption = None,
    ca_file: CaFileOption = None,
) -> None:
    """Copy studies, with all their trials, to a storage of Optuna's own."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with (
        Where(data, storage, proxy, token_file, ca_file).open_storage() as opened,
        contextlib.ExitStack() as stack,
    ):
        source: Source
        if isinstance(opened, RDBStorage):
            place = opened.engine.url.render_as_string(hide_password=True)
            with places.told(place, "--storage"):
                source = stack.enter_context(snapshot(opened.engine))
            source = places.ToldSource(source, place, "--storage")
        else:
            source = InterfaceSource(opened)
        with places.open_target(to, "--to") as target:
            _copy(source, target, studies or [], everything, name)


def import_studies(
    origin: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="FILE|URL",
            help="A file of SQLite or of Optuna's journal, or the URL of a database.",
        ),
    ],
    studies: StudiesArgument = None,
    everything: AllOption = False,
    name: AsOption = None,
    data: DataOption = None,
    storage: StorageOption = None,
    proxy: ProxyOption = None,
    token_file: TokenFileOption = None,
    ca_file: CaFileOption = None,
) -> None:
    """Copy studies, with all their trials, from a storage of Optuna's own."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with (
        places.open_source(origin, "--from") as source,
        _open_target(data or DEFAULT_FOLDER, storage, proxy, token_file, ca_file) as target,
    ):
        _copy(source, target, studies or [], everything, name)


def _copy(
    source: Source, target: Target, studies: list[str], everything: bool, rename: str | None
) -> None:
    for study, name in choose(source, target, studies, everything, rename):
        copied = copy_study(source, study, target, name)
        renamed = f", as {name}" if name != study.name else ""
        print(
            f"{study.name}: {copied.trials} trial{'s'[copied.trials == 1 :]}{renamed}", flush=True
        )
        if copied.waiting_again:
            print(
                f"{study.name}: {copied.waiting_again} running where they were copied from, "
                "waiting where they were copied to",
                file=sys.stderr,
            )


@contextlib.contextmanager
def _open_target(
    data: Path,
    storage: str | None,
    proxy: str | None,
    token_file: Path | None,
    ca_file: Path | None,
) -> Iterator[Target]:
    """Open what the options name, as ``Where.open_storage`` does, to write to."""
    if proxy is not None:
        from trialfleet.client import FleetStorage

        client = FleetStorage(
            proxy, patience_s=PROXY_PATIENCE_S, token_file=token_file, ca_file=ca_file
        )
        with contextlib.closing(client):
            yield InterfaceTarget(client)
        return
    from trialfleet.storage.schema import prepare

    with contextlib.ExitStack() as stack:
        if storage is None:
            from trialfleet.local.postgres import Postgres

            storage = stack.enter_context(Postgres(data)).url
        address = database_url.parse(storage, "--storage")
        stack.enter_context(places.told(storage, "--storage"))
        engine = sa.create_engine(
            address, poolclass=sa.NullPool, connect_args={"connect_timeout": CONNECT_S}
        )
        stack.callback(engine.dispose)
        with engine.connect():
            pass  # Optuna would write the error's trace to the log
        prepare(engine)
        yield DatabaseTarget(engine)

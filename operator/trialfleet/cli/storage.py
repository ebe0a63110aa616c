"""``trialfleet storage``: looking after a database."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import optuna
import sqlalchemy as sa
import typer

from trialfleet.cli.cluster_storages import list_storages, wake
from trialfleet.cli.rotate import rotate
from trialfleet.cli.sources import (
    CONNECT_S,
    DEFAULT_FOLDER,
    DataOption,
    StorageOption,
)
from trialfleet.model import database_url
from trialfleet.model.errors import InvalidInput
from trialfleet.transfer.places import shown, told

storage = typer.Typer(
    no_args_is_help=True,
    help="Look after a database: bring it up to date, check what it keeps; and after the storages "
    "of a cluster.",
)
storage.command("list")(list_storages)
storage.command("wake")(wake)
storage.command("rotate")(rotate)


@storage.command("upgrade")
def upgrade(data: DataOption = None, url: StorageOption = None) -> None:
    """Bring a database up to date with the installed Optuna and Trialfleet.

    Stop everything that uses it, and back it up: what is older can't use it afterwards.
    """
    from trialfleet.storage import schema

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _open(data or DEFAULT_FOLDER, url) as engine:
        before, after = schema.upgrade(engine)
    for name, found, now in (
        ("Optuna's tables", before.optuna, after.optuna),
        ("Trialfleet's tables", before.trialfleet or None, after.trialfleet),
    ):
        print(f"{name}: {now}" + (f", was {found or 'none'}" if found != now else ""))


@storage.command("check")
def check(
    data: DataOption = None,
    url: StorageOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Put right what differs from the trials.")
    ] = False,
) -> None:
    """Compare the counts, best trials and parameters that are kept with the trials themselves.

    Exits with 1 if something differs and is not repaired. Who writes to a trial waits while one
    study is compared: seconds for 100,000 trials.
    """
    from trialfleet.storage import checking, schema
    from trialfleet.transfer.database import snapshot

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    different = 0
    with _open(data or DEFAULT_FOLDER, url) as engine:
        schema.require_ours(engine)
        with snapshot(engine) as source:
            studies = source.studies()
        for study in studies:
            for line in checking.check(engine, study.study_id, repair=repair):
                print(f"{study.name}: {line}")
                different += 1
    if not different:
        print(f"{len(studies)} {'study' if len(studies) == 1 else 'studies'}: nothing differs")
    elif repair:
        print(f"{different} repaired")
    else:
        print("put it right with --repair", file=sys.stderr)
        raise typer.Exit(1)


@contextlib.contextmanager
def _open(data: Path, url: str | None) -> Iterator[sa.Engine]:
    """Open a database of studies, that of a folder if there is no URL."""
    with contextlib.ExitStack() as stack:
        if url is None:
            from trialfleet.local.postgres import Postgres, has_data

            if not has_data(data):
                raise InvalidInput(
                    f"--data {data}: no data of 'trialfleet run', accepted: a folder that it made; "
                    "or name a database with --storage"
                )
            url = stack.enter_context(Postgres(data)).url
        address = database_url.parse(url, "--storage")
        stack.enter_context(told(url, "--storage"))
        engine = sa.create_engine(
            address,
            poolclass=sa.NullPool,
            connect_args={"connect_timeout": CONNECT_S, "options": "-c lock_timeout=10s"},
        )
        stack.callback(engine.dispose)
        if not sa.inspect(engine).has_table("studies"):
            raise InvalidInput(f"--storage {shown(address)}: no studies in this database")
        yield engine

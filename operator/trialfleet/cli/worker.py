"""``trialfleet worker``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from trialfleet import names
from trialfleet.cli.credential_options import CaFileOption, TokenFileOption
from trialfleet.model.errors import InvalidInput, ObjectiveImportError
from trialfleet.worker import assignment, log, process
from trialfleet.worker.packages import activate
from trialfleet.worker.watchdog import GRACE_S

_TRACEBACK_LINES = 20


def worker(
    study: Annotated[
        str,
        typer.Option(
            metavar="FILE|NAME", help="The study's manifest, or its name with --objective."
        ),
    ] = "",
    name: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            envvar=names.ENV_STUDY,
            show_envvar=True,
            help="Which study, where the manifest holds several.",
        ),
    ] = "",
    proxy: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT[,...]",
            envvar=names.ENV_PROXY,
            show_envvar=True,
            help="The storage's proxies, the nearest first.",
        ),
    ] = "",
    token_file: TokenFileOption = None,
    ca_file: CaFileOption = None,
    objective: Annotated[
        str,
        typer.Option(
            metavar="FILE.py|MODULE:FUNCTION",
            help="The objective, if it is not where the manifest says.",
        ),
    ] = "",
    worker: Annotated[
        str,
        typer.Option(
            "--worker",
            metavar="NAME",
            envvar=names.ENV_WORKER,
            show_envvar=True,
            help="This worker's name in the storage; host and process id if absent.",
        ),
    ] = "",
    definition: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            envvar=names.ENV_DEFINITION,
            show_envvar=True,
            help="Wait until the storage has the study with this definition; as the operator "
            "gives it.",
        ),
    ] = "",
    checkpoint_root: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            envvar=names.ENV_CHECKPOINT_ROOT,
            show_envvar=True,
            help="Where each trial gets a checkpoint folder.",
        ),
    ] = None,
    packages: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            envvar=names.ENV_PACKAGES,
            show_envvar=True,
            help="Packages of the objective, which come before those that are installed.",
        ),
    ] = "",
    grace: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="What the running trial gets after SIGTERM or SIGINT."
        ),
    ] = GRACE_S,
    patience: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="How long to wait for a proxy that is away."),
    ] = process.PATIENCE_S,
    log_level: Annotated[
        log.Level, typer.Option(help="Which lines are logged, on standard error.")
    ] = log.Level.INFO,
) -> None:
    """Run trials of a study until there are no more.

    Ends with 0 when there is no more work, 75 when it was asked to leave (SIGTERM, SIGINT) and
    work may remain, 76 when it ended itself because a trial ignored its time limit, 4 when the
    objective can't be loaded, 3 when no proxy answered, 2 for unusable input.
    """
    study = study or name
    if not study:
        raise InvalidInput(
            "study: found none, accepted: a manifest by --study, or a name by --study or the "
            f"environment variable {names.ENV_STUDY}"
        )
    if not proxy:
        raise InvalidInput(
            "proxy: found none, accepted: HOST:PORT[,HOST:PORT...] by --proxy or by the "
            f"environment variable {names.ENV_PROXY}"
        )
    log.configure(log_level)
    if packages:
        activate(packages)
    settings = process.Settings(
        proxies=proxy,
        worker=worker,
        checkpoint_root=checkpoint_root,
        grace_s=grace,
        patience_s=patience,
        token_file=token_file,
        ca_file=ca_file,
        definition=definition,
    )
    try:
        code = process.run(assignment.read(study, name=name, objective=objective), settings)
    except ObjectiveImportError as error:
        for note in getattr(error, "__notes__", ()):
            lines = note.rstrip().splitlines()
            print(*lines[-_TRACEBACK_LINES:], sep="\n", file=sys.stderr)
        raise
    raise typer.Exit(code)

"""``trialfleet proxy``."""

import asyncio
from typing import Annotated

import typer

from trialfleet import names
from trialfleet.errors import InvalidInput
from trialfleet.proxy import logs
from trialfleet.proxy.server import Address, Options, serve


def _announce(address: Address) -> None:
    print(f"listening on {address}", flush=True)


def proxy(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 chooses a free one.")
    ] = f"0.0.0.0:{names.PROXY_PORT}",
    storage: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar=names.ENV_STORAGE_URL,
            show_envvar=True,
            help="The PostgreSQL database: postgresql+psycopg2://USER:PASSWORD@HOST:PORT/NAME.",
        ),
    ] = "",
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Where Prometheus finds /metrics; nowhere if absent."
        ),
    ] = None,
    log_format: Annotated[
        logs.Format, typer.Option(help="How log lines look, on standard error.")
    ] = logs.Format.TEXT,
    grace: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="What calls in flight get when it stops."),
    ] = 10.0,
    session_grace: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="How long the database must have been there before silent workers count as dead.",
        ),
    ] = names.SESSION_TIME_TO_LIVE_S,
    session_sweep: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", help="Between two looks for silent workers."),
    ] = 5.0,
    max_calls: Annotated[
        int, typer.Option(min=1, help="Calls at once; more are refused, to be tried again.")
    ] = 4096,
) -> None:
    """Serve a storage to workers and to stock Optuna clients, until SIGTERM or SIGINT.

    Prints "listening on HOST:PORT" when it begins to serve; before that, while the database is
    away, it keeps trying.
    """
    if not storage:
        raise InvalidInput(
            f"storage: found none, accepted: the database's URL, by --storage or by the "
            f"environment variable {names.ENV_STORAGE_URL}"
        )
    options = Options(
        listen=Address.parse(listen, "listen"),
        metrics=None if metrics is None else Address.parse(metrics, "metrics"),
        grace_s=grace,
        session_grace_s=session_grace,
        sweep_interval_s=session_sweep,
        max_calls=max_calls,
    )
    logs.configure(log_format)
    asyncio.run(serve(storage, options, _announce))

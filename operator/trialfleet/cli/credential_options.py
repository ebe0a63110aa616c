"""The options by which a command shows who calls, and knows whom it calls."""

from pathlib import Path
from typing import Annotated

import typer

from trialfleet import names

TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        envvar=names.ENV_TOKEN_FILE,
        show_envvar=True,
        help="The token to show to proxies.",
    ),
]
CaFileOption = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        metavar="FILE",
        envvar=names.ENV_CA_FILE,
        show_envvar=True,
        help="The only authorities to trust, in PEM; calls to proxies are encrypted.",
    ),
]

"""The command ``trialfleet``: its commands, and the one place where errors become exit codes."""

import errno
import importlib
import io
import os
import sys
from importlib.metadata import version
from typing import Annotated, Final, TextIO

import typer

from trialfleet.model.errors import EXIT_FAILED, InvalidInput, TrialfleetError, exit_code

COMMANDS: Final = (
    "run",
    "best",
    "trials",
    "plot",
    "dashboard",
    "studies",
    "export",
    "import",
    "convert",
    "storage",
    "why",
    "submit",
    "watch",
    "logs",
    "enqueue",
    "retry",
    "scale",
    "suspend",
    "resume",
    "stop",
    "validate",
    "proxy",
    "token",
    "worker",
    "packages",
    "report",
    "operator",
)
"""Each is a function, or a group, of its name in a module of its name, unless ``_PLACES`` says
otherwise, and is imported when it is asked for: a worker does not load what only the supervisor
needs."""

_PLACES: Final = {
    "export": ("transfer", "export_studies"),
    "import": ("transfer", "import_studies"),
}
"""Module and function of a command that is not called as they are."""

_NAMES_ONLY: Final = "--names-only"
"""Instead of a command: none is loaded, for only their names are wanted."""


def build(command: str | None = None) -> typer.Typer:
    """Return the command line, with one command only if its name is given and known."""
    app = typer.Typer(
        name="trialfleet",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="Hyperparameter optimization as a fleet of workers.",
    )
    app.callback()(_options)
    for name in (command,) if command in COMMANDS else COMMANDS:
        if command == _NAMES_ONLY:
            app.command(name)(_nothing)
            continue
        place, function = _PLACES.get(name, (name, name))
        try:
            module = importlib.import_module(f"trialfleet.cli.{place}")
        except ModuleNotFoundError as error:
            # The image for workers has only the packages that a worker needs.
            if error.name is None or error.name.startswith("trialfleet"):
                raise
            if name == command:
                raise InvalidInput(
                    f"{name}: needs the package {error.name!r}, which is not installed here"
                ) from error
            continue
        found = getattr(module, function)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    return app


def _nothing() -> None:
    pass


def _asked_for() -> str | None:
    """Return the command that is to be run, or whose arguments a shell completes.

    A shell that completes a line waits for it: it gets no more than it takes.
    """
    words = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS")
    if words is None or not any(key.endswith("TRIALFLEET_COMPLETE") for key in os.environ):
        return sys.argv[1] if len(sys.argv) > 1 else None
    found = [word for word in words.split()[1:] if word in COMMANDS]
    return found[0] if found else _NAMES_ONLY


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"trialfleet {version('trialfleet')}")
        raise typer.Exit


def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; an error of ours is told in plain lines, without a traceback.

    What standard output can't show is escaped, and that it can't be written is told.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _run()
    finally:
        try:
            sys.stderr.flush()
        except OSError:
            _drop(sys.stderr)


def _run() -> None:
    try:
        try:
            build(_asked_for())()
        finally:
            sys.stdout.flush()
    except TrialfleetError as error:
        print(error, file=sys.stderr)
        sys.exit(exit_code(error))
    except OSError as error:
        _drop(sys.stdout)
        if error.errno != errno.EPIPE:
            print(f"{error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


def _drop(stream: TextIO) -> None:
    """Drop what could not be written: Python would try again at its end, and exit with 120."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


if __name__ == "__main__":
    main()

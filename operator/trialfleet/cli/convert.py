"""``trialfleet convert``: manifests of other tools, as studies."""

import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from trialfleet.model.errors import InvalidInput
from trialfleet.transfer.katib.experiment import convert as convert_experiment

convert = typer.Typer(no_args_is_help=True, help="Make studies of what other tools run.")


@convert.callback()
def _convert() -> None:
    pass


@convert.command("katib")
def katib(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="YAML of an Experiment; - for standard input.")
    ],
) -> None:
    """Print the Study that does what an Experiment of Katib does.

    What differs or has no equivalent is told on standard error, line by line. The exit code is 2
    if no valid study can be made of it.
    """
    name = "standard input" if file == Path("-") else str(file)
    try:
        data = sys.stdin.buffer.read() if file == Path("-") else file.read_bytes()
        text = data.decode()
    except OSError as error:
        raise InvalidInput(f"{name}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{name}: found bytes that are no UTF-8: {error.reason}") from None
    converted = convert_experiment(text, name)
    for note in converted.notes:
        print(note, file=sys.stderr)
    yaml.dump(
        converted.manifest,
        sys.stdout,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )


class _Dumper(yaml.SafeDumper):
    """Writes each value in full: manifests with aliases are hard to read."""

    def ignore_aliases(self, data: object) -> bool:
        return True

"""``trialfleet validate``: the verdict on manifests that the cluster would give."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from trialfleet.api import manifest
from trialfleet.model.errors import InvalidInput


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="YAML files.")],
) -> None:
    """Check manifests of Study and StudyStorage as the cluster would.

    Every mistake is one line on standard error, and the exit code is 2 if there is any.
    """
    mistakes = []
    for file in files:
        try:
            found = manifest.read(file)
        except InvalidInput as error:
            mistakes.append(str(error))
            continue
        for notice in found.notices:
            print(f"{notice} (notice)", file=sys.stderr)
        for resource in found.resources:
            print(f"{file}: {resource.kind} {resource.metadata.name!r} is valid")
    if mistakes:
        raise InvalidInput("\n".join(mistakes))

"""``trialfleet packages``."""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from trialfleet import names
from trialfleet.worker import assignment
from trialfleet.worker import packages as objective_packages


def packages(
    study: Annotated[Path, typer.Option(metavar="FILE", help="The study's manifest.")],
    cache: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Where packages are kept, a folder for each list of them."
        ),
    ],
    link: Annotated[
        Path, typer.Option(metavar="PATH", help="A link to make to the folder of this study's.")
    ],
    name: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            envvar=names.ENV_STUDY,
            show_envvar=True,
            help="Which study, where the manifest holds several.",
        ),
    ] = "",
) -> None:
    """Install the packages that a study's objective asks for, for this Python.

    Does in a pod, before the worker starts, what 'trialfleet run' does by itself. PYTHONPATH=PATH
    makes them importable. Ends with 2 where they can't be installed together, or not beside what
    Trialfleet needs, and with 1 where pip fails otherwise.
    """
    found, manifest = assignment.find(study, name)
    wanted = objective_packages.read(found.spec, manifest)
    if wanted is None:
        return
    folder = objective_packages.install(wanted, cache)
    # Put in place at once: who looks finds either all packages or none.
    with tempfile.TemporaryDirectory(dir=link.parent) as made:
        new = Path(made, link.name)
        new.symlink_to(folder)
        os.replace(new, link)

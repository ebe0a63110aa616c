"""Resolve the dependencies of pyproject.toml into hash-pinned files.

``requirements/dev.txt`` is what ``make`` needs. The others are for images: ``build.txt`` makes the
wheel, ``runtime.txt`` runs all of it, ``worker.txt`` runs objectives, and
``examples/digits/requirements.txt`` is what one example adds to that. Versions that are pinned
already are kept; ``--upgrade`` takes the newest.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
RUNTIME: Final = "requirements/runtime.txt"
DEV: Final = "requirements/dev.txt"

WORKER: Final = frozenset(
    {
        *("cloudpickle", "durationpy", "grpcio", "numpy", "optuna", "packaging"),
        *("protobuf", "pydantic", "pyyaml", "rich", "typer"),
    }
)
"""Those of the project's dependencies that a worker imports: it reaches no database and no API
server."""


def name_of(requirement: str) -> str:
    """Return the name of the package that a requirement is about."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()


def resolve(output: str, source: str, *selection: str, requirements: Iterable[str] = ()) -> None:
    """Write one file, from a project file or (source "-") from requirements; or exit."""
    resolved = subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "compile", source),
            *("--generate-hashes", "--universal", "--python-version", "3.11"),
            # Where a package was found is the machine's matter, not the project's.
            *("--no-emit-index-url", "--no-emit-find-links", "--quiet"),
            *("--custom-compile-command", "make lock"),
            *selection,
            *("--output-file", output),
            *sys.argv[1:],
        ],
        cwd=ROOT,
        input="\n".join(requirements),
        text=True,
    )
    if resolved.returncode != 0:
        sys.exit(resolved.returncode)


def main() -> None:
    """Write all files, or exit with the resolver's code."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = settings["project"]
    extras = [part for name in project["optional-dependencies"] for part in ("--extra", name)]
    resolve(RUNTIME, "pyproject.toml")
    resolve(DEV, "pyproject.toml", *extras, "--group", "dev")
    resolve(
        *("requirements/build.txt", "-", "--constraints", DEV),
        requirements=settings["build-system"]["requires"],
    )
    # The same versions in all images: operator and workers speak one protocol.
    resolve(
        *("requirements/worker.txt", "-", "--constraints", RUNTIME),
        requirements=[one for one in project["dependencies"] if name_of(one) in WORKER],
    )
    examples = project["optional-dependencies"]["examples"]
    resolve(
        *("examples/digits/requirements.txt", "-", "--constraints", RUNTIME),
        requirements=[one for one in examples if name_of(one) == "scikit-learn"],
    )


if __name__ == "__main__":
    main()

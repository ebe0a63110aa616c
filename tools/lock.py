"""Resolve the dependencies of pyproject.toml into the hash-pinned files of requirements/.

``runtime.txt`` is what an image needs, ``dev.txt`` what ``make`` needs. Versions that are
pinned already are kept; ``--upgrade`` takes the newest.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    "runtime.txt": [],
    "dev.txt": ["--extra", "examples", "--extra", "samplers", "--group", "dev"],
}


def main() -> None:
    """Write both files, or exit with the resolver's code."""
    for name, selection in FILES.items():
        subprocess.run(
            [
                *(sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml"),
                *("--generate-hashes", "--universal", "--python-version", "3.11"),
                # Where a package was found is the machine's matter, not the project's.
                *("--no-emit-index-url", "--no-emit-find-links", "--quiet"),
                *("--custom-compile-command", "make lock"),
                *selection,
                *("--output-file", f"requirements/{name}"),
                *sys.argv[1:],
            ],
            cwd=ROOT,
            check=True,
        )


if __name__ == "__main__":
    main()

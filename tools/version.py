"""Compare every version that the project names with the one in pyproject.toml, or write another.

``version.py --check`` exits 1 if one differs; ``version.py 0.2.0`` writes that one everywhere.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

_VERSION: Final = r"\d+\.\d+\.\d+[\w.+-]*(?<![.])"
_CHART: Final = re.compile(rf"^(?:version|appVersion): ({_VERSION})$", re.MULTILINE)
_ANY: Final = re.compile(
    rf"^ARG VERSION=({_VERSION})$|/(?:operator|worker|digits):({_VERSION})", re.MULTILINE
)
_PROJECT: Final = re.compile(rf'(?<=^version = ")({_VERSION})(?="$)', re.MULTILINE)

# What tells of the past, and other images' versions.
_EXCEPT: Final = ("CHANGELOG.md", "tests/upgrades/", "requirements/")


def read() -> str:
    """Return the project's version."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: str = tomllib.load(file)["project"]["version"]
    return found


def pattern(path: str) -> re.Pattern[str]:
    """Return what finds the versions in a file."""
    if path == "pyproject.toml":
        return _PROJECT
    return _CHART if path.endswith("/Chart.yaml") else _ANY


def texts() -> Iterator[tuple[str, str]]:
    """Return the path and the text of every file that may name the version."""
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for path in filter(None, listed.split("\0")):
        if not path.startswith(_EXCEPT) and (ROOT / path).is_file():
            try:
                yield path, (ROOT / path).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # a picture


def differences(version: str) -> list[str]:
    """Return a line for each place that names another version."""
    found = []
    for path, text in texts():
        for match in pattern(path).finditer(text):
            named = match[match.lastindex or 0]
            if named != version:
                line = text.count("\n", 0, match.start()) + 1
                found.append(f"{path}:{line}: found version {named}, accepted: {version}")
    return found


def write(version: str) -> None:
    """Write a version wherever one is named."""

    def replaced(match: re.Match[str]) -> str:
        place = match.lastindex or 0
        start, end = (index - match.start() for index in match.span(place))
        return match[0][:start] + version + match[0][end:]

    for path, text in texts():
        new = pattern(path).sub(replaced, text)
        if new != text:
            (ROOT / path).write_text(new, encoding="utf-8")


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--check", action="store_true")
    asked.add_argument("version", nargs="?", help="the new version")
    options = parser.parse_args()
    if options.check:
        found = differences(read())
        for line in found:
            print(line, file=sys.stderr)
        if found:
            print(f"mend them with: {Path(__file__).name} {read()}", file=sys.stderr)
        sys.exit(1 if found else 0)
    if not re.fullmatch(_VERSION, options.version):
        parser.error(f"found {options.version!r}, accepted: a version like 0.2.0")
    write(options.version)


if __name__ == "__main__":
    main()

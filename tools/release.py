"""Make the files of a release from a commit: the same bytes whenever and wherever it is done.

The wheel, the source distribution, the chart as a package, the manifests for kubectl, a bill of
materials, and the checksums of all.
"""

import argparse
import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Final

import helm_python

ROOT: Final = Path(__file__).resolve().parent.parent
SUMS: Final = "SHA256SUMS"


def git(*arguments: str) -> bytes:
    """Return what git says."""
    return subprocess.check_output(["git", *arguments], cwd=ROOT)


def export(commit: str, into: Path) -> None:
    """Write a commit's files to a folder: neither changes nor files of one's own are released."""
    with tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", commit))) as archive:
        archive.extractall(into, filter="data")


def package_chart(chart: Path, into: Path, epoch: int) -> None:
    """Package a chart as ``helm package`` does, but for times and owners."""
    with tempfile.TemporaryDirectory() as folder:
        packaged = Path(helm_python.package(str(chart), destination=folder))
        with tarfile.open(packaged) as archive:
            files = {
                member.name: content.read()
                for member in archive.getmembers()
                if (content := archive.extractfile(member)) is not None
            }
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        # Chart.yaml first, as Helm has it: who wants to know what it is need not read all.
        for name in sorted(files, key=lambda name: (not name.endswith("/Chart.yaml"), name)):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(files[name]), epoch, 0o644
            archive.addfile(member, io.BytesIO(files[name]))
    (into / packaged.name).write_bytes(gzip.compress(plain.getvalue(), mtime=epoch))


def release(commit: str, into: Path) -> list[Path]:
    """Make all files of a release in a folder; return them."""
    epoch = int(git("log", "-1", "--format=%ct", commit))
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0"}
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "source", Path(folder) / "made"
        made.mkdir()
        export(commit, source)
        with (source / "pyproject.toml").open("rb") as file:
            version = tomllib.load(file)["project"]["version"]

        def python(*arguments: str | Path) -> None:
            command = [sys.executable, *map(str, arguments)]
            subprocess.run(command, cwd=source, env=environment, check=True)

        # What it is allowed to read and write does not depend on who makes it.
        mask = os.umask(0o022)
        try:
            python("-m", "hatchling", "build", "-d", made)
        finally:
            os.umask(mask)
        package_chart(source / "charts" / "trialfleet", made, epoch)
        python("tools/manifests.py", "--output", made / f"trialfleet-{version}.yaml")
        python(
            *("-m", "cyclonedx_py", "requirements", "requirements/runtime.txt"),
            *("--pyproject", "pyproject.toml", "--output-reproducible", "--short-PURLs"),
            *("--spec-version", "1.6", "-o", made / f"trialfleet-{version}.cdx.json"),
        )
        files = sorted(made.iterdir())
        into.mkdir(parents=True, exist_ok=True)
        sums = "".join(f"{checksum(path)}  {path.name}\n" for path in files)
        for path in files:
            (into / path.name).write_bytes(path.read_bytes())
    (into / SUMS).write_text(sums, encoding="utf-8")
    return [into / path.name for path in files] + [into / SUMS]


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Make what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commit", default="HEAD", help="what is released")
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    for path in release(options.commit, options.output):
        print(f"{path.stat().st_size:>9}  {path}")


if __name__ == "__main__":
    main()

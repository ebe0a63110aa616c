"""Make a root file system of Python, what is installed for it, and the libraries these load.

``runtime_root.py ROOT INSTALLED``: run by a builder stage on Debian, by the interpreter that is to
be copied. INSTALLED is a root that ``pip install --root`` filled. An image made of ROOT has neither
package managers nor a shell's usual company: less to pull, less to watch for vulnerabilities. What
is left of Debian is named under var/lib/dpkg/status.d, where scanners look for it.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

USER: Final = 65532
NAME: Final = "trialfleet"

STANDARD_LIBRARY: Final = Path(os.__file__).parent
UNUSED: Final = (
    "ensurepip",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "tkinter",
    "turtledemo",
)

BESIDES: Final = (
    # The C library loads it by itself when a thread is cancelled.
    Path(f"/lib/{os.uname().machine}-linux-gnu/libgcc_s.so.1"),
    Path("/etc/nsswitch.conf"),
    Path("/etc/os-release"),
    Path("/etc/ssl/certs/ca-certificates.crt"),
    # The locale C.UTF-8.
    *(path for path in Path("/usr/lib/locale/C.utf8").rglob("*") if path.is_file()),
)


def copy_python(root: Path) -> None:
    """Copy the interpreter and its standard library."""
    prefix = Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (root / prefix.relative_to("/") / "bin").mkdir(parents=True)
    for name in (version, "python3", "python"):
        copy(prefix / "bin" / name, root)
    for library in (prefix / "lib").glob("libpython*.so*"):
        copy(library, root)
    shutil.copytree(
        STANDARD_LIBRARY,
        root / STANDARD_LIBRARY.relative_to("/"),
        symlinks=True,
        ignore=lambda folder, _: [
            *(UNUSED if Path(folder) == STANDARD_LIBRARY else ()),
            *(name for name in os.listdir(folder) if name == "__pycache__" or name.endswith(".a")),
        ],
    )


def copy(file: Path, root: Path) -> None:
    """Copy a file to the place it has, where /bin and /lib lead to /usr as they do in Debian."""
    place = root / (file.parent.resolve() / file.name).relative_to("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    if file.is_symlink() and file.parent.resolve() == file.resolve().parent:
        copy(file.resolve(), root)
        if not place.is_symlink():
            place.symlink_to(file.resolve().name)
    elif not place.exists():
        shutil.copy2(file, place)


def objects(root: Path) -> Iterator[Path]:
    """Yield all programs and shared libraries."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def libraries(root: Path) -> set[Path]:
    """Return the libraries outside that something inside is linked with."""
    listed = subprocess.run(
        ["ldd", *sorted(map(str, objects(root)))], check=False, capture_output=True, text=True
    ).stdout
    found = re.findall(r"(?:=> |^\t)(/\S+) \(0x", listed, re.MULTILINE)
    return {path for path in map(Path, found) if not path.is_relative_to(root)}


def note_packages(root: Path, files: set[Path]) -> None:
    """Write down which of Debian's packages the files belong to."""
    notes = root / "var/lib/dpkg/status.d"
    notes.mkdir(parents=True)
    resolved = sorted({str(file.resolve()) for file in files})
    # Debian's database has some files by the names they had before /lib became a link.
    asked = [*resolved, *(path.removeprefix("/usr") for path in resolved)]
    owners = subprocess.run(
        ["dpkg-query", "--search", *asked], check=False, capture_output=True, text=True
    ).stdout
    for package in {line.partition(":")[0] for line in owners.splitlines()}:
        status = subprocess.run(
            ["dpkg-query", "--status", package], check=True, capture_output=True
        ).stdout
        (notes / package).write_bytes(status)


def main(root: Path, installed: Path) -> None:
    """Fill ``root``, which must not be there yet."""
    for folder in ("bin", "lib", "lib64", "sbin"):
        (root / "usr" / folder).mkdir(parents=True)
        (root / folder).symlink_to(f"usr/{folder}")
    copy_python(root)
    shutil.copytree(installed, root, symlinks=True, dirs_exist_ok=True)
    for file in BESIDES:
        copy(file, root)
    linked = libraries(root)
    for library in linked:
        copy(library, root)
    note_packages(root, linked | set(BESIDES))
    (root / "etc/passwd").write_text(
        f"root:x:0:0:root:/root:/sbin/nologin\n{NAME}:x:{USER}:{USER}:{NAME}:/tmp:/sbin/nologin\n"
    )
    (root / "etc/group").write_text(f"root:x:0:\n{NAME}:x:{USER}:\n")
    (root / "etc/ld.so.conf").write_text("/usr/local/lib\n")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    subprocess.run(["ldconfig", "-r", root], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

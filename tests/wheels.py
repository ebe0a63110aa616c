"""Wheels of packages that no index has."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PIP_EXTRA_INDEX_URL": ""}
"""Variables with which pip looks at no index; `PIP_FIND_LINKS` says where else."""


def environment(folder: Path) -> Mapping[str, str]:
    """Return the variables with which pip finds the wheels of a folder, and no others."""
    return {**OFFLINE, "PIP_FIND_LINKS": str(folder)}


def write_wheel(
    folder: Path, name: str, version: str, source: str = "", requires: Sequence[str] = ()
) -> Path:
    """Write a wheel with one module of the package's name; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {one}\n" for one in requires
    )
    files = {
        f"{name}.py": source or f"VERSION = {version!r}\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
        record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
        wheel.writestr(f"{info}/RECORD", record)
    return path

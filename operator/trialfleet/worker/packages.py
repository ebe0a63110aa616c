"""Packages that an objective asks for: installed once for each list of them, into a folder.

The folder comes before all that is installed, and never holds what Trialfleet
itself needs: pip is held to the versions that are there, and what has them already is not
installed again. So Trialfleet keeps its versions, and of everything else the study has its own.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from trialfleet import names
from trialfleet.api.manifest import Manifest
from trialfleet.api.requirements import requirements_of
from trialfleet.api.study import StudySpec
from trialfleet.model.errors import InvalidInput, TrialfleetError

_FIELD: Final = "spec.objective.python"

Run = Callable[[Sequence[str], Mapping[str, str]], tuple[int, Sequence[str]]]
"""Runs a program, with some more variables in its environment, to its end; returns its exit code
and the lines that it wrote to both of its streams."""

_RESOLVED_TO_NOTHING: Final = "ResolutionImpossible"

_VERSIONS: Final = re.compile(r" \(from versions: .{80,}\)")
"""All that there are, where they are many."""

_LONGEST: Final = 600
"""Characters of pip's words in a message."""


@dataclass(frozen=True)
class Wanted:
    """What an objective asks for."""

    packages: tuple[str, ...]
    """Requirements of the manifest."""
    file: str | None
    """The text of a requirements file."""

    def __str__(self) -> str:
        listed = [*self.packages, *(["a requirements file"] if self.file is not None else [])]
        return ", ".join(listed)

    @property
    def field(self) -> str:
        """Path of the field that asks for them."""
        return f"{_FIELD}.packages" if self.packages else f"{_FIELD}.requirements"

    @property
    def digest(self) -> str:
        """Tells apart what may install another set of packages.

        What is installed is part of it: pip leaves out what is there.
        """
        here = [sys.implementation.cache_tag, sysconfig.get_platform(), platform.libc_ver()]
        there = sorted({f"{one.name}=={one.version}" for one in metadata.distributions()})
        text = json.dumps([sorted(self.packages), self.file, here, there])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check(self) -> None:
        """Compare the requirements with the versions that Trialfleet needs.

        Raises:
            InvalidInput: They exclude one; a line for each.
        """
        needed = needed_versions()
        lines = []
        for at, text in self._each():
            requirement = Requirement(text)
            version = needed.get(canonicalize_name(requirement.name))
            if requirement.marker is not None and not requirement.marker.evaluate():
                continue
            if version and not requirement.specifier.contains(version, prereleases=True):
                lines.append(
                    f"{at}: found {text!r}, but Trialfleet runs with {requirement.name} {version} "
                    f"here; accepted: a requirement that {version} meets"
                )
        if lines:
            raise InvalidInput("\n".join(lines))

    def _each(self) -> Iterator[tuple[str, str]]:
        yield from ((f"{_FIELD}.packages[{at}]", text) for at, text in enumerate(self.packages))
        for line, text in requirements_of(self.file or ""):
            yield f"{_FIELD}.requirements: line {line}", text


def read(spec: StudySpec, manifest: Manifest) -> Wanted | None:
    """Return what a study's objective asks for; None if it asks for nothing.

    Raises:
        InvalidInput: There is no such requirements file, or a line of it can't be used.
    """
    python = spec.objective.python
    if python is None or (python.packages is None and python.requirements is None):
        return None
    given, text, at = python.requirements, None, f"{_FIELD}.requirements"
    if given is not None and given.file is not None:
        try:
            text = (manifest.path.parent / given.file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InvalidInput(
                f"{at}.file: found {given.file!r}, which can't be read ({reason}); accepted: a "
                "text file beside the manifest"
            ) from None
    elif given is not None and given.config_map is not None:
        name, key = given.config_map.name, given.config_map.key
        text = manifest.config_maps.get(name, {}).get(key)
        if text is None:
            raise InvalidInput(
                f"{at}.configMap: found no ConfigMap {name!r} with a key {key!r} in "
                f"{manifest.path}; accepted: one in the same file"
            )
    try:
        list(requirements_of(text or ""))
    except ValueError as error:
        raise InvalidInput(f"{at}: {error}") from None
    return Wanted(tuple(python.packages or ()), text)


def needed_versions() -> dict[str, str]:
    """Return the versions of what Trialfleet imports, itself among them, by normalized names."""
    found: dict[str, str] = {}
    waiting = [Requirement(names.APP)]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (
            requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
        ):
            continue
        with contextlib.suppress(metadata.PackageNotFoundError):
            # Of what the wheel asks for a worker's image has a part.
            distribution = metadata.distribution(name)
            found[name] = distribution.version
            waiting += map(Requirement, distribution.requires or ())
    return found


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[int, Sequence[str]]:
    """Run a program; see ``Run``."""
    done = subprocess.run(
        arguments,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return done.returncode, done.stdout.splitlines()


def folder_of(wanted: Wanted, cache: Path) -> Path:
    """Return the folder that has the packages, once they are installed."""
    return cache.absolute() / wanted.digest


def install(
    wanted: Wanted, cache: Path, *, on_begin: Callable[[], None] = lambda: None, run: Run = run
) -> Path:
    """Install packages unless the cache has them; return their folder.

    Of several at once one installs, and the others wait for it. ``on_begin`` is called before
    something is installed.

    Raises:
        InvalidInput: The packages exclude each other, or a version that Trialfleet needs; or there
            is neither pip nor uv.
        TrialfleetError: They can't be installed.
        OSError: The cache can't be written.
    """
    wanted.check()
    folder = folder_of(wanted, cache)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder
        on_begin()
        for left in folder.parent.glob(f"{folder.name}.*.unfinished"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            dir=folder.parent, prefix=f"{folder.name}.", suffix=".unfinished"
        ) as work:
            made = _Installer(wanted, Path(work), run).install()
            made.rename(folder)
    return folder


def activate(folder: str) -> None:
    """Make packages importable, here and in the Python programs that this process starts."""
    sys.path.insert(0, folder)
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *([others] if others else [])])


class _Installer:
    """Installs packages into a folder of its own.

    First pip says what it would install beside what is there, then exactly that is put into the
    folder: told to install at once, it would remove another version from where it is.
    """

    def __init__(self, wanted: Wanted, work: Path, run: Run) -> None:
        self._wanted = wanted
        self._work = work
        self._run = run
        # There may be no other folder to write to.
        self._environment = {"TMPDIR": str(work)}

    def install(self) -> Path:
        made = self._work / "packages"
        made.mkdir()
        missing = self._missing()
        if missing:
            lines = (self._wanted.file or "").splitlines()
            options = [line for line in lines if line.startswith("-")]
            listed = self._write("missing.txt", [*options, *missing])
            self._pip("--no-deps", "--target", str(made), "--requirement", str(listed))
        return made

    def _missing(self) -> list[str]:
        needed = [f"{name}=={version}" for name, version in needed_versions().items()]
        report = self._work / "report.json"
        asked = list(self._wanted.packages)
        if self._wanted.file is not None:
            asked += ["--requirement", str(self._write("requirements.txt", [self._wanted.file]))]
        held = self._write("needed.txt", needed)
        self._pip("--dry-run", "--report", str(report), "--constraint", str(held), *asked)
        return [_pinned(one) for one in json.loads(report.read_text())["install"]]

    def _write(self, name: str, lines: Sequence[str]) -> Path:
        file = self._work / name
        file.write_text("\n".join([*lines, ""]), encoding="utf-8")
        return file

    def _pip(self, *arguments: str) -> None:
        command = [
            *pip(),
            *("install", "--no-input", "--disable-pip-version-check"),
            *arguments,
        ]
        code, lines = self._run(command, self._environment)
        if code == 0:
            return
        text = f"{self._wanted.field}: can't be installed: {_why(lines) or f'exit code {code}'}"
        if any(_RESOLVED_TO_NOTHING in line for line in lines):
            raise InvalidInput(text)
        raise TrialfleetError(text)


def pip() -> list[str]:
    """Return the command of pip for this interpreter; uv fetches it where there is none.

    Raises:
        InvalidInput: There is neither.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    uv = shutil.which("uv", path=path)
    if uv is None:
        raise InvalidInput(
            f"{_FIELD}.packages: can't be installed: found neither pip for {sys.executable} nor uv "
            "in PATH, accepted: one of the two"
        )
    return [uv, "tool", "run", "--quiet", "pip", "--python", sys.executable]


def _pinned(item: Mapping[str, Any]) -> str:
    """Return the requirement of exactly one package of pip's report."""
    name, version = item["metadata"]["name"], item["metadata"]["version"]
    if not item["is_direct"]:
        return f"{name}=={version}"
    info = item["download_info"]
    source = info.get("vcs_info")
    if source is None:
        return f"{name} @ {info['url']}"
    return f"{name} @ {source['vcs']}+{info['url']}@{source['commit_id']}"


def _why(lines: Sequence[str]) -> str:
    """Return what pip says is wrong, in one line: its errors, and who asks for what."""
    said: list[str] = []
    explains = False
    for line in map(str.strip, lines):
        if line.startswith("The conflict is caused by"):
            explains = True
        elif line.startswith("To fix this you could"):
            break
        elif explains and line:
            said.append(line.replace("The user requested (constraint)", "Trialfleet runs with"))
        elif line.lower().startswith("error:") and not _is_beside_the_point(line):
            said.append(_VERSIONS.sub("", line[len("error:") :]).strip())
    text = "; ".join(said) or "; ".join(line.strip() for line in lines[-3:])
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _is_beside_the_point(line: str) -> bool:
    return _RESOLVED_TO_NOTHING in line or "Ignored the following" in line

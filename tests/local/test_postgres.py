"""PostgreSQL on this machine: started once, shared, gone with its last user."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from trialfleet.local.postgres import (
    KeeperState,
    Postgres,
    find_binaries,
    has_data,
    keeper_state,
    reachable,
)
from trialfleet.local.postgres_keeper import SHORT_LIVES, STILL_HELD, postmaster
from trialfleet.model import errors

HOLDER = """
import sys
from pathlib import Path
from trialfleet.local.postgres import Postgres
with Postgres(Path(sys.argv[1])) as postgres:
    print(postgres.url, flush=True)
    sys.stdin.read()
"""

Hold = Callable[[Path], "subprocess.Popen[str]"]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tf-", dir="/tmp") as name:
        yield Path(name) / "data"


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Start a process that uses a folder's server until its stdin is closed."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def one_value(url: str, statement: str) -> object:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        return connection.execute(sa.text(statement)).scalar()


def server_of(folder: Path) -> psutil.Process:
    running = postmaster(folder / "postgres")
    assert running is not None
    return psutil.Process(running)


def keeper_of(folder: Path) -> psutil.Process:
    keeper = server_of(folder).parent()
    assert keeper is not None
    return keeper


def users_of(folder: Path) -> list[list[str]]:
    """Command lines of all processes that name the folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command: list[str] = process.info["cmdline"] or []
        if any(str(folder) in argument for argument in command):
            found.append(command)
    return found


def test_data_stay_and_nothing_else_does(folder: Path) -> None:
    with Postgres(folder) as postgres:
        engine = sa.create_engine(postgres.url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE t AS SELECT 7 AS x"))
        assert one_value(postgres.url, "SHOW fsync") == "on"
        assert one_value(postgres.url, "SHOW listen_addresses") == ""
    assert users_of(folder) == []
    assert not list(folder.rglob(".s.PGSQL*"))
    assert (folder / ".gitignore").read_text() == "*\n"
    assert has_data(folder)
    with Postgres(folder) as postgres:
        assert one_value(postgres.url, "SELECT x FROM t") == 7


def test_a_server_is_shared_and_outlives_the_user_that_started_it(folder: Path, hold: Hold) -> None:
    first = hold(folder)
    assert first.stdout is not None
    url = first.stdout.readline().strip()
    with Postgres(folder) as postgres:
        assert postgres.url == url
        server = server_of(folder).pid
        first.communicate("")
        assert one_value(postgres.url, "SELECT 1") == 1
        assert server_of(folder).pid == server
    assert users_of(folder) == []


def test_many_start_it_at_once(folder: Path) -> None:
    together = threading.Barrier(6)

    def use() -> object:
        together.wait()
        with Postgres(folder) as postgres:
            answer = one_value(postgres.url, "SELECT pg_postmaster_start_time()")
            together.wait()
            return answer

    with ThreadPoolExecutor(6) as pool:
        answers = {future.result() for future in [pool.submit(use) for _ in range(6)]}
    assert len(answers) == 1
    assert users_of(folder) == []


def test_kill_9_of_the_only_user_ends_the_server(folder: Path, hold: Hold) -> None:
    holder = hold(folder)
    assert holder.stdout is not None
    holder.stdout.readline()
    server, keeper = server_of(folder), keeper_of(folder)
    holder.kill()
    psutil.wait_procs([server, keeper], timeout=10)
    assert users_of(folder) == []
    assert not list(folder.rglob(".s.PGSQL*"))


def test_a_server_that_dies_comes_back(folder: Path) -> None:
    with Postgres(folder) as postgres:
        server = server_of(folder)
        server.kill()
        psutil.wait_procs([server], timeout=10)
        back = threading.Event()

        def wait() -> None:
            # The dead server's file stays until the next one writes its own.
            while postmaster(folder / "postgres") in (None, server.pid):
                back.wait(0.02)
            back.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(10)
        assert server_of(folder).pid != server.pid
        assert one_value(postgres.url, "SELECT 1") == 1
    assert users_of(folder) == []


def _suspended(child: psutil.Process) -> bool:
    """Freeze a child of a server, and say whether that was done.

    Not done if it has ended, as workers do, or was forked a moment ago and has the server's
    listening socket still: frozen, it would let clients connect to a server that is gone.
    """
    try:
        if any(str(one.laddr).endswith(".s.PGSQL.5432") for one in child.net_connections("unix")):
            return False
        child.suspend()
    except psutil.NoSuchProcess:
        return False
    return True


def test_a_server_that_dies_comes_back_when_its_children_have_ended(folder: Path) -> None:
    """A killed server's children end by themselves, but not while they are frozen."""
    log = folder / "postgres.log"
    with Postgres(folder) as postgres:
        server = server_of(folder)
        children = [child for child in server.children() if _suspended(child)]
        assert children
        server.kill()
        deadline = time.monotonic() + 60
        while log.read_text().count(STILL_HELD) <= SHORT_LIVES:
            assert keeper_state(folder) is not KeeperState.ABSENT
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for child in children:
            child.resume()
        postgres.wait()
        assert one_value(postgres.url, "SELECT 1") == 1
    assert users_of(folder) == []


def test_a_server_without_keeper_gets_one_again(folder: Path, hold: Hold) -> None:
    holder = hold(folder)
    assert holder.stdout is not None
    holder.stdout.readline()
    keeper, server = keeper_of(folder), server_of(folder)
    keeper.kill()
    psutil.wait_procs([keeper], timeout=10)
    assert server.is_running()
    with Postgres(folder) as postgres:
        assert one_value(postgres.url, "SELECT 1") == 1
        holder.communicate("")
    assert users_of(folder) == []


def test_signals_do_not_end_a_server_in_use(folder: Path) -> None:
    with Postgres(folder) as postgres:
        keeper = keeper_of(folder)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(keeper.pid, signum)
        assert one_value(postgres.url, "SELECT 1") == 1
    assert users_of(folder) == []


def test_a_path_too_long_for_a_socket(folder: Path) -> None:
    deep = folder / ("long" * 20) / ("longer" * 10)
    with Postgres(deep) as postgres:
        sockets = Path(postgres.url.partition("?host=")[2])
        assert sockets.parent == Path("/tmp")
        assert one_value(postgres.url, "SELECT 1") == 1
    assert not sockets.exists()


def test_data_of_another_version_are_named(folder: Path) -> None:
    with Postgres(folder):
        pass
    (folder / "postgres" / "PG_VERSION").write_text("12\n")
    with (
        pytest.raises(errors.StorageUnavailable, match="incompatible with server"),
        Postgres(folder),
    ):
        pass
    assert keeper_state(folder) is KeeperState.ABSENT


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(errors.InvalidInput, match=r"--data .*/file/data: Not a directory"),
        Postgres(tmp_path / "file" / "data"),
    ):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_folders_of_the_user_keep_their_permissions(folder: Path) -> None:
    folder.parent.chmod(0o700)
    with Postgres(folder) as postgres:
        assert one_value(postgres.url, "SELECT 1") == 1
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert keeper_state(folder) is KeeperState.ABSENT


def test_programs_that_only_root_can_reach_are_copied(tmp_path: Path) -> None:
    package = find_binaries().parent.parent
    home = tmp_path / "home"
    for folder in (package, package.with_name(f"{package.name}.libs")):
        if folder.exists():
            shutil.copytree(folder, home / folder.name, symlinks=True)
    home.chmod(0o700)
    binaries = home / package.name / "pginstall" / "bin"
    copy = reachable(binaries, tmp_path / "programs")
    said = subprocess.run([copy / "postgres", "--version"], capture_output=True, text=True)
    assert said.stdout.startswith("postgres (PostgreSQL) "), said.stderr
    (place,) = (tmp_path / "programs").iterdir()
    assert copy.is_relative_to(place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o755
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert reachable(binaries, tmp_path / "programs") == copy

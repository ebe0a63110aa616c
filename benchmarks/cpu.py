"""The processor time that processes have used so far, in seconds."""

from collections.abc import Iterable

import psutil
import sqlalchemy as sa


def of_proxies(pids: Iterable[int]) -> float:
    """Return what these processes have used."""
    return sum(map(_used, map(psutil.Process, pids)), 0.0)


def of_postgres(url: str) -> float:
    """Return what a server on this machine has used, with all that it ever started."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        backend = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        server = psutil.Process(backend).parent()
    assert server is not None
    ended = server.cpu_times()
    used = ended.children_user + ended.children_system + _used(server)
    for process in server.children():
        try:
            used += _used(process)
        except psutil.NoSuchProcess:
            continue  # it has ended meanwhile; what it used is missing
    return used


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)

"""Encryption in front of PostgreSQL, and a proxy that insists on it."""

import asyncio
import datetime
import io
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from optuna.study import StudyDirection

from tests.proxy.running import free_port
from trialfleet.model import errors
from trialfleet.storage import Storage
from trialfleet.storage.records import Budget, EnsureStudy
from trialfleet.wire import certificates
from trialfleet.wire.certificates import Authority

TIMEOUT_S = 60
PASSWORD = "s3cret-password"
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
GSS_REQUEST = struct.pack("!ii", 8, 80877104)


class Server:
    """``trialfleet postgres`` with a certificate for localhost, as a pod runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.password = folder / "password"
        self.password.write_text(PASSWORD)
        self.certificate, self.key, self.ca = folder / "crt", folder / "pem", folder / "ca"
        self.authority = self.issue(b"a")
        self.start()

    def issue(self, seed: bytes) -> Authority:
        now = datetime.datetime.now(datetime.UTC)
        key = certificates.derive_key(seed * 32)
        authority = certificates.make_authority("storage", key, now)
        issued = certificates.issue(authority, ["localhost", "127.0.0.1"], key, now)
        for path, content in (
            (self.certificate, issued.certificate_pem),
            (self.key, issued.key_pem),
            (self.ca, authority.certificate_pem),
        ):
            new = path.with_suffix(".new")
            new.write_bytes(content)
            # As a Secret is mounted: nobody but its owner and the group may read it.
            new.chmod(0o640)
            os.replace(new, path)
        return authority

    def start(self) -> None:
        self.popen = subprocess.Popen(
            [
                *(sys.executable, "-m", "trialfleet.cli.main", "postgres"),
                *("--data", str(self.folder / "data"), "--sockets", str(self.folder / "run")),
                *("--listen", f"127.0.0.1:{self.port}", "--password-file", str(self.password)),
                *("--tls-cert", str(self.certificate), "--tls-key", str(self.key)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                self.connect().close()
                return
            except psycopg2.OperationalError:
                if self.popen.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(self.stop()) from None

    def url(self, **query: str) -> str:
        return sa.URL.create(
            "postgresql+psycopg2",
            username="trialfleet",
            password=PASSWORD,
            host="localhost",
            port=self.port,
            database="trialfleet",
            query=query,
        ).render_as_string(hide_password=False)

    @property
    def verified(self) -> dict[str, str]:
        return {"sslmode": "verify-full", "sslrootcert": str(self.ca)}

    def connect(self, **more: Any) -> Any:
        given: dict[str, Any] = {"host": "localhost", "port": self.port, "user": "trialfleet"}
        given |= {"dbname": "trialfleet", "password": PASSWORD, "connect_timeout": 10}
        given |= self.verified | more
        return psycopg2.connect(**given)

    def shown(self) -> bytes:
        """The certificate that a new connection is shown."""
        with closing(self.raw()) as plain:
            plain.sendall(SSL_REQUEST)
            assert plain.recv(1) == b"S"
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with context.wrap_socket(plain) as encrypted:
                der = encrypted.getpeercert(binary_form=True)
        assert der is not None
        pem = serialization.Encoding.PEM
        return x509.load_der_x509_certificate(der).public_bytes(pem)

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def stop(self) -> str:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        return self.popen.communicate(timeout=TIMEOUT_S)[0].decode()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="tf-", dir="/tmp") as folder:
        (Path(folder) / "run").mkdir(mode=0o777)
        (Path(folder) / "run").chmod(0o777)
        Path(folder).chmod(0o755)
        server = Server(Path(folder))
        yield server
        server.stop()
        assert server.popen.returncode == 0


def ask(connection: Any, statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


def test_a_connection_is_encrypted_and_verified(server: Server) -> None:
    with closing(server.connect()) as connection:
        assert connection.info.ssl_in_use
        assert connection.info.ssl_attribute("protocol") == "TLSv1.3"
        assert ask(connection, "SELECT 1") == 1


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca"])
def test_every_mode_of_a_client(server: Server, mode: str) -> None:
    if mode == "disable":
        with pytest.raises(psycopg2.OperationalError, match="connections have to be encrypted"):
            server.connect(sslmode=mode)
        return
    with closing(server.connect(sslmode=mode)) as connection:
        assert connection.info.ssl_in_use


def test_a_server_of_another_authority_is_not_taken(server: Server, tmp_path: Path) -> None:
    other = tmp_path / "ca"
    now = datetime.datetime.now(datetime.UTC)
    key = certificates.derive_key(b"x" * 32)
    other.write_bytes(certificates.make_authority("storage", key, now).certificate_pem)
    for mode in ("verify-ca", "verify-full"):
        with pytest.raises(psycopg2.OperationalError, match="certificate verify failed"):
            server.connect(sslmode=mode, sslrootcert=str(other))


def test_a_server_of_another_name_is_not_taken(server: Server) -> None:
    with pytest.raises(psycopg2.OperationalError, match="does not match host name"):
        server.connect(host="other.team.svc", hostaddr="127.0.0.1")


@pytest.mark.parametrize(
    ("user", "password"), [("trialfleet", "wrong"), ("postgres", ""), ("postgres", PASSWORD)]
)
def test_encryption_lets_nobody_in_without_the_password(
    server: Server, user: str, password: str
) -> None:
    with pytest.raises(psycopg2.OperationalError, match=r"password authentication|no password"):
        server.connect(user=user, password=password)


def test_the_socket_asks_for_the_password_too(server: Server) -> None:
    for user in ("postgres", "trialfleet"):
        with pytest.raises(psycopg2.OperationalError, match="no password supplied"):
            server.connect(host=str(server.folder / "run"), user=user, password="")


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack("!ii", 16, 196608) + b"user\0me\0",
        # A request of anybody, in the clear, behind the request for encryption.
        SSL_REQUEST + struct.pack("!ii", 16, 196608) + b"user\0me\0",
        b"GET / HTTP/1.1\r\n\r\n",
        GSS_REQUEST + SSL_REQUEST,
    ],
)
def test_what_comes_in_the_clear_gets_an_error(server: Server, sent: bytes) -> None:
    with closing(server.raw()) as plain:
        plain.sendall(sent)
        answer = b""
        while part := plain.recv(1000):
            answer += part
    assert answer.startswith(b"E") and b"C28000\0" in answer
    assert struct.unpack("!i", answer[1:5])[0] == len(answer) - 1


def test_the_other_kind_of_encryption_is_declined(server: Server) -> None:
    with closing(server.raw()) as plain:
        plain.sendall(GSS_REQUEST)
        assert plain.recv(1) == b"N"
        plain.sendall(SSL_REQUEST[:3])
        plain.sendall(SSL_REQUEST[3:])
        assert plain.recv(1) == b"S"


def test_an_old_version_of_tls_is_refused(server: Server) -> None:
    with pytest.raises(psycopg2.OperationalError, match="SSL error"):
        server.connect(ssl_max_protocol_version="TLSv1.1", ssl_min_protocol_version="TLSv1")


def test_large_values_come_through_whole_in_both_directions(server: Server) -> None:
    text = os.urandom(4_000_000).hex()
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT md5(%s), %s", (text, text))
        assert cursor.fetchone()[1] == text


def test_a_client_that_reads_slowly_fills_no_memory(server: Server) -> None:
    """40 MB wait in the server, not beside it."""
    before = _resident(server.popen.pid)
    grown: list[int] = []

    class Slow(io.StringIO):
        def write(self, part: str) -> int:
            if not grown:
                deadline = time.monotonic() + TIMEOUT_S
                while not ask(other, "SELECT count(*) FROM pg_stat_activity WHERE " + waits):
                    assert time.monotonic() < deadline
                grown.append(_resident(server.popen.pid) - before)
            return len(part)

    waits = "wait_event = 'ClientWrite'"
    copy = "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 40000)) TO STDOUT"
    with closing(server.connect()) as other, closing(server.connect()) as connection:
        other.autocommit = True
        with connection.cursor() as cursor:
            cursor.copy_expert(copy, Slow())
            assert cursor.rowcount == 40_000
    assert grown[0] < 10_000_000


def _resident(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_many_connections_at_once(server: Server) -> None:
    def work(number: int) -> int:
        with closing(server.connect()) as connection:
            return sum(ask(connection, f"SELECT {number}") for _ in range(20))

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(work, range(32))) == [20 * number for number in range(32)]
    with closing(server.connect()) as connection:
        # What clients closed, the server has closed too.
        deadline = time.monotonic() + 20
        statement = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        while ask(connection, statement) > 1:
            assert time.monotonic() < deadline


def test_a_new_certificate_is_shown_and_disturbs_nobody(server: Server) -> None:
    with closing(server.connect()) as connection:
        first = server.shown()
        old = server.ca.read_bytes()
        server.issue(b"b")
        assert server.shown() != first
        with closing(server.connect()) as new:
            assert ask(new, "SELECT 1") == 1
        stale = server.folder / "old"
        stale.write_bytes(old)
        with pytest.raises(psycopg2.OperationalError, match="certificate verify failed"):
            server.connect(sslrootcert=str(stale))
        assert ask(connection, "SELECT 2") == 2
        # Half of a pair: the last whole one is shown.
        second = server.shown()
        server.certificate.write_bytes(first)
        assert server.shown() == second
        server.issue(b"b")


def test_a_storage_insists_when_its_url_does(server: Server, tmp_path: Path) -> None:
    async def use(url: str) -> int:
        async with Storage(url) as storage:
            await storage.apply(EnsureStudy("study", [StudyDirection.MINIMIZE], Budget()))
            return len(await storage.studies())

    assert asyncio.run(use(server.url(**server.verified))) == 1
    other = tmp_path / "ca"
    now = datetime.datetime.now(datetime.UTC)
    key = certificates.derive_key(b"x" * 32)
    other.write_bytes(certificates.make_authority("storage", key, now).certificate_pem)
    with pytest.raises(errors.StorageUnavailable, match="certificate verify failed"):
        asyncio.run(use(server.url(sslmode="verify-full", sslrootcert=str(other))))
    with pytest.raises(errors.StorageUnavailable, match="does not exist"):
        asyncio.run(use(server.url(sslmode="verify-full", sslrootcert=str(tmp_path / "none"))))


def test_a_storage_insists_when_the_environment_does(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a proxy's pod, whose URL comes from a Secret that others wrote."""

    async def mode() -> str:
        async with Storage(server.url()) as storage:
            engine = storage._engine
            with engine.connect() as connection:
                info = connection.connection.driver_connection.info  # type: ignore[union-attr]
                return f"{info.ssl_in_use} {info.dsn_parameters['sslmode']}"

    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", str(server.ca))
    assert asyncio.run(mode()) == "True verify-full"
    monkeypatch.setenv("PGSSLROOTCERT", str(tmp_path / "none"))
    with pytest.raises(errors.StorageUnavailable, match="does not exist"):
        asyncio.run(mode())


@pytest.mark.parametrize("broken", ["crt", "pem"])
def test_a_certificate_that_can_not_be_used(tmp_path: Path, broken: str) -> None:
    for name in ("crt", "pem", "password"):
        (tmp_path / name).write_text("nonsense")
    (tmp_path / broken).unlink()
    result = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "trialfleet.cli.main",
                "postgres",
                "--data",
                str(tmp_path / "d"),
            ),
            *("--listen", "127.0.0.1:1", "--password-file", str(tmp_path / "password")),
            *("--tls-cert", str(tmp_path / "crt"), "--tls-key", str(tmp_path / "pem")),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and "No such file" in result.stderr
    assert not (tmp_path / "d").exists()

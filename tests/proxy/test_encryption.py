"""TLS: who is let in, and certificates that change while connections are open."""

import datetime
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import optuna
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from optuna.storages._grpc.auto_generated import api_pb2
from optuna.storages._grpc.auto_generated.api_pb2_grpc import StorageServiceStub

from tests.proxy.running import LOCALHOST, Process, Running, eventually
from tests.proxy.world import KEY, Caller, Side
from trialfleet import names
from trialfleet.model import errors
from trialfleet.wire import certificates, tokens
from trialfleet.wire.certificates import Authority, Issued
from trialfleet.wire.v1 import trialfleet_pb2 as pb
from trialfleet.wire.v1.trialfleet_pb2_grpc import TrialFleetStub

HOST = "digits-proxy.team.svc"


def _authority(seed: bytes) -> Authority:
    now = datetime.datetime.now(datetime.UTC)
    return certificates.make_authority("digits", certificates.derive_key(seed * 32), now)


def _issue(authority: Authority, seed: bytes) -> Issued:
    now = datetime.datetime.now(datetime.UTC)
    return certificates.issue(authority, [HOST], certificates.derive_key(seed * 32), now)


OLD, NEW = _authority(b"o"), _authority(b"n")
CERTIFICATE = _issue(OLD, b"1")


class Mount:
    """A folder as a kubelet mounts a Secret: all files are replaced at once, behind a link."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"

    @property
    def pair(self) -> tuple[Path, Path]:
        return self.certificate, self.key

    def put(self, issued: Issued) -> None:
        self._number += 1
        version = self._folder / f"..{self._number}"
        version.mkdir()
        (version / "tls.crt").write_bytes(issued.certificate_pem)
        (version / "tls.key").write_bytes(issued.key_pem)
        (self._folder / "..new").symlink_to(version.name)
        os.replace(self._folder / "..new", self._folder / "..data")
        for path in self.pair:
            if not path.is_symlink():
                path.symlink_to(f"..data/{path.name}")


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    mount = Mount(tmp_path)
    mount.put(CERTIFICATE)
    return mount


@pytest.fixture
def encrypted(start_proxy: Callable[..., Running], database_url: str, mount: Mount) -> Running:
    return start_proxy(database_url, tls=mount.pair)


@contextmanager
def connect(target: str, authority: Authority = OLD, host: str = HOST) -> Iterator[Any]:
    """A stub over a connection of its own."""
    options = [("grpc.ssl_target_name_override", host), ("grpc.use_local_subchannel_pool", 1)]
    credentials = grpc.ssl_channel_credentials(authority.certificate_pem)
    with grpc.secure_channel(target, credentials, options=options) as channel:
        yield TrialFleetStub(channel)


def listed(stub: Any) -> list[str]:
    reply = stub.ListStudies(pb.ListStudiesRequest(), timeout=20)
    return [study.name for study in reply.studies]


def shown(target: str) -> bytes:
    """The certificate that a new connection is shown."""
    host, _, port = target.rpartition(":")
    pem = ssl.get_server_certificate((host, int(port)), timeout=20)
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(_PEM)


_PEM = serialization.Encoding.PEM


def test_a_client_that_trusts_the_authority(encrypted: Running) -> None:
    with connect(encrypted.target) as stub:
        assert listed(stub) == []


@pytest.mark.parametrize(
    ("authority", "host", "reason"),
    [(NEW, HOST, "CERTIFICATE_VERIFY_FAILED"), (OLD, "other.team.svc", "Hostname Verification")],
)
def test_a_client_that_expects_another_server(
    encrypted: Running, authority: Authority, host: str, reason: str
) -> None:
    with (
        connect(encrypted.target, authority, host) as stub,
        pytest.raises(grpc.RpcError, match=reason),
    ):
        listed(stub)


def test_a_client_that_does_not_encrypt(encrypted: Running) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        listed(encrypted.stub)
    code: Any = caught.value
    assert code.code() == grpc.StatusCode.UNAVAILABLE


def test_an_old_version_of_tls_is_refused(encrypted: Running) -> None:
    context = ssl.create_default_context(cadata=OLD.certificate_pem.decode())
    with pytest.warns(DeprecationWarning):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        pytest.raises(ssl.SSLError),
        socket.create_connection(encrypted.proxy.address, timeout=20) as plain,
    ):
        context.wrap_socket(plain, server_hostname=HOST)


def test_a_new_certificate_disturbs_no_connection(encrypted: Running, mount: Mount) -> None:
    """A new authority even, whose certificate old connections would not take."""
    with connect(encrypted.target) as old:
        caller = Caller(old, None)
        study = caller.EnsureStudy(
            pb.EnsureStudyRequest(
                name="study", directions=[pb.MINIMIZE], budget=pb.Budget(trials=1)
            )
        ).study_id
        side_session = os.urandom(16)
        caller.OpenSession(
            pb.OpenSessionRequest(
                session=side_session, worker="w", study="study", time_to_live_s=60
            )
        )
        write = pb.WriteId(session=side_session, sequence=1)
        opened = caller.Ask(pb.AskRequest(write=write, study_id=study))
        trial = pb.Trial.FromString(opened.trial.trials[0])
        # A call that waits all the while: the only trial runs, and no other may be opened.
        waiting = old.Ask.future(
            pb.AskRequest(
                write=pb.WriteId(session=side_session, sequence=2), study_id=study, wait_ms=10_000
            )
        )
        before = shown(encrypted.target)
        mount.put(_issue(NEW, b"2"))
        eventually(lambda: shown(encrypted.target) != before)
        assert not waiting.done()
        with connect(encrypted.target, NEW) as new:
            assert listed(new) == ["study"]
        with connect(encrypted.target, OLD) as refused, pytest.raises(grpc.RpcError):
            listed(refused)
        assert listed(old) == ["study"]
        told = caller.Tell(
            pb.TellRequest(
                write=pb.WriteId(session=side_session, sequence=3),
                update=pb.TrialUpdate(trial_id=trial.trial_id),
                state=pb.COMPLETE,
                values=[1.0],
            )
        )
        assert not told.fenced
        assert waiting.result(20).ended.reason == names.ENDED_TRIALS


def test_a_pair_that_does_not_match_is_not_taken(
    encrypted: Running, mount: Mount, caplog: pytest.LogCaptureFixture
) -> None:
    first = shown(encrypted.target)
    other = _issue(OLD, b"2")
    mount.put(Issued(other.certificate_pem, CERTIFICATE.key_pem))

    def refused() -> bool:
        assert shown(encrypted.target) == first
        return "files unusable" in caplog.text

    eventually(refused)
    assert shown(encrypted.target) == first
    mount.put(other)
    eventually(lambda: shown(encrypted.target) == other.certificate_pem)


def test_connections_are_made_while_certificates_change(encrypted: Running, mount: Mount) -> None:
    stopping = threading.Event()
    failures: list[BaseException] = []

    def call() -> None:
        while not stopping.is_set():
            try:
                with connect(encrypted.target) as stub:
                    listed(stub)
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    seen = set()
    for seed in (b"2", b"3", b"4"):
        issued = _issue(OLD, seed)
        mount.put(issued)
        eventually(lambda issued=issued: shown(encrypted.target) == issued.certificate_pem)  # type: ignore[misc]
        seen.add(issued.certificate_pem)
    stopping.set()
    for thread in threads:
        thread.join()
    assert failures == [] and len(seen) == 3


def test_tokens_and_encryption_together(
    start_proxy: Callable[..., Running], database_url: str, mount: Mount, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    running = start_proxy(database_url, tls=mount.pair, token_key=key)
    with connect(running.target) as stub:
        mine, other = Side(stub), Side(stub)
        assert mine.caller.Summary(pb.SummaryRequest(study_id=mine.study_id)).counts.running == 1
        with pytest.raises(grpc.RpcError, match="PERMISSION_DENIED"):
            mine.caller.Summary(pb.SummaryRequest(study_id=other.study_id))
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            listed(stub)


def test_stock_clients_have_a_port_of_their_own(
    start_proxy: Callable[..., Running], database_url: str, mount: Mount, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    running = start_proxy(
        database_url, tls=mount.pair, token_key=key, plaintext=LOCALHOST, health=LOCALHOST
    )
    address = running.proxy.plaintext_address
    assert address is not None
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        storage = optuna.storages.GrpcStorageProxy(host=address.host, port=address.port)
    study = optuna.create_study(storage=storage, study_name="stock")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    assert len(study.trials) == 2
    storage.close()
    with grpc.insecure_channel(str(address)) as channel:
        stub: Any = TrialFleetStub(channel)
        # Nothing of ours, whatever is shown.
        with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
            Caller(stub, tokens.for_admin(KEY)).ListStudies(pb.ListStudiesRequest())
        assert _serving(channel)
    with connect(running.target) as stub:
        admin = Caller(stub, tokens.for_admin(KEY))
        (found,) = admin.ListStudies(pb.ListStudiesRequest()).studies
        assert found.name == "stock"
        summary = admin.Summary(pb.SummaryRequest(study_id=found.study_id))
        assert summary.counts.complete == 2


def test_health_has_a_port_of_its_own(
    start_proxy: Callable[..., Running], database_url: str, mount: Mount
) -> None:
    running = start_proxy(database_url, tls=mount.pair, health=LOCALHOST)
    with grpc.insecure_channel(str(running.proxy.health_address)) as channel:
        assert _serving(channel)
        stub: Any = TrialFleetStub(channel)
        with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
            listed(stub)
        stock: Any = StorageServiceStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
            stock.GetAllStudies(api_pb2.GetAllStudiesRequest(), timeout=20)


def _serving(channel: grpc.Channel) -> bool:
    health: Any = HealthStub(channel)
    status = health.Check(health_pb2.HealthCheckRequest(), timeout=20).status
    return bool(status == health_pb2.HealthCheckResponse.SERVING)


def test_the_command_line(
    start_process: Callable[..., Process], database_url: str, mount: Mount, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    process = start_process(
        *("--storage", database_url, "--listen", "127.0.0.1:0"),
        *("--tls-cert", str(mount.certificate), "--tls-key", str(mount.key)),
        *("--token-key", str(key), "--plaintext-listen", "127.0.0.1:0"),
        *("--health-listen", "127.0.0.1:0", "--log-format", "json"),
    )
    with connect(process.listening()) as stub:
        assert Caller(stub, tokens.for_admin(KEY)).ListStudies(pb.ListStudiesRequest()) is not None
    process.popen.terminate()
    code, _, log = process.result()
    assert code == 0
    assert KEY not in log and "tfa." not in log


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tls-cert", "{crt}"), "tls-cert: accepted: together with tls-key, or neither"),
        (("--tls-key", "{key}"), "tls-cert: accepted: together with tls-key, or neither"),
        (
            ("--tls-cert", "{crt}", "--tls-key", "{none}"),
            "tls-cert, tls-key: {none}: No such file or directory",
        ),
        (
            ("--tls-cert", "{key}", "--tls-key", "{key}"),
            "tls-cert, tls-key: found no certificate, accepted: one in PEM, its chain after it",
        ),
        (
            ("--tls-cert", "{crt}", "--tls-key", "{crt}"),
            "tls-cert, tls-key: found no private key, accepted: one in PEM that is not encrypted",
        ),
        (
            ("--tls-cert", "{crt}", "--tls-key", "{other}"),
            "tls-cert, tls-key: found a key that is not the certificate's, accepted: the pair",
        ),
        (
            ("--token-key", "{short}"),
            "token-key: found a key of 5 characters, accepted: at least 32, random",
        ),
        (("--token-key", "{none}"), "token-key: {none}: No such file or directory"),
        (
            ("--plaintext-listen", "x"),
            "plaintext-listen: found 'x', accepted: HOST:PORT, port 0 to 65535",
        ),
        (
            ("--health-listen", ":1"),
            "health-listen: found ':1', accepted: HOST:PORT, port 0 to 65535",
        ),
    ],
)
def test_options_that_can_not_be_used(
    start_process: Callable[..., Process],
    mount: Mount,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    files = {name: str(tmp_path / name) for name in ("none", "short", "other")}
    files |= {"crt": str(mount.certificate), "key": str(mount.key)}
    Path(files["short"]).write_text("short")
    Path(files["other"]).write_bytes(_issue(OLD, b"2").key_pem)
    process = start_process(
        *("--storage", "postgresql+psycopg2://user@127.0.0.1:1/x", "--listen", "127.0.0.1:0"),
        *(argument.format(**files) for argument in arguments),
    )
    code, out, err = process.result()
    assert (code, out) == (errors.EXIT_INVALID, "")
    assert err == message.format(**files) + "\n"


def test_ports_that_are_taken(start_process: Callable[..., Process], proxy: Running) -> None:
    for option in ("plaintext-listen", "health-listen"):
        process = start_process(
            *("--storage", "postgresql+psycopg2://user@127.0.0.1:1/x"),
            *("--listen", "127.0.0.1:0", f"--{option}", proxy.target),
        )
        code, _, err = process.result()
        assert code == errors.EXIT_INVALID
        assert err.startswith(f"{option}: {proxy.target} can't be bound (Address already in use)")

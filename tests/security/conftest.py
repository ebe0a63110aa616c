"""A proxy as a cluster runs it, for those who attack it."""

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.proxy.conftest import start_process as start_process
from tests.proxy.running import Process
from tests.security.doors import HOST, Doors
from trialfleet.wire import certificates
from trialfleet.wire.tokens import read_keys


@pytest.fixture
def doors(
    start_process: Callable[..., Process], database_url: str, tmp_path: Path
) -> Iterator[Doors]:
    """A process with TLS, tokens, a port for health checks and one for stock Optuna clients."""
    now = datetime.datetime.now(datetime.UTC)
    authority = certificates.make_authority("doors", certificates.derive_key(b"a" * 32), now)
    issued = certificates.issue(authority, [HOST], certificates.derive_key(b"i" * 32), now)
    key = "k" * 32
    assert read_keys(key) == [key]
    for name, content in {
        "tls.crt": issued.certificate_pem,
        "tls.key": issued.key_pem,
        "token.key": key.encode(),
    }.items():
        (tmp_path / name).write_bytes(content)
    process = start_process(
        f"--storage={database_url}",
        "--listen=127.0.0.1:0",
        "--health-listen=127.0.0.1:0",
        "--plaintext-listen=127.0.0.1:0",
        f"--tls-cert={tmp_path / 'tls.crt'}",
        f"--tls-key={tmp_path / 'tls.key'}",
        f"--token-key={tmp_path / 'token.key'}",
    )
    target = process.listening()
    with Doors(process, target, authority.certificate_pem, key) as opened:
        yield opened

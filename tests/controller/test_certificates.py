"""Certificates that strangers' TLS libraries accept, and refuse when they should."""

import asyncio
import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from tests.controller.observations import KEYS
from trialfleet.controller.build import access, certificates
from trialfleet.controller.build.certificates import RENEWED, Certificate, make_authority
from trialfleet.controller.secrecy import Keys

NOW = datetime.datetime.now(datetime.UTC)
STORAGE = access.Storage("s", "ns", NOW)
HOSTS = access.host_names("s-proxy", "ns")


def server(authority: Certificate, begin: datetime.datetime = NOW) -> Certificate:
    return certificates.make_server(authority, KEYS.derive("proxy", "ns", "s"), HOSTS, begin)


def handshake(shown: Certificate, trusted: str, host: str, folder: Path) -> None:
    """Raise what a client raises that trusts an authority and calls a host."""
    for name, text in (("crt", shown.certificate), ("key", shown.key)):
        (folder / name).write_text(text)

    async def run() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "crt", folder / "key")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"!")
            await writer.drain()
            writer.close()

        listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        async with listening:
            port = listening.sockets[0].getsockname()[1]
            client = ssl.create_default_context(cadata=trusted)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=client, server_hostname=host
            )
            assert await reader.read() == b"!"
            writer.close()
            await writer.wait_closed()

    asyncio.run(run())


@pytest.mark.parametrize("host", HOSTS)
def test_a_server_is_known_by_its_names(host: str, tmp_path: Path) -> None:
    authority = access.authority(KEYS, STORAGE)
    handshake(server(authority), authority.certificate, host, tmp_path)


def test_an_authority_that_was_made_again_is_the_same(tmp_path: Path) -> None:
    first = access.authority(KEYS, STORAGE)
    again = access.authority(KEYS, STORAGE)
    assert first.key == again.key
    handshake(server(first), again.certificate, HOSTS[0], tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_another_name_or_authority_is_refused(tmp_path: Path) -> None:
    authority = access.authority(KEYS, STORAGE)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(server(authority), authority.certificate, "other.ns.svc", tmp_path)
    other = access.authority(Keys(b"1" * 32), STORAGE)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server(authority), other.certificate, HOSTS[0], tmp_path)


@pytest.mark.parametrize(("days", "number"), [(-3, 0), (0, 0), (364, 0), (365, 1), (800, 2)])
def test_periods(days: int, number: int) -> None:
    assert certificates.period(NOW, NOW + datetime.timedelta(days=days)) == number


def test_a_certificate_outlives_its_period() -> None:
    made = x509.load_pem_x509_certificate(
        server(access.authority(KEYS, STORAGE)).certificate.encode()
    )
    assert made.not_valid_before_utc < NOW
    assert made.not_valid_after_utc > NOW + RENEWED + datetime.timedelta(days=300)


def test_keys_are_derived_from_all_of_the_secret() -> None:
    keys = {make_authority(bytes([n]) * 32, "x", NOW).key for n in (0, 1, 255)}
    assert len(keys) == 3

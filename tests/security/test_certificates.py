"""Certificates that OpenSSL takes, made again the same, and renewed in time."""

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from trialfleet.wire import certificates
from trialfleet.wire.certificates import AUTHORITY_PERIOD, SERVER_PERIOD, Authority, Issued

NOW = datetime.datetime.now(datetime.UTC)
SEED, OTHER = b"s" * 32, b"o" * 32
HOSTS = [*certificates.service_hosts("digits-proxy", "team"), "localhost", "127.0.0.1"]

authority = certificates.make_authority("digits", certificates.derive_key(OTHER), NOW)


def _issue(now: datetime.datetime = NOW, *hosts: str) -> Issued:
    return certificates.issue(authority, hosts or HOSTS, certificates.derive_key(SEED), now)


def _handshake(issued: Issued, trusted: Authority, host: str, folder: Path) -> None:
    """Shake hands as OpenSSL does, strictly after RFC 5280."""
    (folder / "certificate").write_bytes(issued.certificate_pem)
    (folder / "key").write_bytes(issued.key_pem)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "certificate", folder / "key")
    calling = ssl.create_default_context(cadata=trusted.certificate_pem.decode())
    calling.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(up, down, server_side=True)
    client = calling.wrap_bio(down, up, server_hostname=host)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert client.version() == "TLSv1.3"


@pytest.mark.parametrize("host", HOSTS)
def test_a_server_is_taken_by_each_of_its_names(host: str, tmp_path: Path) -> None:
    _handshake(_issue(), authority, host, tmp_path)


def test_a_server_of_another_name_is_not(tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        _handshake(_issue(), authority, "other-proxy.team.svc", tmp_path)


def test_a_server_of_another_authority_is_not(tmp_path: Path) -> None:
    # The same name: only the key tells them apart.
    other = certificates.make_authority("digits", certificates.derive_key(b"x" * 32), NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        _handshake(_issue(), other, HOSTS[0], tmp_path)


def test_an_expired_server_is_not(tmp_path: Path) -> None:
    expired = _issue(NOW - 3 * SERVER_PERIOD)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        _handshake(expired, authority, HOSTS[0], tmp_path)


def test_a_server_can_not_make_certificates(tmp_path: Path) -> None:
    issued = _issue()
    false = Authority(issued.certificate_pem, certificates.derive_key(SEED))
    forged = certificates.issue(false, HOSTS, certificates.derive_key(b"x" * 32), NOW)
    chained = Issued(forged.certificate_pem + issued.certificate_pem, forged.key_pem)
    with pytest.raises(ssl.SSLCertVerificationError, match="invalid CA certificate"):
        _handshake(chained, authority, HOSTS[0], tmp_path)


def test_an_authority_that_was_replaced_confirms_what_it_signed(tmp_path: Path) -> None:
    key = certificates.derive_key(OTHER)
    earlier = certificates.make_authority("digits", key, NOW - AUTHORITY_PERIOD)
    assert earlier.certificate_pem != authority.certificate_pem
    _handshake(_issue(), earlier, HOSTS[0], tmp_path)


def test_the_same_arguments_give_the_same_bytes() -> None:
    again = certificates.make_authority("digits", certificates.derive_key(OTHER), NOW)
    assert again.certificate_pem == authority.certificate_pem
    assert _issue() == _issue()


def test_another_argument_gives_another_serial_number() -> None:
    key = certificates.derive_key(SEED)
    made = [
        _issue(),
        _issue(NOW + SERVER_PERIOD),
        _issue(NOW, "other"),
        certificates.issue(authority, HOSTS, certificates.derive_key(b"x" * 32), NOW),
    ]
    serials = {x509.load_pem_x509_certificate(one.certificate_pem).serial_number for one in made}
    assert len(serials) == len(made)
    assert all(0 < serial < 2**159 for serial in serials)
    assert isinstance(key.curve, ec.SECP256R1)


def test_a_certificate_is_replaced_when_it_is_due() -> None:
    begin = NOW
    issued = _issue(begin)
    for days in range(2 * SERVER_PERIOD.days):
        now = begin + datetime.timedelta(days=days)
        due = certificates.needs_renewal(issued.certificate_pem, now)
        assert due == (_issue(now) != issued)
        if due:
            left = x509.load_pem_x509_certificate(issued.certificate_pem).not_valid_after_utc - now
            assert left > SERVER_PERIOD - datetime.timedelta(days=1)
            return
    raise AssertionError("never due")


def test_an_authority_outlives_what_it_signs() -> None:
    end = x509.load_pem_x509_certificate(authority.certificate_pem).not_valid_after_utc
    assert end - NOW >= AUTHORITY_PERIOD
    assert not certificates.needs_renewal(authority.certificate_pem, NOW)
    assert certificates.needs_renewal(authority.certificate_pem, NOW + AUTHORITY_PERIOD)


def test_a_certificate_from_the_future_is_replaced() -> None:
    issued = _issue(NOW + 2 * SERVER_PERIOD)
    assert certificates.needs_renewal(issued.certificate_pem, NOW)


def test_it_is_valid_for_a_clock_that_is_late() -> None:
    certificate = x509.load_pem_x509_certificate(_issue().certificate_pem)
    assert certificate.not_valid_before_utc <= NOW - datetime.timedelta(days=1)


def test_arguments_that_can_not_be_used() -> None:
    with pytest.raises(ValueError, match="found a seed of 31 bytes, accepted: at least 32"):
        certificates.derive_key(b"s" * 31)
    with pytest.raises(ValueError, match="found no hosts"):
        certificates.issue(authority, [], certificates.derive_key(SEED), NOW)
    with pytest.raises(ValueError, match="DNSName"):
        _issue(NOW, "größe")

"""A certificate authority of a storage's own, and the certificates of its servers.

Pure functions: the time is an argument, and the same arguments give the same bytes. Keys are
derived from a secret, signatures are deterministic (RFC 6979), serial numbers are hashes, and times
are rounded to periods. So who has the secret makes the same certificate again, and need not keep
it or read it back; it changes when its period is over, long before it expires.
"""

import datetime
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey

_CURVE: Final = ec.SECP256R1()
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the curve P-256: a private key is less (FIPS 186-5, appendix A.2.1)."""

SEED_BYTES: Final = 32
"""A seed of a key has at least as many."""

SERVER_PERIOD: Final = datetime.timedelta(days=365)
"""A server's certificate is replaced so often, and valid twice as long."""

AUTHORITY_PERIOD: Final = datetime.timedelta(days=3650)
"""An authority's certificate is replaced so often, and valid twice as long. Its key stays, so that
both certificates confirm those of the servers."""

_PERIODS: Final = 2
_SKEW: Final = datetime.timedelta(days=1)
"""A clock that is late must not find a certificate not valid yet."""

_EPOCH: Final = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_COMMON_NAME: Final = 64
"""Longest common name (RFC 5280, ub-common-name)."""


@dataclass(frozen=True, slots=True)
class Authority:
    """Who signs the certificates of a storage's servers."""

    certificate_pem: bytes
    """For clients: the only authority that they trust."""
    key: Key


@dataclass(frozen=True, slots=True)
class Issued:
    """What a server shows, and what proves that it may."""

    certificate_pem: bytes
    key_pem: bytes


def derive_key(seed: bytes) -> Key:
    """Return the P-256 key of a secret of at least 32 bytes. Raises ``ValueError``."""
    if len(seed) < SEED_BYTES:
        raise ValueError(f"found a seed of {len(seed)} bytes, accepted: at least {SEED_BYTES}")
    # Twice as many bits as the order has: the remainder is as good as uniform.
    number = int.from_bytes(hashlib.sha512(b"trialfleet P-256\0" + seed).digest(), "big")
    return ec.derive_private_key(1 + number % (_ORDER - 1), _CURVE)


def make_authority(name: str, key: Key, now: datetime.datetime) -> Authority:
    """Return the authority of a name, such as a storage's, with a key of its own."""
    subject = _subject(name)
    begin, end = _validity(key, AUTHORITY_PERIOD, now)
    builder = (
        _begin(subject, subject, key, begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return Authority(_sign(builder, key), key)


def issue(authority: Authority, hosts: Sequence[str], key: Key, now: datetime.datetime) -> Issued:
    """Return the certificate of a server that is reached by these names or addresses.

    ``key`` is the server's. Raises ``ValueError`` if there is no host, or one that is no name.
    """
    if not hosts:
        raise ValueError("found no hosts, accepted: one or more names or addresses")
    issuer = x509.load_pem_x509_certificate(authority.certificate_pem).subject
    begin, end = _validity(key, SERVER_PERIOD, now)
    public = authority.key.public_key()
    builder = (
        _begin(_subject(hosts[0]), issuer, key, begin, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
    )
    certificate_pem = _sign(builder, authority.key)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Issued(certificate_pem, key_pem)


def needs_renewal(certificate_pem: bytes, now: datetime.datetime) -> bool:
    """Return whether a certificate of this module should be replaced: a period of it is over.

    Half of its life is left then: who brings it to its server may be away for as long.
    """
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    begin = certificate.not_valid_before_utc + _SKEW
    period = (certificate.not_valid_after_utc - begin) / _PERIODS
    return not begin <= now < begin + period


def service_hosts(service: str, namespace: str) -> list[str]:
    """Return the names by which a Service of a cluster is reached."""
    return [
        service,
        f"{service}.{namespace}",
        f"{service}.{namespace}.svc",
        f"{service}.{namespace}.svc.cluster.local",
    ]


def _validity(
    key: Key, period: datetime.timedelta, now: datetime.datetime
) -> tuple[datetime.datetime, datetime.datetime]:
    # Each key has periods of its own, so that not all servers change theirs in one second.
    shift = int.from_bytes(_identifier(key)[:8], "big") % int(period.total_seconds())
    first = _EPOCH + datetime.timedelta(seconds=shift)
    begin = first + period * ((now - first) // period)
    return begin, begin + _PERIODS * period


def _begin(
    subject: x509.Name,
    issuer: x509.Name,
    key: Key,
    begin: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .not_valid_before(begin - _SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _sign(builder: x509.CertificateBuilder, key: Key) -> bytes:
    # Two certificates of an authority never share a number unless they are the same.
    draft = builder.serial_number(1).sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    number = hashlib.sha256(draft.tbs_certificate_bytes).digest()[:20]
    serial = int.from_bytes(number, "big") >> 1 or 1
    signed = builder.serial_number(serial).sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    return signed.public_bytes(serialization.Encoding.PEM)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_COMMON_NAME])])


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _identifier(key: Key) -> bytes:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

"""Certificates: an authority for each storage, and the certificates that it signs.

The authority's key is derived, so it is kept nowhere, and an authority that is made again is the
same to whom trusts it. Times are arguments; only the signatures differ from one making to the next.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CURVE: Final = ec.SECP256R1()
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the curve: private keys are below it."""

RENEWED: Final = datetime.timedelta(days=365)
"""How long a server's certificate is used."""
_SPARE: Final = datetime.timedelta(days=365)
"""How much longer it is valid."""
_AUTHORITY: Final = datetime.timedelta(days=365 * 30)
_SKEW: Final = datetime.timedelta(days=1)
"""Of the clocks of a cluster's nodes, with a margin."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its private key, in PEM."""

    certificate: str
    key: str


def make_authority(secret: bytes, name: str, created: datetime.datetime) -> Certificate:
    """Return the authority whose key is derived from 32 secret bytes."""
    key = private_key(secret)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    builder = (
        _builder(key.public_key(), subject, subject)
        .not_valid_before(created - _SKEW)
        .not_valid_after(created + _AUTHORITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
    )
    return Certificate(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def make_server(
    authority: Certificate, secret: bytes, hosts: Sequence[str], begin: datetime.datetime
) -> Certificate:
    """Return the certificate of a server that is called by any of the hosts' names."""
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    issuer_key = serialization.load_pem_private_key(authority.key.encode(), None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    key = private_key(secret)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    builder = (
        _builder(key.public_key(), subject, issuer.subject)
        .not_valid_before(begin - _SKEW)
        .not_valid_after(begin + RENEWED + _SPARE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    return Certificate(_pem(builder.sign(issuer_key, hashes.SHA256())), _key_pem(key))


def private_key(secret: bytes) -> ec.EllipticCurvePrivateKey:
    """Return the private key that 32 secret bytes stand for."""
    return ec.derive_private_key(int.from_bytes(secret) % (_ORDER - 1) + 1, _CURVE)


def period(created: datetime.datetime, now: datetime.datetime) -> int:
    """Return the number of the period, from 0, in which a server's certificate is used."""
    return max(0, (now - created) // RENEWED)


def _builder(
    public_key: ec.EllipticCurvePublicKey, subject: x509.Name, issuer: x509.Name
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()

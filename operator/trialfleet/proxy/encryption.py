"""The certificate with which a proxy encrypts: it may change while connections are open."""

import ssl
import threading
from pathlib import Path
from typing import Any, Final

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from trialfleet.model.errors import InvalidInput
from trialfleet.proxy.reloading import Reloaded

_OPTION: Final = "tls-cert, tls-key"


def server_credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """Return credentials that show, to each new connection, what the two PEM files hold then.

    Connections that are open are not disturbed. Raises
    :class:`~trialfleet.model.errors.InvalidInput` for files that can't be used.
    """

    def parse(certificate_pem: bytes, key_pem: bytes) -> grpc.ServerCertificateConfiguration:
        _check(certificate_pem, key_pem)
        try:
            # OpenSSL refuses here what gRPC would refuse in each handshake.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        except ssl.SSLError as error:
            raise InvalidInput(f"found a pair that can't be used: {error.reason}") from error
        return grpc.ssl_server_certificate_configuration([(key_pem, certificate_pem)])

    files = Reloaded(_OPTION, (certificate, key), parse)
    used = files.get()
    using = threading.Lock()

    def changed() -> Any:
        # gRPC asks as each handshake begins, and takes another configuration while others shake
        # hands: with one for each of them it breaks the process within seconds.
        nonlocal used
        with using:
            found = files.get()
            if found is used:
                return None
            used = found
            return found

    return grpc.dynamic_ssl_server_credentials(used, changed)


def _check(certificate_pem: bytes, key_pem: bytes) -> None:
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError as error:
        raise InvalidInput("found no certificate, accepted: one in PEM, its chain after it") from (
            error
        )
    try:
        key = serialization.load_pem_private_key(key_pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput(
            "found no private key, accepted: one in PEM that is not encrypted"
        ) from error
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if certificate.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
        # Also for a moment, when one of two files was replaced and the other not yet.
        raise InvalidInput("found a key that is not the certificate's, accepted: the pair")

"""The certificate with which a proxy encrypts: it may change while connections are open."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from trialfleet.errors import InvalidInput
from trialfleet.proxy.reloading import Reloaded

_OPTION: Final = "tls-cert, tls-key"


def server_credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """Return credentials that show, to each new connection, what the two PEM files hold then.

    Connections that are open are not disturbed. Raises
    :class:`~trialfleet.errors.InvalidInput` for files that can't be used.
    """
    files = Reloaded(_OPTION, (certificate, key), _parse)
    shown = files.get()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        found = files.get()
        if found is shown:
            return None
        shown = found
        return found

    # The types lack what the documentation says: None stands for no change.
    fetched = cast("Callable[[], grpc.ServerCertificateConfiguration]", fetch)
    return grpc.dynamic_ssl_server_credentials(shown, fetched)


def _parse(certificate_pem: bytes, key_pem: bytes) -> grpc.ServerCertificateConfiguration:
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
    return grpc.ssl_server_certificate_configuration([(key_pem, certificate_pem)])

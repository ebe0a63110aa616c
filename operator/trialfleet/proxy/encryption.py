"""The certificate with which a proxy encrypts: it may change while connections are open."""

import ssl
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from trialfleet.model.errors import InvalidInput
from trialfleet.proxy.reloading import Reloaded

_OPTION: Final = "tls-cert, tls-key"


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a context that shows, to each new connection, what the two PEM files hold then.

    Connections that are open are not disturbed. Raises
    :class:`~trialfleet.model.errors.InvalidInput` for files that can't be used.
    """

    def parse(certificate_pem: bytes, key_pem: bytes) -> ssl.SSLContext:
        _check(certificate_pem, key_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["h2"])
        try:
            context.load_cert_chain(certificate, key)
        except ssl.SSLError as error:
            raise InvalidInput(f"found a pair that can't be used: {error.reason}") from error
        return context

    files = Reloaded(_OPTION, (certificate, key), parse)

    def choose(connection: Any, name: str | None, context: ssl.SSLContext) -> None:
        # Called as a handshake begins, whether the client names a server or not.
        connection.context = files.get()

    first = files.get()
    first.sni_callback = choose
    return first


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

"""What a client shows to proxies, and by what it knows them."""

import logging
import os
from pathlib import Path
from typing import Final

import grpc

from trialfleet.model.errors import InvalidInput
from trialfleet.wire import tokens

logger = logging.getLogger(__name__)

Metadata = tuple[tuple[str, str], ...]

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"


class Credentials:
    """A token, and the authorities to trust."""

    def __init__(
        self, *, token: str | None = None, authorities: bytes | None = None, server_name: str = ""
    ) -> None:
        """Take what there is; without authorities calls are not encrypted.

        ``server_name`` is expected in the proxies' certificates; empty: the endpoint's host.
        """
        self.metadata: Metadata | None = None if token is None else (tokens.metadata(token),)
        """What every call carries."""
        self.authorities = authorities
        """Certificates in PEM; None: calls are not encrypted."""
        self.server_name = server_name

    def read_again(self) -> bool:
        """Read again what may have changed; return whether it has."""
        return False

    def channel(self, address: str, options: tuple[tuple[str, object], ...]) -> grpc.aio.Channel:
        """Return a channel to ``host:port``."""
        if self.authorities is None:
            return grpc.aio.insecure_channel(address, options=options)
        if self.server_name:
            options = (*options, ("grpc.ssl_target_name_override", self.server_name))
        credentials = grpc.ssl_channel_credentials(self.authorities)
        return grpc.aio.secure_channel(address, credentials, options=options)


class CredentialFiles(Credentials):
    """A token and the authorities to trust, each in a file that may be replaced."""

    def __init__(self, token_file: str, ca_file: str, server_name: str) -> None:
        """Take paths, empty for none.

        Raises :class:`~trialfleet.model.errors.InvalidInput` for files that can't be used.
        """
        super().__init__(server_name=server_name)
        self._token_file = token_file
        self._ca_file = ca_file
        self._read()

    def read_again(self) -> bool:
        """Read the files again; return whether either has changed.

        Files that are unusable just now are left for the next time.
        """
        before = self.metadata, self.authorities
        try:
            self._read()
        except InvalidInput as error:
            logger.warning("going on with what was read before: %s", error)
        return (self.metadata, self.authorities) != before

    def _read(self) -> None:
        if self._token_file:
            token = _content("token_file", self._token_file).decode(errors="replace")
            token = token.strip()
            if not (token and token.isascii() and token.isprintable() and " " not in token):
                raise InvalidInput(f"token_file: {self._token_file}: accepted: one token")
            self.metadata = (tokens.metadata(token),)
        if self._ca_file:
            authorities = _content("ca_file", self._ca_file)
            if _BEGIN not in authorities:
                raise InvalidInput(f"ca_file: {self._ca_file}: accepted: certificates in PEM")
            self.authorities = authorities


def from_environment(given: str | os.PathLike[str] | None, variable: str) -> str:
    """Return the path that was given, or that of an environment variable; empty if there is none.

    An empty path stands for none, whatever the variable says.
    """
    return os.environ.get(variable, "") if given is None else os.fspath(given)


def _content(option: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidInput(f"{option}: {path}: {error.strerror}") from error

"""What a client shows to proxies, and by what it knows them."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import grpc

from trialfleet.client.target import Target
from trialfleet.model.errors import InvalidInput
from trialfleet.wire import tokens

logger = logging.getLogger(__name__)

Metadata = tuple[tuple[str, str], ...]

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"


class Credentials:
    """A token and the authorities to trust, each in a file that may be replaced. Thread-safe."""

    def __init__(self, token_file: str, ca_file: str, server_name: str) -> None:
        """Take paths, empty for none, and the name to expect in certificates, empty for the host's.

        Raises :class:`~trialfleet.model.errors.InvalidInput` for files that can't be used.
        """
        self._token_file = token_file
        self._ca_file = ca_file
        self._server_name = server_name
        self.metadata: Metadata | None = None
        """What every call carries."""
        self.authorities: bytes | None = None
        """The authorities' certificates; None: calls are not encrypted."""
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

    def connect(self, address: str, options: Sequence[tuple[str, Any]]) -> grpc.Channel:
        """Return a channel to ``host:port``."""
        if self.authorities is None:
            return grpc.insecure_channel(address, options=options)
        if self._server_name:
            options = (*options, ("grpc.ssl_target_name_override", self._server_name))
        credentials = grpc.ssl_channel_credentials(self.authorities)
        return grpc.secure_channel(address, credentials, options=options)

    def target(self, address: str) -> Target:
        """Return where streams to ``host:port`` lead."""
        host, _, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        name = self._server_name
        return Target(host, int(port), name or address, self.authorities, name or host)

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

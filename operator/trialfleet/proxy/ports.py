"""Addresses, and how a server is bound to one."""

import errno
import socket
from typing import NamedTuple, Self

import grpc

from trialfleet.errors import InvalidInput


class Address(NamedTuple):
    """Where to listen; port 0 lets the system choose one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, option: str) -> Self:
        """Return the address of ``HOST:PORT``, or ``[HOST]:PORT`` for IPv6.

        Raises :class:`~trialfleet.errors.InvalidInput`, naming the option.
        """
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):
            raise InvalidInput(f"{option}: found {text!r}, accepted: HOST:PORT, port 0 to 65535")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def bind(
    server: grpc.aio.Server,
    address: Address,
    option: str,
    credentials: grpc.ServerCredentials | None = None,
) -> Address:
    """Let a server listen, encrypted if credentials are given; return where it does.

    Raises :class:`~trialfleet.errors.InvalidInput`, naming the option.
    """
    refused = f"{option}: {address} can't be bound ({{}}), accepted: a free port, or port 0"
    try:
        _probe(address)
    except OSError as error:
        raise InvalidInput(refused.format(error.strerror)) from error
    try:
        if credentials is None:
            port = server.add_insecure_port(str(address))
        else:
            port = server.add_secure_port(str(address), credentials)
    except RuntimeError as error:
        raise InvalidInput(refused.format(error)) from error
    return Address(address.host, port)


def _probe(address: Address) -> None:
    """Raise ``OSError`` if an address can't be bound.

    gRPC would write lines of its own and not say why.
    """
    failed: OSError | None = None
    bound = 0
    for family, kind, protocol, _, place in socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM
    ):
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
                bound += 1
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
            # A name may have addresses that this machine lacks, such as ::1.
            failed = error
    if failed is not None and not bound:
        raise failed

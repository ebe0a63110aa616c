"""Addresses, and servers that listen on them."""

import errno
import os
import socket
from pathlib import Path
from typing import NamedTuple, Self

import grpc

from trialfleet.model.errors import InvalidInput

_SOCKET = "unix:/"


class Address(NamedTuple):
    """Where to listen; port 0 lets the system choose one.

    A Unix socket is a host ``unix:/PATH`` without a port: who may use it is a matter of its folder.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, option: str) -> Self:
        """Return the address of ``HOST:PORT``, ``[HOST]:PORT`` for IPv6, or ``unix:/PATH``.

        Raises :class:`~trialfleet.model.errors.InvalidInput`, naming the option.
        """
        if text.startswith(_SOCKET):
            return cls(text, 0)
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):
            raise InvalidInput(f"{option}: found {text!r}, accepted: HOST:PORT, port 0 to 65535")
        return cls(host, int(port))

    @property
    def socket(self) -> Path | None:
        """Path of the Unix socket, if it is one."""
        return Path(self.host.removeprefix("unix:")) if self.host.startswith(_SOCKET) else None

    def __str__(self) -> str:
        if self.socket is not None:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_EVERYWHERE = frozenset({"0.0.0.0", "::"})


def listen(
    server: grpc.aio.Server,
    address: Address,
    option: str,
    credentials: grpc.ServerCredentials | None = None,
) -> Address:
    """Let a server listen on an address; return it with the port that was chosen.

    Where all of the machine's addresses are meant, they are those of IPv6 too. Raises
    :class:`~trialfleet.model.errors.InvalidInput`, naming the option.
    """
    if address.socket is not None:
        # Of a server that was killed: another one can't listen there.
        address.socket.unlink(missing_ok=True)
        server.add_insecure_port(str(address))
        return address
    # gRPC says of a port that it can't bind not why, and is content with one address of several.
    _check(address, option)
    everywhere = address.host in _EVERYWHERE and socket.has_dualstack_ipv6()
    target = str(Address("::" if everywhere else address.host, address.port))
    try:
        if credentials is None:
            port = server.add_insecure_port(target)
        else:
            port = server.add_secure_port(target, credentials)
    except RuntimeError as error:
        raise _refusal(address, option, str(error)) from error
    return Address(address.host, port)


def _check(address: Address, option: str) -> None:
    bound: list[socket.socket] = []
    try:
        _bind(address, bound)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise _refusal(address, option, why or str(error)) from error
    finally:
        for one in bound:
            one.close()


def _refusal(address: Address, option: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"{option}: {address} can't be bound ({why}), accepted: a free port, or port 0"
    )


def _bind(address: Address, bound: list[socket.socket]) -> None:
    port = address.port
    if address.host in _EVERYWHERE and socket.has_dualstack_ipv6():
        one = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        bound.append(one)
        return
    failed: OSError | None = None
    found = socket.getaddrinfo(address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, place in dict.fromkeys(found):  # a name may lead to one address twice
        try:
            one = socket.create_server((str(place[0]), port), family=family)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
            # A name may have addresses that this machine lacks, such as ::1.
            failed = error
            continue
        bound.append(one)
    if failed is not None and not bound:
        raise failed

"""What a proxy binds: a port on all of a host's addresses."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from trialfleet.model.errors import InvalidInput
from trialfleet.proxy.ports import Address, listen

V4, V6 = "127.0.0.1", "::1"


def _has_ipv6() -> bool:
    try:
        socket.create_server((V6, 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return socket.has_dualstack_ipv6()


HERE = [V4, V6] if _has_ipv6() else [V4]


class Bound:
    """Servers that listen, stopped in the end."""

    def __init__(self) -> None:
        self.stack = ExitStack()

    def __call__(self, host: str, port: int = 0) -> Address:
        server: Any = grpc.server(ThreadPoolExecutor(1), options=(("grpc.so_reuseport", 0),))
        self.stack.callback(lambda: server.stop(None).wait())
        return listen(server, Address(host, port), "listen")


@pytest.fixture
def bound() -> Iterator[Bound]:
    bound = Bound()
    with bound.stack:
        yield bound


def answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port)).close()
    except ConnectionRefusedError:
        return False
    return True


def resolve(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Let a name have addresses, in an order."""
    found = [
        found for host in hosts for found in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_everywhere_is_both_families(bound: Bound, host: str) -> None:
    address = bound(host)
    assert address.host == host and address.port > 0
    assert all(answers(each, address.port) for each in HERE)


@pytest.mark.parametrize("host", HERE)
def test_one_address_is_no_more_than_that(bound: Bound, host: str) -> None:
    address = bound(host)
    assert [each for each in HERE if answers(each, address.port)] == [host]


def test_a_name_has_one_port_on_all_its_addresses(bound: Bound) -> None:
    address = bound("localhost")
    assert address.host == "localhost"
    assert any(answers(each, address.port) for each in HERE)


def test_an_address_that_the_machine_lacks(bound: Bound) -> None:
    with pytest.raises(InvalidInput) as caught:
        bound("192.0.2.1")
    assert str(caught.value) == (
        "listen: 192.0.2.1:0 can't be bound (Cannot assign requested address), "
        "accepted: a free port, or port 0"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", *HERE])
def test_a_port_that_is_taken(bound: Bound, host: str) -> None:
    taken = bound(host)
    with pytest.raises(InvalidInput) as caught:
        bound(host, taken.port)
    assert str(caught.value) == (
        f"listen: {taken} can't be bound (Address already in use), accepted: a free port, or port 0"
    )


@pytest.mark.skipif(len(HERE) < 2, reason="the machine has no IPv6")
def test_a_port_that_is_taken_on_one_of_the_addresses(
    bound: Bound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All or none: what was bound already is closed again."""
    taken = bound(V6)
    with monkeypatch.context() as patched:
        resolve(patched, V4, V6)
        with pytest.raises(InvalidInput, match="Address already in use"):
            bound("localhost", taken.port)
    assert not answers(V4, taken.port)


def test_a_name_that_is_none(bound: Bound) -> None:
    with pytest.raises(InvalidInput, match=r"^listen: nowhere\.invalid:0 can't be bound \(.+\), "):
        bound("nowhere.invalid")

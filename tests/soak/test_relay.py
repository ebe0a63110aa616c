"""A relay passes on what it is given, and breaks connections as it is told."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.soak.relay import Relay


@pytest.fixture
def relay() -> Iterator[Relay]:
    """To a server that answers with what it is sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer(connection: socket.socket) -> None:
            with connection:
                try:
                    while data := connection.recv(1000):
                        connection.sendall(data)
                except OSError:
                    return

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,)).start()

        thread = threading.Thread(target=serve)
        thread.start()
        with Relay(server.getsockname()[1]) as relay:
            yield relay
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_connections_are_cut(relay: Relay) -> None:
    with socket.create_connection(("127.0.0.1", relay.port), timeout=30) as one:
        one.sendall(b"a")
        assert one.recv(10) == b"a"
        relay.cut()
        with contextlib.suppress(ConnectionResetError):
            assert one.recv(10) == b""
    with socket.create_connection(("127.0.0.1", relay.port), timeout=30) as another:
        another.sendall(b"b")
        assert another.recv(10) == b"b"


def test_connections_are_held(relay: Relay) -> None:
    with socket.create_connection(("127.0.0.1", relay.port), timeout=30) as one:
        one.sendall(b"a")
        assert one.recv(10) == b"a"
        relay.hold(True)
        one.sendall(b"b")
        one.setblocking(False)
        with pytest.raises(BlockingIOError):
            one.recv(10)
        one.settimeout(30)
        relay.hold(False)
        assert one.recv(10) == b"b"

"""Encryption in front of a PostgreSQL that was built without it, as the embedded one is.

Does what PostgreSQL does when a client asks for encryption (its documentation, "SSL Session
Encryption"), and passes on what comes through to the server's socket. Passwords, and all else of
the protocol, stay between client and server. A connection that is not encrypted gets no further
than the answer that it has to be.

The standard library is all it needs: it runs in the small process beside the server.
"""

import asyncio
import os
import ssl
import struct
import sys
from pathlib import Path
from typing import Final

_REQUEST_BYTES: Final = 8
_SSL_REQUEST: Final = struct.pack("!ii", 8, 80877103)
_GSS_REQUEST: Final = struct.pack("!ii", 8, 80877104)
_ACCEPTED: Final = b"S"
_REFUSED: Final = b"N"
_PROTOCOL: Final = "postgresql"
"""Its name in the TLS extension for that (ALPN)."""

_GREETING_S: Final = 10.0
"""For a client to ask for encryption, and to shake hands."""


class Certificate:
    """A certificate and its key, in two PEM files that may be replaced."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read the files. Raises ``OSError``, of which ``ssl.SSLError`` is a kind."""
        self._files = certificate, key
        self._seen = self._stamps()
        self._context = self._read()

    def context(self) -> ssl.SSLContext:
        """Return what to encrypt a new connection with; the last one that was usable."""
        try:
            # Before the files are read: what changes meanwhile is read again next time.
            stamps = self._stamps()
            if stamps != self._seen:
                self._seen = stamps
                self._context = self._read()
                _say("the certificate was read again")
        except OSError as error:
            _say(f"going on with the certificate of before: {error}")
        return self._context

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols([_PROTOCOL])
        context.load_cert_chain(*self._files)
        return context

    def _stamps(self) -> list[tuple[int, int, int]]:
        found = [os.stat(path) for path in self._files]
        return [(one.st_ino, one.st_mtime_ns, one.st_size) for one in found]


async def listen(host: str, port: int, certificate: Certificate, socket: Path) -> asyncio.Server:
    """Accept connections on a port, and pass what they carry to the server on a Unix socket.

    Raises ``OSError`` if the port can't be bound.
    """
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: _Greeting(certificate, socket), host, port)


class _Greeting(asyncio.Protocol):
    """A connection that is not encrypted yet."""

    def __init__(self, certificate: Certificate, socket: Path) -> None:
        self._certificate = certificate
        self._socket = socket
        self._received = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_GREETING_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) < _REQUEST_BYTES:
            return
        if self._received == _GSS_REQUEST:
            self._received = b""
            self._transport.write(_REFUSED)
        elif self._received == _SSL_REQUEST:
            self._timer.cancel()
            # What still comes in the clear is for the handshake, which would not take it for more.
            self._transport.pause_reading()
            self._task = self._loop.create_task(self._encrypt())
        else:
            # Also what was sent in the clear behind the request: it is not to be trusted.
            self._transport.write(_error("28000", "connections have to be encrypted"))
            self._transport.close()

    async def _encrypt(self) -> None:
        client = _Pipe()
        try:
            context = self._certificate.context()
            inner, server = await self._loop.create_unix_connection(_Pipe, str(self._socket))
        except OSError as error:
            _say(f"the server does not take a connection: {error}")
            self._transport.abort()
            return
        client.other = server
        server.other = client
        try:
            self._transport.write(_ACCEPTED)
            outer = await self._loop.start_tls(
                self._transport,
                client,
                context,
                server_side=True,
                ssl_handshake_timeout=_GREETING_S,
            )
        except OSError:
            # A client that does not take the certificate, most often; it says so itself.
            inner.abort()
            return
        if outer is None:
            inner.abort()
            return
        client.transport = outer
        if inner.is_closing():
            # The server went away during the handshake.
            outer.abort()


class _Pipe(asyncio.Protocol):
    """One end of a connection; what comes in goes out at the other end."""

    other: "_Pipe"
    transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other.transport is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        # Who sends faster than the other end takes waits: no memory is filled.
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other.transport is not None:
            self.other.transport.close()


def _error(code: str, message: str) -> bytes:
    fields = f"SFATAL\0VFATAL\0C{code}\0M{message}\0\0".encode()
    return b"E" + struct.pack("!i", 4 + len(fields)) + fields


def _say(text: str) -> None:
    print(f"tls: {text}", file=sys.stderr, flush=True)

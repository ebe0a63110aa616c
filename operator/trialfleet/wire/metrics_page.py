"""A page of figures for Prometheus, served on the event loop, whatever its readers do."""

import asyncio
import contextlib
import logging
from typing import Final, Self

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_MAX_READERS: Final = 32
_READER_S: Final = 10.0
"""For a reader to ask and to take the answer."""
_MAX_HEAD: Final = 16 * 1024
"""Bytes of a request's head."""

_log = logging.getLogger(__name__)


class MetricsPage:
    """The figures of a registry at ``/metrics`` over HTTP, until :meth:`close`.

    A reader makes one request. One that takes more than 10 s for it is disconnected, and so is the
    one that has been there longest when there are more than 32. Belongs to one event loop.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Take the registry; :meth:`listen` serves it."""
        self._registry = registry
        self._server: asyncio.Server | None = None
        self._readers: dict[asyncio.StreamWriter, None] = {}  # the longest there is the first
        self.port = 0
        """Where it listens, once it does."""

    async def listen(self, host: str, port: int) -> Self:
        """Begin to serve; port 0 chooses a free one. Raises ``OSError`` if it is taken."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=_MAX_HEAD)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def close(self) -> None:
        """Free the port and disconnect all readers."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._readers):
                writer.transport.abort()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._readers) >= _MAX_READERS:
            next(iter(self._readers)).transport.abort()
        self._readers[writer] = None
        try:
            async with asyncio.timeout(_READER_S):
                writer.write(await self._answer(reader))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever it was has gone, is slow, or does not speak HTTP
        except Exception:
            _log.exception("the page of metrics failed")
        finally:
            del self._readers[writer]
            with contextlib.suppress(OSError):
                writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"accepted: GET\n")
        if path not in (b"/metrics", b"/"):
            return _response("404 Not Found", b"accepted: /metrics\n")
        page = _response("200 OK", generate_latest(self._registry), CONTENT_TYPE_LATEST)
        return page if method == b"GET" else page.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def _response(status: str, body: bytes, content_type: str = "text/plain; charset=utf-8") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body

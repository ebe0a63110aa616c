"""TLS in front of a PostgreSQL that was built without it, as the embedded one is: for tests."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

_REQUEST_BYTES = 8
"""Of what a client asks first: PostgreSQL's SSLRequest."""


@contextlib.contextmanager
def encrypted(socket: Path, certificate: Path, key: Path) -> Iterator[int]:
    """Give a port of this machine that leads to PostgreSQL's socket, encrypted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["postgresql"])
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="encrypting")
    thread.start()

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(_REQUEST_BYTES)
            writer.write(b"S")
            await writer.start_tls(context)
            there, back = await asyncio.open_unix_connection(socket)
            await asyncio.wait(
                [loop.create_task(_copy(reader, back)), loop.create_task(_copy(there, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
            back.close()
        writer.close()

    async def stop(server: asyncio.Server) -> None:
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    server = asyncio.run_coroutine_threadsafe(
        asyncio.start_server(lead, "127.0.0.1", 0), loop
    ).result()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()

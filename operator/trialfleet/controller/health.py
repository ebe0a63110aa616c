"""What a kubelet asks an operator: whether it lives. One that stands by does."""

from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from trialfleet.model.errors import InvalidInput

_ACCEPTED: Final = "http://HOST:PORT/PATH"


class HealthPage:
    """Answers at a URL for as long as the event loop runs, until :meth:`close`."""

    def __init__(self) -> None:
        self._runner: web.AppRunner | None = None

    async def listen(self, url: str) -> None:
        """Begin to serve.

        Raises :class:`~trialfleet.model.errors.InvalidInput` for another kind of URL, and
        ``OSError`` if the port is taken.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InvalidInput(f"--liveness: found {url!r}, accepted: {_ACCEPTED}") from error
        if parts.scheme != "http" or not parts.hostname or port is None:
            raise InvalidInput(f"--liveness: found {url!r}, accepted: {_ACCEPTED}")
        app = web.Application()
        app.router.add_get(parts.path or "/", _answer)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, parts.hostname, port).start()

    async def close(self) -> None:
        """Free the port."""
        if self._runner is not None:
            await self._runner.cleanup()


async def _answer(_: web.Request) -> web.Response:
    return web.json_response({})

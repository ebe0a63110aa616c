"""The life of a proxy: bind, connect, serve, stop."""

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import grpc
from optuna.storages._grpc.auto_generated import api_pb2

from trialfleet import names
from trialfleet.model import errors
from trialfleet.model.errors import InvalidInput, StorageUnavailable
from trialfleet.proxy.authorization import Authorization
from trialfleet.proxy.bounds import PATIENCE_S, Rooms
from trialfleet.proxy.calls import Calls
from trialfleet.proxy.encryption import server_credentials
from trialfleet.proxy.health import Health
from trialfleet.proxy.history import Histories
from trialfleet.proxy.log_events import event
from trialfleet.proxy.monitor import Monitor
from trialfleet.proxy.optuna_service import StorageService
from trialfleet.proxy.ports import Address, listen
from trialfleet.proxy.proxy_metrics import ProxyMetrics
from trialfleet.proxy.service import TrialFleet
from trialfleet.proxy.silence import Silence
from trialfleet.storage import Storage
from trialfleet.wire.metrics_page import MetricsPage
from trialfleet.wire.v1 import trialfleet_pb2

_log = logging.getLogger(__name__)

_OURS: Final = trialfleet_pb2.DESCRIPTOR.services_by_name["TrialFleet"]
_OPTUNAS: Final = api_pb2.DESCRIPTOR.services_by_name["StorageService"]

_HEALTH_BYTES: Final = 1024
"""Of a message where nothing but health checks is answered."""

_CHANNEL: Final = (
    # Two proxies on one port would share its connections.
    ("grpc.so_reuseport", 0),
    ("grpc.max_send_message_length", -1),
    # Of one connection; all together are bounded by ProxyOptions.max_calls.
    ("grpc.max_concurrent_streams", 100),
    # What is not asked for yet: 64 KiB of a stream, where gRPC lets it grow to megabytes.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 64 * 1024),
    # Each takes some 70 KiB, encrypted.
    ("grpc.max_allowed_incoming_connections", 1000),
    ("grpc.server_handshake_timeout_ms", int(PATIENCE_S * 1000)),
    ("grpc.http2.settings_timeout", int(PATIENCE_S * 1000)),
    # Without a call; a worker's stream is one.
    ("grpc.max_connection_idle_ms", int(PATIENCE_S * 1000)),
    # The connection of a node that vanished ends within two minutes, and with it its calls.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Clients may ask as often whether the proxy is there; who asks more often is cut off.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyOptions:
    """How a proxy runs."""

    listen: Address
    metrics: Address | None = None
    tls: tuple[Path, Path] | None = None
    """Files with the certificate and the key; absent: no encryption."""
    token_key: Path | None = None
    """File with the keys of tokens; absent: every caller may do everything."""
    plaintext: Address | None = None
    """Where stock Optuna clients are served, without encryption and tokens; absent: nowhere but at
    ``listen``, and not there if tokens are asked for."""
    health: Address | None = None
    """Where health checks are answered without encryption, as a kubelet makes them; they are
    answered at ``listen`` as well."""
    identity: str = ""
    """Of the database; another one is not served, and nothing is written to it."""
    accept_data_loss: str = ""
    """The identity of a database that is lost: what is there in its place is served."""
    grace_s: float = 10.0
    """What calls in flight get to finish when the proxy stops."""
    session_grace_s: float = names.SESSION_TIME_TO_LIVE_S
    """How long the database must have been there before sessions are given up as expired."""
    sweep_interval_s: float = 5.0
    """Between two looks for expired sessions."""
    check_interval_s: float = 1.0
    """Between two looks whether the database answers."""
    call_limit_s: float = 60.0
    """Deadline of a call whose client gave none."""
    max_calls: int = 4096
    """Calls and streams at once, those of parked workers among them."""
    max_waiting: int = 20_000
    """Writes that may wait for a commit."""
    history_bytes: int = 64 * 1024 * 1024
    """Memory for the finished trials of all studies; some 300,000 trials of 5 parameters."""
    history_idle_s: float = 600.0
    """After which a study's finished trials are forgotten if nobody asks for them."""

    @property
    def expected_identity(self) -> str:
        """The identity that the database has to have; empty: whichever."""
        return "" if self.identity == self.accept_data_loss else self.identity


class Proxy:
    """A proxy between ``async with``'s begin, when its port is bound, and end.

    It answers UNAVAILABLE until :meth:`run` has connected it to its database. Raises
    ``InvalidInput`` for a URL, an address or a file that can't be used,
    from the constructor and on entry.
    """

    def __init__(self, url: str, options: ProxyOptions) -> None:
        self._options = options
        self._storage = Storage(
            url, max_waiting=options.max_waiting, identity=options.expected_identity
        )
        self._authorization: Authorization | None = None
        if options.token_key is not None:
            self._authorization = Authorization(options.token_key, self._storage)
        self._tls: grpc.ServerCredentials | None = None
        if options.tls is not None:
            self._tls = server_credentials(*options.tls)
        self._histories = Histories(
            self._storage, max_bytes=options.history_bytes, idle_s=options.history_idle_s
        )
        self._metrics = ProxyMetrics()
        self._metrics_page = MetricsPage(self._metrics.registry)
        self.address = options.listen
        """Where it listens; with the port that was chosen, once entered."""
        self.plaintext_address = options.plaintext
        self.health_address = options.health
        self.metrics_address = options.metrics
        self._servers: list[grpc.aio.Server] = []
        self._rooms = Rooms()
        self._calls = Calls(
            self._metrics, self._gate, options.call_limit_s, self._rooms, self._authorization
        )

    async def __aenter__(self) -> Self:
        options = self._options
        self._health = Health()
        silence = Silence(grace_s=options.session_grace_s, interval_s=options.sweep_interval_s)
        self._monitor = Monitor(
            self._storage, self._health, self._histories, silence, options.check_interval_s
        )
        try:
            self._add_figures()
            await self._open_ports()
            if options.metrics is not None:
                await self._serve_metrics(options.metrics)
        except BaseException:
            await self._close(0)
            raise
        event(
            _log,
            logging.INFO,
            "started",
            address=str(self.address),
            encrypted=options.tls is not None,
            tokens=options.token_key is not None,
            plaintext=str(self.plaintext_address or "none"),
            health=str(self.health_address or "none"),
            metrics=str(self.metrics_address or "none"),
        )
        return self

    async def run(self, connected: Callable[[], None]) -> None:
        """Connect to the database and watch it, until cancelled.

        ``connected`` is called when the proxy begins to serve. Raises
        :class:`~trialfleet.model.errors.SchemaMismatch`.
        """
        await self._monitor.run(connected)

    async def __aexit__(self, *exc: object) -> None:
        """Finish the calls in flight, within the grace, and close everything."""
        event(_log, logging.INFO, "stopping", calls=self._metrics.waiting)
        await self._health.stop()
        self._storage.release()
        self._calls.stop()
        await self._close(self._options.grace_s)
        event(_log, logging.INFO, "stopped")

    async def _close(self, grace_s: float) -> None:
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))
        await self._histories.close()
        await self._storage.__aexit__(None, None, None)
        await self._metrics_page.close()

    async def _open_ports(self) -> None:
        options = self._options
        ours = self._calls.handlers(_OURS, TrialFleet(self._storage, self._histories))
        # A stock client can't show a token: nothing checks what it calls.
        optunas = Calls(self._metrics, self._gate, options.call_limit_s, self._rooms).handlers(
            _OPTUNAS,
            # Where nobody shows a token everybody could write the same with our own service.
            StorageService(self._storage, self._histories, trusted=self._authorization is None),
        )
        services = [ours] if self._authorization is not None else [ours, optunas]
        self.address = await self._serve(
            options.listen, "listen", services, self._tls, self._authorization
        )
        if options.plaintext is not None:
            self.plaintext_address = await self._serve(
                options.plaintext, "plaintext-listen", [optunas]
            )
        if options.health is not None:
            self.health_address = await self._serve(options.health, "health-listen", [])

    async def _serve(
        self,
        address: Address,
        option: str,
        services: list[grpc.GenericRpcHandler],
        tls: grpc.ServerCredentials | None = None,
        authorization: Authorization | None = None,
    ) -> Address:
        server = grpc.aio.server(
            handlers=services,
            interceptors=[] if authorization is None else [authorization],
            options=[
                *_CHANNEL,
                (
                    "grpc.max_receive_message_length",
                    names.MAX_MESSAGE_BYTES if services else _HEALTH_BYTES,
                ),
            ],
            # Health checks are bounded for themselves, and who shows no token is refused at once.
            maximum_concurrent_rpcs=self._options.max_calls if services else None,
        )
        await self._health.register(server, read=authorization is None)
        found = listen(server, address, option, tls)
        self._servers.append(server)
        await server.start()
        return found

    def _gate(self) -> None:
        if self._monitor.trouble:
            raise StorageUnavailable(self._monitor.trouble)

    async def _serve_metrics(self, address: Address) -> None:
        try:
            await self._metrics_page.listen(address.host, address.port)
        except OSError as error:
            raise InvalidInput(
                f"metrics: {address} can't be bound ({os.strerror(error.errno or 0)}), accepted: a "
                f"free port, or port 0"
            ) from error
        self.metrics_address = Address(address.host, self._metrics_page.port)

    def _add_figures(self) -> None:
        storage, histories, metrics = self._storage, self._histories, self._metrics
        prefix = "trialfleet_proxy_"
        metrics.gauge(
            f"{prefix}serving", "1 while the database answers.", lambda: self._health.serving
        )
        metrics.gauge(
            f"{prefix}waiting_commands",
            "Writes that wait for a transaction.",
            lambda: storage.waiting,
        )
        metrics.gauge(
            f"{prefix}history_logs",
            "Studies whose finished trials are in memory.",
            lambda: len(histories),
        )
        metrics.gauge(
            f"{prefix}history_bytes",
            "Memory that the finished trials take.",
            lambda: histories.size,
        )
        metrics.counter(
            f"{prefix}commits",
            "Batches of writes committed; see commands for the writes in them.",
            lambda: storage.batches,
        )
        metrics.counter(f"{prefix}commands", "Writes committed.", lambda: storage.commands)


def _leave() -> None:
    # A database that neither answers nor refuses holds the threads that ask it.
    event(_log, logging.ERROR, "not stopped within the grace; leaving at once")
    os._exit(errors.EXIT_FAILED)


async def serve(url: str, options: ProxyOptions, announce: Callable[[Address], None]) -> None:
    """Serve until SIGTERM or SIGINT; ``announce`` is given the address when it begins.

    ``url`` is the SQLAlchemy URL of a PostgreSQL database; while it is away the proxy keeps
    trying. Raises :class:`~trialfleet.model.errors.InvalidInput` for a URL, an address or a file
    that can't be used, and :class:`~trialfleet.model.errors.SchemaMismatch`.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    last_resort = threading.Timer(options.grace_s + 1, _leave)
    last_resort.daemon = True
    try:
        async with Proxy(url, options) as proxy:
            running = asyncio.create_task(proxy.run(lambda: announce(proxy.address)))
            stop = asyncio.create_task(stopping.wait())
            await asyncio.wait((running, stop), return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            last_resort.start()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
    finally:
        last_resort.cancel()

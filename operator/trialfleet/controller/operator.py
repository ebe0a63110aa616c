"""The process: kopf watches and wakes the controller; nothing is decided in a handler."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import uuid
from collections.abc import Coroutine, Mapping
from typing import Any, Final, NoReturn

import kopf

from trialfleet import names
from trialfleet.controller import keys
from trialfleet.controller.controller import Controller
from trialfleet.controller.health import HealthPage
from trialfleet.controller.kinds import CHILDREN, OURS
from trialfleet.controller.leadership import Leadership
from trialfleet.controller.operator_metrics import OperatorMetrics
from trialfleet.controller.options import OperatorOptions
from trialfleet.kube.cluster import Cluster
from trialfleet.kube.kinds import CNPG, EVENT, ResourceKind
from trialfleet.model.errors import EXIT_UNAVAILABLE
from trialfleet.wire.metrics_page import MetricsPage

_log = logging.getLogger(__name__)

_VERIFY_AFTER_S: Final = 3.0
"""After a watch began anew: until all others did."""


async def run(
    options: OperatorOptions, *, liveness: str | None = None, metrics: tuple[str, int] | None = None
) -> None:
    """Run the operator until it is cancelled or told to stop by a signal.

    It stands by until it holds the Lease. ``liveness`` is a URL to serve for liveness probes, such
    as ``http://0.0.0.0:8080/healthz``; ``metrics`` the host and port of the page for Prometheus.
    Raises ``OSError`` if that is taken, and :class:`~trialfleet.kube.cluster.ClusterError` if
    the API server can't be reached. A process that loses the Lease ends at once.
    """
    for handler in logging.root.handlers:
        handler.addFilter(_is_news)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # kopf has handlers of its own once it runs.
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Cluster() as cluster, contextlib.AsyncExitStack() as stack:
        leadership = Leadership(
            cluster,
            (options.home, options.lease),
            f"{socket.gethostname()}_{uuid.uuid4()}",
            options.lease_s,
            lost=_end,
        )
        health = HealthPage()
        stack.push_async_callback(health.close)
        if liveness is not None:
            await health.listen(liveness)
        figures = OperatorMetrics(lambda: cluster.answers, lambda: leadership.held)
        page = MetricsPage(figures.registry)
        stack.push_async_callback(page.close)
        if metrics is not None:
            await page.listen(*metrics)
        if not await _done_before(leadership.acquire(), stop):
            return
        renewing = asyncio.create_task(leadership.hold(), name="leadership")
        try:
            await _lead(cluster.checked(leadership.check), options, figures, stop)
        finally:
            renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewing
            await leadership.release()


async def _lead(
    cluster: Cluster, options: OperatorOptions, figures: OperatorMetrics, stop: asyncio.Event
) -> None:
    """Look after all studies until told to stop."""
    loaded = await keys.load(cluster, options.home, options.key_secret)
    controller = Controller(cluster, loaded, options, figures)
    watcher = Watcher(controller)
    loop = asyncio.create_task(controller.wakeups.run(), name="wakeups")
    try:
        await kopf.operator(
            registry=watcher.registry(cluster, options),
            settings=_settings(options),
            standalone=True,
            clusterwide=not options.namespace,
            namespaces=[options.namespace] if options.namespace else [],
            stop_flag=stop,
        )
    finally:
        loop.cancel()
        await watcher.close()
        with contextlib.suppress(asyncio.CancelledError):
            await loop
        await controller.close()


async def _done_before(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> bool:
    """Do something unless told to stop before it is done; whether it is."""
    tasks = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            return False
        await tasks[0]
        return True
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _end(why: str) -> NoReturn:
    """End the process at once: another operator may act from now on."""
    _log.error("%s: another operator takes over", why)
    logging.shutdown()
    os._exit(EXIT_UNAVAILABLE)


class Watcher:
    """The handlers: they tell the controller what happened."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._begun: set[str] = set()
        self._verifying: asyncio.Task[None] | None = None

    def registry(self, cluster: Cluster, options: OperatorOptions) -> kopf.OperatorRegistry:
        """Return kopf's registry of the handlers."""
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def log_in(**_: Any) -> kopf.ConnectionInfo:
            return await _connection(cluster)

        for kind in (*OURS, *CHILDREN):
            self._watch(registry, kind)

        @kopf.on.event(EVENT.version, EVENT.plural, registry=registry, id="warning")
        async def warned(event: Mapping[str, Any], **_: Any) -> None:
            if event["type"] != "DELETED":
                self._controller.warned(event["object"])

        return registry

    async def close(self) -> None:
        """Stop what is under way."""
        if self._verifying is not None:
            self._verifying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._verifying

    def _watch(self, registry: kopf.OperatorRegistry, kind: ResourceKind) -> None:
        place = (
            (kind.group, kind.version, kind.plural) if kind.group else (kind.version, kind.plural)
        )

        # kopf calls what handles events only when all that is indexed has been listed: so nothing
        # is planned before everything that exists is known.
        @kopf.index(*place, registry=registry, id=f"note-{kind.plural}")
        async def note(body: kopf.Body, **_: Any) -> None:
            self._controller.note(_plain(body))

        @kopf.on.event(*place, registry=registry, id=f"changed-{kind.plural}")
        async def changed(event: Mapping[str, Any], **_: Any) -> None:
            obj = event["object"]
            if event["type"] == "DELETED":
                self._controller.gone(obj)
                return
            if event["type"] is None:
                self._listed(obj["metadata"]["uid"])
            self._controller.changed(obj)

    def _listed(self, uid: str) -> None:
        """Take note of an object in a list: the second time, a watch was cut off and began anew."""
        if uid not in self._begun:
            self._begun.add(uid)
            return
        if self._verifying is None or self._verifying.done():
            self._verifying = asyncio.create_task(self._verify(), name="verify")

    async def _verify(self) -> None:
        await asyncio.sleep(_VERIFY_AFTER_S)
        await self._controller.verify()


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line is worth writing: that CloudNativePG is not installed is nobody's fault.

    A storage that asks for it says so.
    """
    text = record.getMessage()
    return not (text.startswith("Unresolved resources") and _only_optional(text))


def _only_optional(text: str) -> bool:
    return text.count("Selector(") == 1 and CNPG.group in text


def _plain(body: kopf.Body) -> Mapping[str, Any]:
    return dict(body)


async def _connection(cluster: Cluster) -> kopf.ConnectionInfo:
    configuration = cluster.configuration
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        token=await cluster.bearer_token() or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
    )


def _settings(options: OperatorOptions) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    # With rights in one namespace only, there are no definitions and no namespaces to look at.
    settings.scanning.disabled = bool(options.namespace)
    settings.networking.request_timeout = 30
    for kind in CHILDREN:
        place = (kind.group, kind.plural) if kind.group else (kind.plural,)
        settings.watching.label_selectors[place] = names.LABEL_COMPONENT  # type: ignore[index]
    settings.watching.field_selectors["", EVENT.plural] = "type=Warning"
    return settings

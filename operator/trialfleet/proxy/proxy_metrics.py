"""What a proxy tells Prometheus, on a port of its own."""

from collections.abc import Callable, Iterable
from typing import Final

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class _ReadCounter(Collector):
    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self._name = name
        self._text = text
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Return the figure as it is now."""
        return (CounterMetricFamily(self._name, self._text, value=self._read()),)


class ProxyMetrics:
    """The figures of one proxy, in a registry of their own.

    Belongs to the event loop, on which the page is served too.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._requests = Counter(
            "trialfleet_proxy_requests",
            "Calls answered, by gRPC method and status code.",
            ("method", "code"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "trialfleet_proxy_request_seconds",
            "Time from a call's arrival to its answer; includes the waiting of an Ask.",
            ("method",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.waiting = 0
        """Calls that have arrived and are not answered."""
        self.gauge(
            "trialfleet_proxy_waiting_calls",
            "Calls that have arrived and are not answered.",
            lambda: self.waiting,
        )

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a figure that is read when the page is asked for."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def counter(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a figure that only grows and is read when the page is asked for."""
        self.registry.register(_ReadCounter(name, text, read))

    def method(self, name: str) -> Callable[[grpc.StatusCode, float], None]:
        """Return what takes the code and the seconds of each call of a method."""
        # Looking a label up takes longer than counting.
        seconds = self._seconds.labels(name)
        counters: dict[grpc.StatusCode, Counter] = {}

        def observe(code: grpc.StatusCode, elapsed_s: float) -> None:
            counter = counters.get(code)
            if counter is None:
                counter = counters[code] = self._requests.labels(name, code.name)
            counter.inc()
            seconds.observe(elapsed_s)

        return observe

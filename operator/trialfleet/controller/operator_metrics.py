"""What the operator tells Prometheus."""

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from types import TracebackType
from typing import Any, Final, Self

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_PREFIX: Final = "trialfleet_operator_"


class OperatorMetrics:
    """The figures of one operator, in a registry of their own. Belongs to one event loop."""

    def __init__(
        self, requests: Callable[[], Mapping[str, int]], leads: Callable[[], bool]
    ) -> None:
        """Take what returns the API requests so far, and what returns whether this operator acts.

        Requests are by the code of their answer. Both are asked when the page is read.
        """
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._reconciles = Counter(
            f"{_PREFIX}reconciles",
            "Objects looked at and brought about what they ask for, by kind and outcome.",
            ("kind", "outcome"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            f"{_PREFIX}reconcile_seconds",
            "Time of a reconcile, by kind.",
            ("kind",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.registry.register(_Requests(requests, leads))

    def watch(self, studies: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        """Count studies from now on; ``studies`` returns all when the page is read."""
        self.registry.register(_Studies(studies))

    def reconcile(self, kind: str) -> "_Reconcile":
        """Return a context that counts and times one reconcile of an object of a kind."""
        return _Reconcile(self._reconciles, self._seconds, kind)


class _Reconcile:
    def __init__(self, reconciles: Counter, seconds: Histogram, kind: str) -> None:
        self._reconciles = reconciles
        self._seconds = seconds.labels(kind)
        self._kind = kind

    def __enter__(self) -> Self:
        self._began = perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        outcome = "done" if kind is None else "failed"
        self._reconciles.labels(self._kind, outcome).inc()
        self._seconds.observe(perf_counter() - self._began)


class _Requests(Collector):
    """What this operator does, when the page is asked for."""

    def __init__(
        self, requests: Callable[[], Mapping[str, int]], leads: Callable[[], bool]
    ) -> None:
        self._requests = requests
        self._leads = leads

    def collect(self) -> Iterable[Metric]:
        """Return the figures as they are now."""
        leader = GaugeMetricFamily(
            f"{_PREFIX}leader", "1 if it holds the Lease and acts, 0 if it stands by."
        )
        leader.add_metric((), int(self._leads()))
        requests = CounterMetricFamily(
            f"{_PREFIX}api_requests",
            "Requests to the API server, by the code of the answer; 0 if none came.",
            labels=("code",),
        )
        for code, number in sorted(self._requests().items()):
            requests.add_metric((code,), number)
        return leader, requests


class _Studies(Collector):
    """The studies of the cluster, when the page is asked for."""

    def __init__(self, studies: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        self._studies = studies

    def collect(self) -> Iterable[Metric]:
        """Return the figures as they are now."""
        phases = GaugeMetricFamily(
            f"{_PREFIX}studies", "Studies, by namespace and phase.", labels=("namespace", "phase")
        )
        counts = Counts(
            (study["metadata"]["namespace"], study.get("status", {}).get("phase") or "Pending")
            for study in self._studies()
        )
        for place, number in sorted(counts.items()):
            phases.add_metric(place, number)
        return (phases,)

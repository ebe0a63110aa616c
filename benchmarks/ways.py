"""The ways from a worker to PostgreSQL that are compared."""

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy

from trialfleet import names

STUDY = "bench"

Timing = tuple[str, float, float]
"""A call's name, when a worker began to wait for its answer, and for how many seconds."""


class Way:
    """One way: how its servers are started, how a worker connects, how it runs trials."""

    name: str
    proxies: Sequence[int] = ()
    """Processes between workers and PostgreSQL, by their ids."""

    @contextlib.contextmanager
    def serve(self, url: str, proxies: int) -> Iterator[list[str]]:
        """Start what stands between workers and PostgreSQL; yield the workers' addresses."""
        yield [url]

    def connect(self, address: str, worker: str) -> Any:
        """Return a storage; called in a worker's process."""
        raise NotImplementedError

    def run(self, storage: Any, sampler: Any, pruner: Any, objective: Any, trials: int) -> int:
        """Run a worker's share of the trials; return how many calls its client made."""
        study = optuna.load_study(study_name=STUDY, storage=storage, sampler=sampler, pruner=pruner)
        study.optimize(objective, n_trials=trials)
        return 0


class Direct(Way):
    """Every worker on PostgreSQL by itself, as ``optuna.create_study(storage=URL)`` does."""

    name = "RDBStorage"

    def connect(self, address: str, worker: str) -> BaseStorage:
        return optuna.storages.get_storage(address)


class _CountingProxy(GrpcStorageProxy):
    calls = 0

    def _setup(self) -> None:
        super()._setup()
        counting = grpc.intercept_channel(self._channel, _Counting(self))
        from optuna.storages._grpc.auto_generated import api_pb2_grpc

        self._stub = api_pb2_grpc.StorageServiceStub(counting)  # type: ignore[no-untyped-call]
        self._cache.grpc_client = self._stub


class _Counting(grpc.UnaryUnaryClientInterceptor):
    def __init__(self, proxy: _CountingProxy) -> None:
        self._proxy = proxy

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self._proxy.calls += 1
        return continuation(details, request)


class StockProxy(Way):
    """Optuna's own gRPC proxy."""

    name = "Optuna's proxy"

    @contextlib.contextmanager
    def serve(self, url: str, proxies: int) -> Iterator[list[str]]:
        program = (
            "import sys, optuna, warnings; warnings.simplefilter('ignore');"
            "optuna.logging.set_verbosity(optuna.logging.ERROR);"
            "s = optuna.storages.get_storage(sys.argv[1]);"
            "optuna.storages.run_grpc_proxy_server(s, host='127.0.0.1', port=int(sys.argv[2]))"
        )
        # Of proxies that make the tables at the same time all but one fail.
        optuna.storages.RDBStorage(url).engine.dispose()
        with contextlib.ExitStack() as stack:
            addresses, self.proxies = [], []
            for _ in range(proxies):
                port = _free_port()
                command = [sys.executable, "-c", program, url, str(port)]
                process = stack.enter_context(subprocess.Popen(command))
                stack.callback(process.kill)
                self.proxies.append(process.pid)
                addresses.append(f"127.0.0.1:{port}")
            yield addresses

    def connect(self, address: str, worker: str) -> BaseStorage:
        warnings.simplefilter("ignore")
        host, port = address.split(":")
        storage = _CountingProxy(host=host, port=int(port))
        storage.wait_server_ready(timeout=60)
        return storage

    def run(self, storage: Any, sampler: Any, pruner: Any, objective: Any, trials: int) -> int:
        before = storage.calls
        super().run(storage, sampler, pruner, objective, trials)
        return int(storage.calls - before)


class Trialfleet(Way):
    """Trialfleet's proxy and client, with the loop that its workers run."""

    name = "Trialfleet"

    @contextlib.contextmanager
    def serve(self, url: str, proxies: int) -> Iterator[list[str]]:
        with contextlib.ExitStack() as stack:
            addresses, self.metrics, self.proxies = [], [], []
            for _ in range(proxies):
                log = stack.enter_context(tempfile.TemporaryFile())
                process = stack.enter_context(
                    subprocess.Popen(
                        [
                            *(sys.executable, "-m", "trialfleet.cli.main", "proxy"),
                            *("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"),
                        ],
                        env={**os.environ, names.ENV_STORAGE_URL: url},
                        stdout=subprocess.PIPE,
                        stderr=log,
                        text=True,
                    )
                )
                stack.callback(process.wait)
                stack.callback(process.send_signal, signal.SIGTERM)
                self.proxies.append(process.pid)
                assert process.stdout is not None
                for line in process.stdout:
                    if line.startswith("listening on "):
                        addresses.append(line.split()[-1])
                        break
                text = os.pread(log.fileno(), 64 * 1024, 0).decode()
                found = re.search(r"event=started .* metrics=(\S+)", text)
                assert found is not None
                self.metrics.append(found[1])
            yield addresses

    def calls(self) -> Counter[str]:
        """Return how often each method of the proxies was called so far."""
        counts: Counter[str] = Counter()
        for address in self.metrics:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
                for line in page.read().decode().splitlines():
                    found = re.match(r"trialfleet_\w*requests_total\{(.*)\} (\S+)", line)
                    if found and 'code="OK"' in found[1]:
                        method = re.search(r'method="([^"]*)"', found[1])
                        counts[method[1] if method else ""] += int(float(found[2]))
        return counts

    def memory(self) -> int:
        """Return the memory that the first proxy has, in bytes."""
        with urllib.request.urlopen(f"http://{self.metrics[0]}/metrics", timeout=10) as page:
            text = page.read().decode()
        found = re.search(r"^process_resident_memory_bytes (\S+)", text, re.MULTILINE)
        assert found is not None
        return int(float(found[1]))

    def connect(self, address: str, worker: str) -> Any:
        from trialfleet.client import FleetStorage

        logging.disable(logging.WARNING)
        storage = FleetStorage(address, study=STUDY, worker=worker)
        assert storage.ordinal >= 0  # the session is open before the clock starts
        self.timings = _time_calls(storage)
        return storage

    def run(self, storage: Any, sampler: Any, pruner: Any, objective: Any, trials: int) -> int:
        from trialfleet.worker.loop import run_worker

        # A worker's share is the others' too: the budget ends the study.
        run_worker(storage, storage.study_id, STUDY, objective, sampler, pruner)
        return 0


def _time_calls(storage: Any) -> list[Timing]:
    """Return a list that takes how long a client waits for each call's answer."""
    timings: list[Timing] = []
    connection = storage._core.connection
    call = connection.call

    async def timed(method: Any, *args: Any, **options: Any) -> Any:
        began = time.monotonic()
        try:
            return await call(method, *args, **options)
        finally:
            name = str(method.path.rpartition("/")[2])
            timings.append((name, began, time.monotonic() - began))

    connection.call = timed
    return timings


WAYS: tuple[Callable[[], Way], ...] = (Direct, StockProxy, Trialfleet)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])

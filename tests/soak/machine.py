"""Two studies on this machine, every part of which can be broken and mended.

Workers of the first keep a ledger of what was acknowledged to them; they reach its two proxies, and
these the database, by relays. The second is one that ``trialfleet run`` runs on the same database.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final, Self

import psutil
from optuna.study import StudyDirection

from tests.datapath.chaos import PROCESSES, STUDY, TIME_TO_LIVE_S, free_port, work
from tests.soak.breaking import freeze, hold, mounted, nothing, slow
from tests.soak.relay import Relay
from trialfleet import names
from trialfleet.client import FleetStorage, StudyDefinition
from trialfleet.local.postgres import Postgres, sockets_folder
from trialfleet.local.postgres_keeper import postmaster
from trialfleet.model.errors import NotFound

LAUNCHED: Final = "launched"
LAUNCHED_WORKERS: Final = 2
_STEP: Final = 300
"""Trials by which a budget grows."""

_MANIFEST: Final = f"""
apiVersion: {names.API_VERSION}
kind: Study
metadata: {{name: {LAUNCHED}}}
spec:
  objectives: [{{name: loss, direction: minimize}}]
  sampler: {{name: RandomSampler}}
  budget: {{trials: 1000000}}
  retries: 100
  parallelism: {LAUNCHED_WORKERS}
  objective:
    python:
      source: |
        import time
        def objective(trial):
            time.sleep(0.3)
            return trial.suggest_float("x", -1, 1) ** 2
"""


class Machine:
    """The parts, and for each kind of fault a method that breaks something: its name is the kind.

    Each returns what mends it again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.desired = 4
        self.generation = 0
        """Of the first study, which is deleted and made anew."""
        self.budget = 0
        self.workers: dict[str, ForkServerProcess] = {}
        self.launches = 0
        self._started = 0
        self._changing = threading.RLock()
        self._changes: list[threading.Thread] = []
        self._failed: list[BaseException] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, stack: contextlib.ExitStack) -> None:
        disk = self.folder / "disk"
        disk.mkdir()
        self.has_disk = mounted(disk)
        """Whether the database has a small file system of its own."""
        if self.has_disk:
            stack.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=True)
        self._disk = disk
        self.postgres = stack.enter_context(Postgres(disk / "data"))
        socket = sockets_folder(self.postgres.folder) / ".s.PGSQL.5432"
        self.link = stack.enter_context(Relay(socket))
        self._ports = [free_port(), free_port()]
        self.relays = [stack.enter_context(Relay(port)) for port in self._ports]
        self.proxies = [self._start_proxy(port) for port in self._ports]
        stack.callback(self._end, self.proxies)
        self.control = FleetStorage(self._endpoints(0), worker="control", patience_s=600)
        stack.callback(self.control.close)
        self._define()
        stack.callback(self._end_workers)
        self._manifest = self.folder / "launched.yaml"
        self._manifest.write_text(_MANIFEST)
        self.launcher = self._launch()
        stack.callback(lambda: self._end([self.launcher]))

    # -- parts -------------------------------------------------------------------------------

    @property
    def ledgers(self) -> Path:
        """Where the workers of the first study, as it is now, keep theirs."""
        return self.folder / f"ledgers-{self.generation}"

    def tend(self, counted: int) -> None:
        """Start the workers that are missing, and let the study go on for longer."""
        with self.unchanged() as granted:
            if not granted:
                return
            for name, process in list(self.workers.items()):
                if process.exitcode is not None:
                    del self.workers[name]
                    self._tell(name)
            while len(self.workers) < self.desired:
                self._start_worker()
            while len(self.workers) > self.desired:
                self._kill(next(iter(self.workers)), told=True)
            if self.launcher.poll() is not None:
                self.launcher = self._launch()
            if counted > self.budget - 100:
                self._define(counted + _STEP)

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[bool]:
        """Keep the first study from being made anew; say whether that is granted at once."""
        granted = self._changing.acquire(blocking=False)
        try:
            yield granted
        finally:
            if granted:
                self._changing.release()

    def alive(self, worker: str) -> bool:
        """Whether a worker's process is there."""
        if not worker.startswith("local-"):
            process = self.workers.get(worker)
            return process is not None and process.exitcode is None
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if one.environ().get(names.ENV_WORKER) == worker:
                    return one.status() != psutil.STATUS_ZOMBIE
        return False

    def _define(self, trials: int = _STEP) -> None:
        self.budget = trials
        directions = [StudyDirection.MINIMIZE]
        definition = StudyDefinition(STUDY, directions, trials=trials, retries=100)
        self.study_id, _ = self.control.ensure_study(definition)
        self.ledgers.mkdir(exist_ok=True)

    def _start_worker(self) -> None:
        name = f"worker-{self._started}"
        ledger = self.ledgers / f"{name}.ledger"
        process = PROCESSES.Process(
            target=work, args=(self._endpoints(self._started), name, ledger, self._started)
        )
        process.start()
        self.workers[name] = process
        self._started += 1

    def _tell(self, worker: str) -> None:
        """Say that a worker is dead, as an operator does; the storage may be away."""
        threading.Thread(target=self._give_up, args=(worker,), daemon=True).start()

    def _give_up(self, worker: str) -> None:
        with contextlib.suppress(Exception):
            self.control.give_up(worker=worker, reason=names.REASON_KILLED, message="by a fault")

    def _kill(self, name: str, *, told: bool) -> None:
        process = self.workers.pop(name)
        process.kill()
        process.join()
        if told:
            self._tell(name)

    def rest(self) -> None:
        """End all who write."""
        self._end_workers()
        self._end([self.launcher])

    def _end_workers(self) -> None:
        for process in self.workers.values():
            process.kill()
            process.join()

    def _endpoints(self, first: int) -> str:
        ports = [relay.port for relay in self.relays]
        return ",".join(f"127.0.0.1:{ports[(first + k) % 2]}" for k in range(2))

    @property
    def url(self) -> str:
        """Of the database, by its relay."""
        return f"postgresql+psycopg2://postgres@127.0.0.1:{self.link.port}/postgres"

    def _start_proxy(self, port: int) -> "subprocess.Popen[bytes]":
        return self._program(
            f"proxy-{port}",
            *("proxy", "--listen", f"127.0.0.1:{port}", "--session-sweep", "1"),
            *("--session-grace", str(TIME_TO_LIVE_S)),
        )

    def _launch(self) -> "subprocess.Popen[bytes]":
        self.launches += 1
        data = self.folder / "launched"
        return self._program("launcher", "run", str(self._manifest), "--data", str(data))

    def _program(self, log: str, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{log}.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "trialfleet.cli.main", *arguments],
                env={**os.environ, names.ENV_STORAGE_URL: self.url},
                stdout=output,
                stderr=output,
            )

    def _end(self, processes: "list[subprocess.Popen[bytes]]") -> None:
        for process in processes:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGINT)
        for process in processes:
            process.wait(60)

    # -- faults ------------------------------------------------------------------------------

    def worker_killed(self, place: int) -> Callable[[], None]:
        def kill() -> None:
            name = self._worker(place)
            if name:
                # Half of the dead are told of; the others' keep-alive runs out.
                self._kill(name, told=place % 2 == 0)

        return self._beside(kill)

    def worker_frozen(self, place: int) -> Callable[[], None]:
        name = self._worker(place)
        pid = self.workers[name].pid if name else None
        return freeze([pid] if pid else [])

    def _worker(self, place: int) -> str:
        found = sorted(self.workers)
        return found[place % len(found)] if found else ""

    def launcher_killed(self, place: int) -> Callable[[], None]:
        self.launcher.kill()
        return nothing

    def launcher_frozen(self, place: int) -> Callable[[], None]:
        return freeze([self.launcher.pid])

    def launched_child_killed(self, place: int) -> Callable[[], None]:
        """A worker, the proxy or the reaper of ``trialfleet run``."""
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(self.launcher.pid).children()
            if children:
                children[place % len(children)].kill()
        return nothing

    def proxy_killed(self, place: int) -> Callable[[], None]:
        place %= len(self.proxies)
        self.proxies[place].kill()
        self.proxies[place].wait()

        def mend() -> None:
            self.proxies[place] = self._start_proxy(self._ports[place])

        return mend

    def proxy_frozen(self, place: int) -> Callable[[], None]:
        return freeze([self.proxies[place % len(self.proxies)].pid])

    def postgres_killed(self, place: int) -> Callable[[], None]:
        pid = postmaster(self.postgres.folder / "postgres")
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        return self.postgres.wait

    def postgres_frozen(self, place: int) -> Callable[[], None]:
        pid = postmaster(self.postgres.folder / "postgres")
        pids = []
        if pid is not None:
            with contextlib.suppress(psutil.Error):
                pids = [pid, *(one.pid for one in psutil.Process(pid).children())]
        return freeze(pids)

    def worker_link_cut(self, place: int) -> Callable[[], None]:
        self.relays[place % 2].cut()
        return nothing

    def worker_link_slow(self, place: int) -> Callable[[], None]:
        return slow(self.relays[place % 2])

    def worker_link_half_open(self, place: int) -> Callable[[], None]:
        return hold(self.relays[place % 2])

    def database_link_cut(self, place: int) -> Callable[[], None]:
        self.link.cut()
        return nothing

    def database_link_slow(self, place: int) -> Callable[[], None]:
        return slow(self.link)

    def database_link_half_open(self, place: int) -> Callable[[], None]:
        return hold(self.link)

    def disk_full(self, place: int) -> Callable[[], None]:
        filler = self._disk / "filler"
        with filler.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(2**20))

        def mend() -> None:
            filler.unlink()
            self.postgres.wait()

        return mend

    def scaled(self, place: int) -> Callable[[], None]:
        self.desired = 1 + place % 6
        return nothing

    def suspended(self, place: int) -> Callable[[], None]:
        before, self.desired = self.desired, 0

        def mend() -> None:
            self.desired = self.desired or before

        return mend

    def budget_changed(self, place: int) -> Callable[[], None]:
        def change() -> None:
            counted = self.control.summary(self.study_id).counts.counted
            self._define(max(1, counted - 50 + place % 300))

        return self._beside(change)

    def study_made_anew(self, place: int) -> Callable[[], None]:
        def make() -> None:
            for name in list(self.workers):
                self._kill(name, told=False)
            with contextlib.suppress(NotFound):
                self.control.delete_study(self.study_id)
            self.generation += 1
            self._define()

        return self._beside(make)

    def _beside(self, change: Callable[[], None]) -> Callable[[], None]:
        """Begin a change, which waits for a storage that is away; ``settle`` waits for it."""

        def run() -> None:
            try:
                with self._changing:
                    change()
            except BaseException as error:
                self._failed.append(error)

        self._changes.append(threading.Thread(target=run))
        self._changes[-1].start()
        return nothing

    def settle(self) -> None:
        """Wait for changes that were begun: all else is mended."""
        while self._changes:
            self._changes.pop().join()
        if self._failed:
            raise self._failed[0]


KINDS: Final = sorted(
    name
    for name, found in vars(Machine).items()
    if not name.startswith("_") and getattr(found, "__annotations__", {}).get("place") is int
)

"""One measurement: workers, proxies, parameters; and its figures."""

import multiprocessing
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.study import StudyDirection

from benchmarks import counting, cpu
from benchmarks.ways import STUDY, Timing, Trialfleet, Way

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["benchmarks.preload"])

# A session of PostgreSQL that is idle reports what it counted within ten seconds.
_REPORTED_S = 10.5


@dataclass(frozen=True)
class Case:
    """What is measured."""

    workers: int
    params: int
    reports: int = 0
    proxies: int = 1
    seconds: float = 0.0
    """What a trial takes by itself, half as long to one and a half times as long."""
    sampler: str = "RandomSampler"
    pruner: str = "NopPruner"

    @property
    def title(self) -> str:
        """Name the case in a table."""
        text = f"{self.workers} workers, {self.params} parameters"
        if self.proxies > 1:
            text += f", {self.proxies} proxies"
        if self.reports:
            text += f", {self.reports} reports"
        if self.seconds:
            text += f", {self.seconds:g} s a trial"
        if self.sampler != "RandomSampler":
            text += f", {self.sampler}"
        if self.pruner != "NopPruner":
            text += f", {self.pruner}"
        return text


@dataclass(frozen=True)
class Figures:
    """What came out, per trial but for the first two and the last."""

    trials: int
    trials_per_s: float
    transactions: float
    statements: float
    wal_bytes: float
    rpcs: float
    workers_cpu_ms: float
    proxies_cpu_ms: float
    postgres_cpu_ms: float
    working: float = 0.0
    """The part of the workers' time that is spent in objectives."""
    p99_ms: float = 0.0
    """Of all calls: how long a worker waited for the answer."""
    calls: dict[str, dict[str, float]] = field(default_factory=dict)
    """Latencies of each kind of call in milliseconds, as a worker sees them, while all work."""

    def plain(self) -> dict[str, Any]:
        """Return the figures for a file."""
        figures = asdict(self)
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}


STEADY = Case(workers=300, params=1, reports=1, seconds=1.0)
"""As many workers as a storage is made for, at work: how long do their calls take?"""


class Objective:
    """Suggests its parameters, sleeps before each report, returns a number; no work of its own."""

    def __init__(self, params: int, reports: int, seconds: float = 0.0) -> None:
        self.params = params
        self.reports = reports
        self.seconds = seconds
        self.worked_s = 0.0
        """What it was to sleep so far: the time that a worker is there for."""
        self.ended_at = 0.0
        """When it ended last: what comes after a worker's last trial is nobody's loss."""

    def __call__(self, trial: optuna.Trial) -> float:
        value = sum(trial.suggest_float(f"x{k}", -1, 1) ** 2 for k in range(self.params))
        try:
            return self._run(trial, value)
        finally:
            self.ended_at = time.monotonic()

    def _run(self, trial: optuna.Trial, value: float) -> float:
        seconds = self.seconds * random.uniform(0.5, 1.5)
        for step in range(self.reports):
            self._work(seconds / self.reports)
            trial.report(value + 1 / (step + 1), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        if not self.reports:
            self._work(seconds)
        return value

    def _work(self, seconds: float) -> None:
        if seconds:
            time.sleep(seconds)
            self.worked_s += seconds


def _work(
    way: Way, case: Case, address: str, k: int, trials: int, ready: Any, gate: Any, done: Any
) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = way.connect(address, f"worker-{k}")
    sampler = getattr(optuna.samplers, case.sampler)(seed=k)
    pruner = getattr(optuna.pruners, case.pruner)()
    objective = Objective(case.params, case.reports, case.seconds)
    ready.put(k)
    gate.poll(None)
    began, cpu_s = time.monotonic(), time.process_time()
    calls = way.run(storage, sampler, pruner, objective, trials)
    cpu_s = time.process_time() - cpu_s
    ended = time.monotonic()
    working = objective.worked_s, objective.ended_at - began
    done.put((ended, calls, cpu_s, getattr(way, "timings", []), working))
    getattr(storage, "close", lambda: None)()


def measure(way: Way, case: Case, url: str, trials: int) -> Figures:
    """Run a case one way on a database of its own."""
    share = -(-trials // case.workers)
    trials = share * case.workers
    database = counting.create_database(url, f"{way.name} {case.title}")
    with way.serve(database, case.proxies) as addresses:
        _create_study(way, addresses[0], trials)
        ready, done = _PROCESSES.SimpleQueue(), _PROCESSES.Queue()
        gate, key = _PROCESSES.Pipe(duplex=False)
        workers = [
            _PROCESSES.Process(
                target=_work,
                args=(way, case, addresses[k % len(addresses)], k, share, ready, gate, done),
            )
            for k in range(case.workers)
        ]
        for worker in workers:
            worker.start()
        for _ in workers:
            ready.get()
        time.sleep(_REPORTED_S)
        before = counting.read(url)
        proxies_s, postgres_s = cpu.of_proxies(way.proxies), cpu.of_postgres(url)
        calls_before = way.calls() if isinstance(way, Trialfleet) else None
        started = time.monotonic()
        # Wakes all that wait, with nothing for them to hand from one to the next.
        key.close()
        ends = [done.get(timeout=3600) for _ in workers]
        elapsed = max(end for end, *_ in ends) - started
        proxies_s = cpu.of_proxies(way.proxies) - proxies_s
        postgres_s = cpu.of_postgres(url) - postgres_s
        rpcs = sum(calls for _, calls, *_ in ends)
        if isinstance(way, Trialfleet) and calls_before is not None:
            rpcs = (way.calls() - calls_before).total()
        for worker in workers:
            worker.join()
    # Whoever closes its connection reports at once.
    cost = counting.read(url).since(before)
    finished = _count(database)
    assert finished == trials, f"{way.name}: {finished} trials finished of {trials}"
    latencies = _latencies([timings for _, _, _, timings, _ in ends])
    return Figures(
        trials=trials,
        trials_per_s=trials / elapsed,
        transactions=cost.transactions / trials,
        statements=cost.statements / trials,
        wal_bytes=cost.wal_bytes / trials,
        rpcs=rpcs / trials,
        workers_cpu_ms=1000 * sum(cpu_s for _, _, cpu_s, *_ in ends) / trials,
        proxies_cpu_ms=1000 * proxies_s / trials,
        postgres_cpu_ms=1000 * postgres_s / trials,
        working=sum(worked for *_, (worked, _) in ends) / sum(spent for *_, (_, spent) in ends),
        p99_ms=latencies.pop("all", {}).get("p99_ms", 0.0),
        calls=latencies,
    )


def measure_steady(url: str) -> dict[str, Any]:
    """Return what calls take while workers have work of their own."""
    return measure(Trialfleet(), STEADY, url, 12 * STEADY.workers).plain()


def _latencies(workers: Sequence[Sequence[Timing]]) -> dict[str, dict[str, float]]:
    """Return how long calls took that began while all workers were at work.

    That is after each has told its first trial, and before the first has told its last.
    """
    told = [[began for name, began, _ in timings if name == "Tell"] for timings in workers]
    if not all(told):
        return {}
    begin, end = max(began[0] for began in told), min(began[-1] for began in told)
    found: dict[str, list[float]] = {"all": []}
    for timings in workers:
        for name, began, seconds in timings:
            if begin < began < end:
                found["all"].append(seconds)
                found.setdefault(name, []).append(seconds)
    return {name: _spread(sorted(seconds)) for name, seconds in found.items() if seconds}


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    return {
        "calls": len(seconds),
        "p50_ms": round(1000 * seconds[len(seconds) // 2], 1),
        "p99_ms": round(1000 * seconds[len(seconds) * 99 // 100], 1),
    }


def _create_study(way: Way, address: str, trials: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if isinstance(way, Trialfleet):
        from trialfleet.client import FleetStorage, StudyDefinition

        with_budget = StudyDefinition(
            name=STUDY, directions=[StudyDirection.MINIMIZE], trials=trials
        )
        tool = FleetStorage(address)
        tool.ensure_study(with_budget)
        tool.close()
    else:
        storage = way.connect(address, "tool")
        optuna.create_study(study_name=STUDY, storage=storage)


def _count(database: str) -> int:
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    with engine.connect() as connection:
        query = sa.text("SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED')")
        return int(connection.execute(query).scalar_one())

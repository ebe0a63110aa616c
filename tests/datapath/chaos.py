"""Workers and proxies that are killed at random while a study runs, and what must hold after.

Every worker is a process that writes a ledger: a line before it tells a trial, and a line when
the storage has acknowledged it. A line reaches the file before the next step, so SIGKILL loses
none.
"""

import json
import logging
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from trialfleet.client import FleetStorage, StudyDefinition
from trialfleet.model.errors import SessionGivenUp, StudyEnded

STUDY = "chaos"
TIME_TO_LIVE_S = 3.0
_AHEAD = 3
"""Kills by which the budget is ahead of those done."""

# Workers are forked from a process that has imported what they need: most of a worker's life
# would be spent importing otherwise.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["optuna", "numpy", "trialfleet.client", __name__])


def work(endpoints: str, worker: str, ledger: Path, seed: int) -> None:
    """Run trials until the study has ended; every other worker tells and asks in one call."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.disable(logging.INFO)
    storage = FleetStorage(endpoints, study=STUDY, worker=worker, time_to_live_s=TIME_TO_LIVE_S)
    chance = random.Random(seed)
    study = optuna.load_study(
        study_name=STUDY, storage=storage, sampler=optuna.samplers.RandomSampler(seed)
    )
    study_id = storage.get_study_id_from_name(STUDY)
    with ledger.open("a", buffering=1) as lines:
        trial_id: int | None = None
        while True:
            try:
                if trial_id is None:
                    trial_id = storage.ask(study_id, wait_s=1.0)
            except StudyEnded:
                break
            if trial_id is not None:
                trial_id = _run(storage, study, trial_id, chance, lines.write, bool(seed % 2))
    storage.close()


def _run(  # type: ignore[no-untyped-def]
    storage: FleetStorage,
    study,
    trial_id: int,
    chance: random.Random,
    write: Callable[[str], object],
    asks: bool,
) -> int | None:
    """Run a trial; return the id of the next one if there is one already."""
    try:
        trial = optuna.Trial(study, trial_id)
        x = trial.suggest_float("x", -1, 1)
        for step in range(chance.randrange(3)):
            trial.report(x + step, step)
        kind = chance.random()
        state, value = TrialState.COMPLETE, x * x
        if kind < 0.1:
            state = TrialState.FAIL
        elif kind < 0.2:
            state = TrialState.PRUNED
        # Most of a trial's time is its objective's: what is killed is usually in the middle.
        time.sleep(chance.random() * 0.05)
        record = {"number": trial.number, "state": state.name, "x": x, "value": value}
        values = [value] if state == TrialState.COMPLETE else None
        write(json.dumps({"told": record}) + "\n")
        following = None
        if asks:
            kept, following = storage.tell_and_ask(trial_id, state, values)
        else:
            kept = storage.set_trial_state_values(trial_id, state, values)
        if kept:
            write(json.dumps({"acknowledged": record}) + "\n")
        return following
    except SessionGivenUp:
        return None


def _definition(trials: int) -> StudyDefinition:
    return StudyDefinition(
        name=STUDY,
        directions=[optuna.study.StudyDirection.MINIMIZE],
        trials=trials,
        retries=100,
    )


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def start_proxy(url: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    """Start a proxy process; who calls it waits for its port by using it."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "trialfleet.cli.main", "proxy"),
                *("--listen", f"127.0.0.1:{port}"),
                *("--session-grace", str(TIME_TO_LIVE_S)),
            ],
            env={**os.environ, "TRIALFLEET_STORAGE_URL": url},
            stdout=output,
            stderr=output,
        )


@dataclass
class Chaos:
    """One run: ``workers`` processes over ``proxies``, some of them killed all the time.

    The kills are spread over the trials at random. The budget grows as they are done, so that a
    study is not over before its last kill, however fast the machine.
    """

    url: str
    folder: Path
    trials: int
    workers: int = 20
    proxies: int = 3
    worker_kills: int = 40
    proxy_kills: int = 6
    seed: int = 0
    timeout_s: float = 240.0
    kills: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        """Run the study to its end. Raises ``AssertionError`` if that takes too long."""
        chance = random.Random(self.seed)
        ports = [free_port() for _ in range(self.proxies)]
        logs = [self.folder / f"proxy-{port}.log" for port in ports]
        proxies = [start_proxy(self.url, *pair) for pair in zip(ports, logs, strict=True)]
        workers: dict[str, ForkServerProcess] = {}
        control = FleetStorage(self._endpoints(ports, 0), worker="control")
        try:
            started = 0
            deadline = time.monotonic() + self.timeout_s
            worker_kills = self._moments(self.worker_kills, chance)
            proxy_kills = self._moments(self.proxy_kills, chance)
            allowed = -1
            while True:
                former, allowed = allowed, min(self._ahead(worker_kills), self._ahead(proxy_kills))
                if allowed != former:
                    study_id, _ = control.ensure_study(_definition(allowed))
                assert time.monotonic() < deadline, control.summary(study_id)
                for name, process in list(workers.items()):
                    if process.exitcode is not None:
                        process.join()
                        del workers[name]
                summary = control.summary(study_id)
                over = summary.ended and allowed == self.trials
                if over and summary.counts.running == 0 and not workers:
                    break
                while not summary.ended and len(workers) < self.workers:
                    name = f"worker-{started}"
                    workers[name] = self._start_worker(name, ports, started)
                    started += 1
                if worker_kills and summary.counts.counted >= worker_kills[0] and workers:
                    del worker_kills[0]
                    self._kill_worker(control, workers, chance)
                if proxy_kills and summary.counts.counted >= proxy_kills[0]:
                    del proxy_kills[0]
                    k = chance.randrange(len(proxies))
                    proxies[k].kill()
                    proxies[k].wait()
                    self.kills["proxy"] += 1
                    proxies[k] = start_proxy(self.url, ports[k], logs[k])
        finally:
            for process in workers.values():
                process.kill()
                process.join()
            control.close()
            for proxy in proxies:
                proxy.send_signal(signal.SIGTERM)
            for proxy in proxies:
                proxy.wait(30)

    def _ahead(self, moments: Sequence[int]) -> int:
        """Return how many trials there may be, for workers to be at work when they are killed."""
        return moments[_AHEAD] if len(moments) > _AHEAD else self.trials

    def _moments(self, number: int, chance: random.Random) -> list[int]:
        return sorted(chance.randrange(self.trials * 9 // 10) for _ in range(number))

    def _endpoints(self, ports: Sequence[int], first: int) -> str:
        k = first % len(ports)
        return ",".join(f"127.0.0.1:{port}" for port in [*ports[k:], *ports[:k]])

    def _start_worker(self, name: str, ports: Sequence[int], k: int) -> ForkServerProcess:
        process = PROCESSES.Process(
            target=work,
            args=(self._endpoints(ports, k), name, self.folder / f"{name}.ledger", self.seed + k),
            daemon=True,
        )
        process.start()
        return process

    def _kill_worker(
        self,
        control: FleetStorage,
        workers: dict[str, ForkServerProcess],
        chance: random.Random,
    ) -> None:
        name = chance.choice(list(workers))
        process = workers.pop(name)
        process.kill()
        process.join()
        self.kills["worker"] += 1
        # Half of the dead are told of, as the operator does; the others' keep-alive runs out.
        if chance.random() < 0.5:
            control.give_up(worker=name, reason="KilledBySignal", message="killed by the test")

    def check(self) -> None:
        """Assert what was promised, read from PostgreSQL by stock Optuna."""
        storage = optuna.storages.RDBStorage(self.url)
        try:
            trials = storage.get_all_trials(storage.get_study_id_from_name(STUDY), deepcopy=False)
        finally:
            storage.engine.dispose()
        assert [trial.number for trial in trials] == list(range(len(trials)))
        states = Counter(trial.state for trial in trials)
        lost = [trial for trial in trials if _was_lost(trial)]
        assert states[TrialState.RUNNING] == 0
        finished = states[TrialState.COMPLETE] + states[TrialState.PRUNED] + states[TrialState.FAIL]
        assert finished - len(lost) == self.trials
        acknowledged = self._ledger("acknowledged")
        told = self._ledger("told")
        assert max(Counter(record["number"] for record in acknowledged).values()) == 1
        for record in acknowledged:
            trial = trials[record["number"]]
            assert trial.state.name == record["state"]
            assert not _was_lost(trial)
            assert trial.params == {"x": record["x"]}
            if trial.state == TrialState.COMPLETE:
                assert trial.values == [record["value"]]
        # What counts was told by somebody, acknowledged or not.
        written = {(record["number"], record["state"], record["x"]) for record in told}
        for trial in trials:
            if trial.state.is_finished() and not _was_lost(trial):
                assert (trial.number, trial.state.name, trial.params["x"]) in written
        for trial in trials:
            origin = trial.system_attrs.get("failed_trial")
            if origin is not None and "x" in trials[origin].params and trial.params:
                assert trial.params["x"] == trials[origin].params["x"]

    def _ledger(self, kind: str) -> list[dict[str, Any]]:
        records = []
        for ledger in sorted(self.folder.glob("*.ledger")):
            for line in ledger.read_text().splitlines():
                # A worker that is killed within a write leaves half a line, of no promise.
                if line.endswith("}}"):
                    records += [record for key, record in json.loads(line).items() if key == kind]
        return records


def _was_lost(trial: optuna.trial.FrozenTrial) -> bool:
    reasons = ("KilledBySignal", "KeepAliveExpired")
    return trial.system_attrs.get("trialfleet:reason") in reasons

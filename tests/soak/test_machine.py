"""Everything on one machine fails, alone and together, for as long as one likes."""

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa

from tests.datapath.chaos import STUDY
from tests.soak.faults import Burst, bursts
from tests.soak.machine import KINDS, LAUNCHED, LAUNCHED_WORKERS, Machine
from tests.soak.readings import Database, Ledgers
from tests.soak.watcher import HEALED_S, Watcher
from tests.storage.fleet import check
from trialfleet import names

OWNERLESS_S: Final = 10.0
"""Of a study whose sessions live 3 s: they, the proxies' grace and their look for silent ones."""
LONGEST_FAULT_S: Final = 6.0
_PAUSE_S: Final = 0.25


class Watch:
    """Looks at both studies all the time."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.watchers = {
            STUDY: Watcher(OWNERLESS_S),
            LAUNCHED: Watcher(names.SESSION_TIME_TO_LIVE_S + OWNERLESS_S),
        }
        self.ready: dict[str, int] = {}
        self.finished: dict[str, int] = {}
        self.away = 0
        """Looks while the database did not answer."""
        self.compared = 0
        self._counted = 0
        self._uncompared: dict[int, tuple[Any, ...]] = {}
        self.broken = threading.Event()
        self._database = Database(machine.postgres.url)
        self._ledgers = Ledgers(machine.ledgers)
        self._over = threading.Event()
        self._failed: BaseException | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        threads = [threading.Thread(target=one) for one in (self._watch, self._tend)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
            self._database.close()
        if self._failed is not None:
            raise self._failed

    @property
    def violations(self) -> list[str]:
        """Of both studies, so far."""
        return [text for one in self.watchers.values() for text in one.violations]

    def compare_all(self) -> None:
        """Compare all that was acknowledged with what is stored in the end."""
        told = self._ledgers.acknowledged
        self.watchers[STUDY].compare(told, self._database.trials(STUDY, list(told)))
        assert self._ledgers.twice == []

    def _tend(self) -> None:
        try:
            while not self._over.wait(_PAUSE_S):
                self.machine.tend(self._counted)
        except BaseException as error:
            self._failed = error

    def _watch(self) -> None:
        try:
            while not self._over.wait(_PAUSE_S):
                try:
                    self._look()
                except sa.exc.DBAPIError:
                    self.away += 1
                    self._troubled()
        except BaseException as error:
            self._failed = error

    def _troubled(self) -> None:
        for watcher in self.watchers.values():
            watcher.trouble(time.monotonic())

    def _look(self) -> None:
        if self.broken.is_set():
            self._troubled()
        for name, watcher in self.watchers.items():
            found = self._database.read(name, self.machine.alive)
            if found is not None:
                reading, self.ready[name] = found
                watcher.look(reading, time.monotonic())
                self.finished[name] = reading.finished
                if name == STUDY:
                    self._counted = reading.counted
        with self.machine.unchanged() as unchanged:
            if not unchanged:
                return
            if self._ledgers.folder != self.machine.ledgers:
                self._ledgers = Ledgers(self.machine.ledgers)
            waiting = self._uncompared
            waiting.update(self._ledgers.news())
            if waiting:
                stored = self._database.trials(STUDY, list(waiting))
                self.watchers[STUDY].compare(waiting, stored)
                self.compared += len(waiting)
                waiting.clear()


def _break(machine: Machine, watch: Watch, burst: Burst, done: Counter[str]) -> None:
    """Let the faults of a burst overlap; return when all is mended."""
    mends = []
    watch.broken.set()
    for fault in burst.faults:
        time.sleep(fault.pause_s)
        print(f"{time.strftime('%H:%M:%S')} {fault.kind} {fault.place}", flush=True)
        mends.append(getattr(machine, fault.kind)(fault.place))
        done[fault.kind] += 1
    time.sleep(burst.lasting_s)
    for mend in mends:
        mend()
    machine.settle()
    watch.broken.clear()


def _heal(machine: Machine, watch: Watch) -> None:
    """Wait until both studies have all their workers and go on."""
    began = time.monotonic()
    before = dict(watch.finished)
    while True:
        time.sleep(_PAUSE_S)
        after_s = time.monotonic() - began
        wanted = {STUDY: machine.desired, LAUNCHED: LAUNCHED_WORKERS}
        healed = [
            watcher.healed(wanted[name], watch.ready.get(name, 0), after_s)
            for name, watcher in watch.watchers.items()
        ]
        if after_s > HEALED_S or (all(healed) and watch.finished != before):
            return


@pytest.mark.soak
def test_nothing_is_lost(soak_minutes: float, soak_seed: int) -> None:
    done: Counter[str] = Counter()
    # Where PostgreSQL's own user may pass: not in the folder that pytest makes.
    folder = tempfile.TemporaryDirectory(prefix="tf-", dir="/tmp")
    with folder as path, Machine(Path(path)) as machine:
        watch = Watch(machine)
        kinds = [kind for kind in KINDS if kind != "disk_full" or machine.has_disk]
        with watch.watching():
            _heal(machine, watch)
            began = time.monotonic()
            for burst in bursts(kinds, soak_seed, LONGEST_FAULT_S):
                if time.monotonic() > began + soak_minutes * 60:
                    break
                _break(machine, watch, burst, done)
                _heal(machine, watch)
                if watch.violations:
                    print(*watch.violations, sep="\n", flush=True)
        machine.rest()
        watch.compare_all()
        check(machine.postgres.url)
    print(f"faults: {sum(done.values())}: {dict(sorted(done.items()))}")
    for name, watcher in watch.watchers.items():
        print(
            f"{name}: {watcher.readings} readings, {watch.finished[name]} trials at last, "
            f"without a worker {watcher.longest_ownerless_s:.1f} s at most, "
            f"healed after {watcher.longest_healing_s:.1f} s at most"
        )
    print(f"acknowledged and compared: {watch.compared}; violations: {len(watch.violations)}")
    assert watch.violations == []

"""Several operators: one acts, the others stand by, and never two at once."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import urllib.request
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from kubernetes.aio.config import kube_config

from tests.controller.conftest import Operator, database, delete_all, namespace
from tests.controller.kube import Kube, Object, condition, wait_for
from tests.controller.standin.standin import StandIn
from trialfleet import names
from trialfleet.controller.leadership import Leadership
from trialfleet.kube.cluster import Cluster
from trialfleet.model.errors import EXIT_UNAVAILABLE

LEASE_S = 3
HOLDS = "leadership: holds"


class Lost(Exception):
    """In place of the end of the process."""


def lost(why: str) -> NoReturn:
    raise Lost(why)


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def home(standin: StandIn) -> Iterator[Kube]:
    """The operators' own namespace."""
    client = Kube(standin.kubeconfig, f"t-{uuid.uuid4().hex[:8]}")
    yield client
    client.close()


class Candidate:
    """One candidate, with a clock of its own."""

    def __init__(self, cluster: Cluster, home: Kube, lease: str, name: str, now: float) -> None:
        self.clock = Clock(now)
        self.leadership = Leadership(
            cluster, (home.namespace, lease), name, 12, lost=lost, clock=self.clock
        )

    async def tries(self) -> bool:
        """Try once; whether it holds the Lease then."""
        return await self.leadership._attempt()


def run(
    monkeypatch: pytest.MonkeyPatch, home: Kube, work: Callable[..., Awaitable[None]]
) -> tuple[Object, str]:
    """Run something with two candidates, whose clocks differ; return the Lease."""
    # The package has read the environment when it was imported.
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(home.kubeconfig))
    lease = f"l-{uuid.uuid4().hex[:8]}"

    async def main() -> None:
        async with Cluster() as cluster:
            one = Candidate(cluster, home, lease, "one", 1000.0)
            two = Candidate(cluster, home, lease, "two", 5.0)
            await work(one, two)

    asyncio.run(main())
    found: Object = home.get("leases", lease)["spec"]
    return found, lease


def test_one_holds_the_lease_until_it_is_not_renewed(
    monkeypatch: pytest.MonkeyPatch, home: Kube
) -> None:
    async def work(one: Candidate, two: Candidate) -> None:
        assert await one.tries()
        assert not await two.tries()
        for _ in range(5):
            one.clock.now += 7.9
            two.clock.now += 7.9
            assert await one.tries()
            assert not await two.tries()
        two.clock.now += 11.9
        assert not await two.tries()
        one.clock.now += 8.1
        with pytest.raises(Lost, match="not renewed in time"):
            one.leadership.check()
        two.clock.now += 0.2
        assert await two.tries()
        assert two.leadership.held

    spec, _ = run(monkeypatch, home, work)
    assert spec["holderIdentity"] == "two"
    assert spec["leaseTransitions"] == 1
    assert spec["leaseDurationSeconds"] == 12


def test_a_released_lease_is_taken_at_once(monkeypatch: pytest.MonkeyPatch, home: Kube) -> None:
    async def work(one: Candidate, two: Candidate) -> None:
        assert await one.tries()
        assert not await two.tries()
        await one.leadership.release()
        assert not one.leadership.held
        assert await two.tries()

    spec, _ = run(monkeypatch, home, work)
    assert spec["holderIdentity"] == "two"


def test_who_finds_another_holder_ends(monkeypatch: pytest.MonkeyPatch, home: Kube) -> None:
    async def work(one: Candidate, two: Candidate) -> None:
        assert await one.tries()
        assert not await two.tries()
        two.clock.now += 12.1
        assert await two.tries()
        with pytest.raises(Lost, match="held by two"):
            await one.tries()
        await two.leadership.release()
        with pytest.raises(Lost, match="held by nobody"):
            await one.tries()

    run(monkeypatch, home, work)


def test_a_lease_that_somebody_edits_or_deletes_stays_its_holders(
    monkeypatch: pytest.MonkeyPatch, home: Kube
) -> None:
    async def work(one: Candidate, two: Candidate) -> None:
        assert await one.tries()
        (name,) = {lease["metadata"]["name"] for lease in home.list("leases")} - known
        home.patch("leases", name, {"metadata": {"annotations": {"seen": "yes"}}})
        assert await one.tries()
        # A renewal time that is years ahead of everybody's clock.
        home.patch("leases", name, {"spec": {"renewTime": "2999-01-01T00:00:00.000000Z"}})
        assert not await two.tries()
        assert await one.tries()
        home.delete("leases", name)
        assert await one.tries()
        assert not await two.tries()

    known = {lease["metadata"]["name"] for lease in home.list("leases")}
    spec, _ = run(monkeypatch, home, work)
    assert spec["holderIdentity"] == "one"


class Group:
    """Operator processes with one Lease in the namespace ``home``."""

    def __init__(self, standin: StandIn, folder: Path, count: int) -> None:
        self.logs = [folder / str(index) for index in range(count)]
        self.ports = free_ports(count)
        self.operators = [
            Operator(
                standin.kubeconfig,
                log,
                *("--home", "home", "--lease-duration", str(LEASE_S)),
                *("--liveness", f"http://127.0.0.1:{port}/healthz"),
            )
            for log, port in zip(self.logs, self.ports, strict=True)
        ]
        self.led: list[int] = []
        """Who has led so far, in this order."""

    def start(self) -> None:
        """Start all, and wait until one of them leads and the others stand by."""
        for operator in self.operators:
            operator.start()
        first = self.next_leader()
        for index in set(range(len(self.logs))) - {first}:
            wait_for("stand-by", lambda index=index: "stands by" in self.said(index), 60)  # type: ignore[misc]

    def said(self, index: int) -> str:
        """Return what one has logged."""
        log = self.logs[index]
        return log.read_text() if log.exists() else ""

    def next_leader(self) -> int:
        """Wait until another one leads; return which."""

        def look() -> list[int]:
            lead = [index for index in range(len(self.logs)) if HOLDS in self.said(index)]
            return [index for index in lead if index not in self.led]

        (leader,) = wait_for("a leader", look, 60)
        self.led.append(leader)
        return leader

    def process(self, index: int) -> "subprocess.Popen[bytes]":
        """Return one's process."""
        process = self.operators[index].process
        assert process is not None
        return process


@contextlib.contextmanager
def group(folder: Path, count: int) -> Iterator[tuple[StandIn, Group]]:
    """Give a cluster with operators of its own."""
    with StandIn(folder) as standin:
        made = Group(standin, folder, count)
        try:
            made.start()
            yield standin, made
        finally:
            for operator in made.operators:
                operator.stop(signal.SIGKILL)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.mark.scenario
def test_the_next_one_goes_on_with_the_studies(tmp_path: Path, postgres_url: str) -> None:
    with (
        database(postgres_url) as url,
        group(tmp_path, 3) as (standin, operators),
        namespace(standin, operators.operators[2], url) as env,
    ):
        first = operators.led[0]
        for port in operators.ports:
            # Also those that stand by.
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
                assert answer.status == 200
        env.ready()
        assert all("Study" not in operators.said(index) for index in range(3) if index != first)
        operators.operators[first].stop(signal.SIGKILL)
        env.study("meanwhile", budget={"trials": 2})
        second = operators.next_leader()
        env.wait_condition("meanwhile", "Complete")
        process = operators.process(second)
        operators.operators[second].stop(signal.SIGTERM)
        assert process.returncode == 0
        home = Kube(standin.kubeconfig, "home")
        # At once: before the Lease of one that was lost would have run out.
        third = operators.next_leader()
        spec = home.get("leases", "trialfleet-operator")["spec"]
        home.close()
        assert spec["leaseTransitions"] == 2
        env.study("afterwards", budget={"trials": 2})
        env.wait_condition("afterwards", "Complete")
        delete_all(env.kube, "studies")
        delete_all(env.kube, "studystorages")
        process = operators.process(third)
        operators.operators[third].stop(signal.SIGTERM)
        assert process.returncode == 0
        assert "Traceback" not in "".join(map(operators.said, range(3)))


@pytest.mark.scenario
def test_a_leader_that_was_stopped_for_too_long_ends_and_writes_nothing(tmp_path: Path) -> None:
    with group(tmp_path, 2) as (standin, operators):
        home = Kube(standin.kubeconfig, "team")
        home.create("studies", manifest("first"))
        wait_for("a look", lambda: condition(home.get("studies", "first"), "Stalled"), 30)
        process = operators.process(operators.led[0])
        process.send_signal(signal.SIGSTOP)
        operators.next_leader()
        before = operators.said(operators.led[0])
        # There is something to do for it as soon as it goes on.
        home.patch("studies", "first", {"spec": {"budget": {"trials": 2}}})
        process.send_signal(signal.SIGCONT)
        assert process.wait(60) == EXIT_UNAVAILABLE
        (last,) = operators.said(operators.led[0])[len(before) :].splitlines()
        assert "another operator takes over" in last
        home.delete("studies", "first")
        home.close()


def manifest(name: str) -> Object:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "Study",
        "metadata": {"name": name},
        "spec": {
            "objectives": [{"name": "loss", "direction": "minimize"}],
            "budget": {"trials": 1},
            "storage": {"name": "none"},
            "objective": {"python": {"source": "def objective(trial): return 1"}},
        },
    }

"""What the tests run: a proxy in this process or as one of its own, and PostgreSQL."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import grpc
from grpc_health.v1.health_pb2_grpc import HealthStub
from optuna.storages._grpc.auto_generated.api_pb2_grpc import StorageServiceStub

from trialfleet.proxy.ports import Address
from trialfleet.proxy.server import Proxy, ProxyOptions
from trialfleet.wire.v1 import trialfleet_pb2 as pb
from trialfleet.wire.v1.trialfleet_pb2_grpc import TrialFleetStub

LOCALHOST = Address("127.0.0.1", 0)
TIMEOUT_S = 30


def _stub(kind: Any, channel: grpc.Channel) -> Any:
    """Make a stub whose class has no types."""
    return kind(channel)


class Running:
    """A proxy on an event loop of its own, in a thread of this process."""

    def __init__(self, url: str, **options: Any) -> None:
        self.connected = threading.Event()
        self._ready: Future[Proxy] = Future()
        self._url = url
        self._options = ProxyOptions(**{"listen": LOCALHOST, **options})
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self.proxy = self._ready.result(TIMEOUT_S)
        self.target = str(self.proxy.address)
        self.channel = grpc.insecure_channel(
            self.target, options=[("grpc.max_send_message_length", -1)]
        )
        self.stub = TrialFleetStub(self.channel)
        self.optuna = _stub(StorageServiceStub, self.channel)
        self.health = _stub(HealthStub, self.channel)

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            proxy = Proxy(self._url, self._options)
            async with proxy:
                self._ready.set_result(proxy)
                running = asyncio.create_task(proxy.run(self.connected.set))
                await self._stop.wait()
                running.cancel()
                await asyncio.wait((running,))
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    def stop(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self.channel.close()


class Session:
    """A worker's session, with the calls of its life."""

    def __init__(self, stub: TrialFleetStub, study: str = "", *, ttl_s: float = 60) -> None:
        self.stub = stub
        self.name = os.urandom(16)
        self.sequence = 0
        self.opened = stub.OpenSession(
            pb.OpenSessionRequest(
                session=self.name, worker="worker", study=study, time_to_live_s=ttl_s
            )
        )
        self.study_id = self.opened.study_id

    def write(self) -> pb.WriteId:
        self.sequence += 1
        return pb.WriteId(session=self.name, sequence=self.sequence)

    def ask(self, wait_ms: int = 0, history: pb.Cursor | None = None) -> pb.AskReply:
        return self.stub.Ask(
            pb.AskRequest(
                write=self.write(), study_id=self.study_id, wait_ms=wait_ms, history=history
            )
        )

    def open_trial(self) -> pb.Trial:
        reply = self.ask()
        assert reply.WhichOneof("outcome") == "trial"
        return pb.Trial.FromString(reply.trial.trials[0])

    def tell(self, trial_id: int, value: float, **update: Any) -> pb.TellReply:
        return self.stub.Tell(
            pb.TellRequest(
                write=self.write(),
                update=pb.TrialUpdate(trial_id=trial_id, **update),
                state=pb.COMPLETE,
                values=[value],
            )
        )


class Process:
    """The command ``trialfleet proxy`` as a process."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "trialfleet.cli.main", "proxy", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def listening(self) -> str:
        """Wait for the line that says where; return HOST:PORT."""
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line.startswith("listening on "), line + self.result()[2]
        return line.removeprefix("listening on ").strip()

    def logged(self, text: str) -> str:
        """Wait for a line with a text in the log; return the log up to it."""
        assert self.popen.stderr is not None
        lines = ""
        for line in self.popen.stderr:
            lines += line
            if text in line:
                return lines
        raise AssertionError(lines)

    def result(self) -> tuple[int, str, str]:
        """Wait for the end; return the exit code, what was printed and what was logged."""
        out, err = self.popen.communicate(timeout=TIMEOUT_S)
        return self.popen.returncode, out, err


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def trials_of(batch: pb.TrialBatch) -> list[pb.Trial]:
    """Decode the trials of a batch."""
    return [pb.Trial.FromString(encoded) for encoded in batch.trials]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port

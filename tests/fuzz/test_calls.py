"""Whatever is sent to a proxy, it answers with a code that is documented, and lives."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, Self

import grpc
import psutil
from hypothesis import given, note
from hypothesis import strategies as st
from optuna.storages._grpc.auto_generated import api_pb2

from tests.fuzz.effort import Effort
from tests.fuzz.wire_bytes import NAMES, Known, Messages
from tests.proxy.running import free_port
from tests.proxy.world import Caller
from trialfleet.wire import tokens
from trialfleet.wire.v1 import trialfleet_pb2 as pb
from trialfleet.wire.v1.trialfleet_pb2_grpc import TrialFleetStub

TIMEOUT_S: Final = 30
MOST_MIB: Final = 400
KEY: Final = "k" * 32
TRIALFLEET: Final = pb.DESCRIPTOR.services_by_name["TrialFleet"]
OPTUNA: Final = api_pb2.DESCRIPTOR.services_by_name["StorageService"]
METHODS: Final = {
    method.full_name: method for service in (TRIALFLEET, OPTUNA) for method in service.methods
}
CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
DOCUMENTED: Final = {
    grpc.StatusCode.OK,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class Target:
    """A proxy in a process of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        key = folder / "token.key"
        key.write_text(KEY)
        plaintext = f"127.0.0.1:{free_port()}"
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "trialfleet.cli.main", "proxy"),
                    *(f"--storage={url}", f"--token-key={key}"),
                    *("--listen=127.0.0.1:0", f"--plaintext-listen={plaintext}"),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        target = self._process.stdout.readline().removeprefix("listening on ").strip()
        self._trialfleet = grpc.insecure_channel(target)
        self._optuna = grpc.insecure_channel(plaintext)
        self._tokens = [
            (tokens.metadata(tokens.for_admin(KEY)),),
            *((tokens.metadata(tokens.for_study(KEY, name)),) for name in NAMES),
        ]
        self._admin = Caller(TrialFleetStub(self._trialfleet), tokens.for_admin(KEY))
        self._sessions = itertools.count(1)
        self.known = Known()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._trialfleet.close()
        self._optuna.close()
        self._process.terminate()
        self._process.communicate()

    def learn(self) -> None:
        """Have two studies with a session and two running trials each, whatever became of others.

        Kept of what was there before: trials that have ended.
        """
        del self.known.studies[:], self.known.sessions[:], self.known.trials[:-4]
        for name in NAMES:
            request = pb.EnsureStudyRequest(name=name, directions=[pb.MINIMIZE], adopt=True)
            try:
                self.known.studies.append(self._admin.EnsureStudy(request).study_id)
            except grpc.RpcError as error:  # it was made with other directions
                assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
                found = self._admin.ListStudies(pb.ListStudiesRequest(name=name))
                self.known.studies.append(found.studies[0].study_id)
            session = next(self._sessions).to_bytes(16, "big")
            self.known.sessions.append(session)
            self._admin.OpenSession(
                pb.OpenSessionRequest(session=session, worker=name, study=name, time_to_live_s=60)
            )
            for number in (1, 2):
                write = pb.WriteId(session=session, sequence=number)
                ask = pb.AskRequest(write=write, study_id=self.known.studies[-1])
                reply = self._admin.Ask(ask)
                if reply.HasField("trial"):
                    trial = pb.Trial.FromString(reply.trial.trials[0])
                    self.known.trials.append(trial.trial_id)

    def send(self, name: str, sent: list[bytes], token: int) -> grpc.StatusCode:
        """Call a method and read all that it answers; return the code, of a refusal too."""
        service, _, method = name.rpartition(".")
        ours = METHODS[name].containing_service is TRIALFLEET
        channel = self._trialfleet if ours else self._optuna
        method_of: Any = channel.stream_stream(
            f"/{service}/{method}",
            request_serializer=None,
            response_deserializer=pb.WorkReply.FromString if method == "Work" else None,
        )
        metadata = self._tokens[token] if ours else None
        call = method_of(iter(sent), timeout=TIMEOUT_S, metadata=metadata)
        code = grpc.StatusCode.OK
        try:
            for reply in call:
                if method == "Work" and reply.HasField("refusal"):
                    note(reply.refusal.details)
                    code = CODES[reply.refusal.code]
                    if code not in DOCUMENTED:
                        return code
        except grpc.RpcError as error:
            note(str(error.details()))
            found: grpc.StatusCode = error.code()
            return found
        return code

    @property
    def memory(self) -> float:
        """What the proxy has now, in MiB."""
        return psutil.Process(self._process.pid).memory_info().rss / 2**20


def calls(known: Known) -> st.SearchStrategy[tuple[str, list[bytes], int]]:
    """Calls of any method with any token."""
    messages = Messages(known)

    def of(name: str) -> st.SearchStrategy[tuple[str, list[bytes], int]]:
        method = METHODS[name]
        sent = st.lists(
            messages.inputs(method.input_type),
            min_size=1,
            max_size=8 if method.client_streaming else 1,
        )
        return st.tuples(st.just(name), sent, st.sampled_from((0, 0, 0, 1, 2)))

    of_methods = {name: of(name) for name in sorted(METHODS)}
    return st.sampled_from(sorted(METHODS)).flatmap(of_methods.__getitem__)


def test_any_bytes_to_any_method(database_url: str, tmp_path: Path, effort: Effort) -> None:
    with Target(database_url, tmp_path) as target:
        target.learn()

        @given(several=st.lists(calls(target.known), min_size=1, max_size=10))
        def send(several: list[tuple[str, list[bytes], int]]) -> None:
            for call in several:
                found = target.send(*call)
                assert found in DOCUMENTED, (found, call)
            assert target.memory < MOST_MIB
            target.learn()

        effort.fuzz(send, 45)
    assert "Traceback" not in target.log.read_text()

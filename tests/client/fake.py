"""A proxy of the tests' own: trials in memory, and answers that go wrong when a test says so."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import grpc

from trialfleet import names
from trialfleet.wire.v1 import trialfleet_pb2 as pb

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Refused(Exception):
    """Ends a call with a status."""

    def __init__(self, code: grpc.StatusCode, details: str = "") -> None:
        super().__init__(code, details)
        self.code, self.details = code, details


class Lost(Refused):
    """Ends the stream too over which the call was made."""


@dataclass
class Database:
    """What all proxies of one storage share."""

    studies: dict[int, pb.Study] = field(default_factory=dict)
    trials: dict[int, pb.Trial] = field(default_factory=dict)
    owners: dict[int, bytes] = field(default_factory=dict)
    sessions: dict[bytes, bool] = field(default_factory=dict)
    answers: dict[tuple[bytes, int], Any] = field(default_factory=dict)
    finished: list[int] = field(default_factory=list)
    definitions: list[pb.Definition] = field(default_factory=list)
    budget: int = 1_000_000

    def fence(self, session: bytes) -> None:
        self.sessions[session] = False

    def index(self, param: pb.Param) -> int:
        definition = pb.Definition(name=param.name, distribution_json=param.distribution_json)
        if definition not in self.definitions:
            self.definitions.append(definition)
        return self.definitions.index(definition)


class FakeProxy(grpc.GenericRpcHandler):
    """One proxy. ``calls`` are the requests that reached it, by the call's name, in order."""

    def __init__(self, database: Database | None = None, port: int = 0) -> None:
        self.database = database or Database()
        self.calls: list[tuple[str, bytes]] = []
        self.max_message_bytes = names.MAX_MESSAGE_BYTES
        self.streams = 0
        """Streams of calls that were opened so far."""
        self.writes = True
        """Whether reports that ask whether to prune are written; else they are lost."""
        self.stored = 0
        self.part = 1000
        """Finished trials in one News."""
        self._epoch = id(self)
        self._arrived = threading.Condition()
        self._faults: list[tuple[str, Callable[[Callable[[], Any]], Any]]] = []
        self._lock = threading.RLock()
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    # -- what tests ask ----------------------------------------------------------------------

    def refuse(self, call: str, *codes: grpc.StatusCode, details: str = "") -> None:
        """Refuse the next requests of a call, unapplied."""

        def refusal(code: grpc.StatusCode) -> Callable[[Callable[[], Any]], Any]:
            def fault(_: Callable[[], Any]) -> Any:
                raise Refused(code, details)

            return fault

        self._faults += [(call, refusal(code)) for code in codes]

    def lose_answer(self, call: str) -> None:
        """Apply the next request of a call and let its answer be lost."""

        def fault(apply: Callable[[], Any]) -> Any:
            apply()
            raise Lost(UNAVAILABLE, "the connection broke")

        self._faults.append((call, fault))

    def hold(self, call: str, until: threading.Event) -> None:
        """Keep the next request of a call waiting."""

        def fault(apply: Callable[[], Any]) -> Any:
            assert until.wait(30)
            return apply()

        self._faults.append((call, fault))

    def requests(self, call: str) -> list[Any]:
        kind = getattr(pb, f"{call}Request")
        with self._lock:
            return [kind.FromString(data) for name, data in self.calls if name == call]

    def counts(self) -> Counter[str]:
        """How often each call came, but for what keeps the session."""
        with self._lock:
            found = Counter(name for name, _ in self.calls)
        del found["KeepAlive"]
        return found

    def wait_for(self, call: str, number: int = 1, timeout_s: float = 10.0) -> None:
        """Return when so many requests of a call have come."""
        with self._arrived:
            assert self._arrived.wait_for(
                lambda: sum(name == call for name, _ in self.calls) >= number, timeout_s
            ), self.calls

    # -- the service -------------------------------------------------------------------------

    def service(self, handler_call_details: Any) -> Any:
        name = handler_call_details.method.rpartition("/")[2]
        if name == "History":
            return grpc.unary_stream_rpc_method_handler(
                lambda data, context: self._unless_refused(name, data, context)
            )

        def answer(data: bytes, context: Any) -> bytes:
            return bytes(self._unless_refused(name, data, context).SerializeToString())

        if name == "Work":
            self.streams += 1
            return grpc.stream_stream_rpc_method_handler(self._work)
        return grpc.unary_unary_rpc_method_handler(answer)

    def _work(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        replies: SimpleQueue[bytes | Lost | None] = SimpleQueue()

        def answer(data: bytes) -> None:
            asked = pb.WorkRequest.FromString(data)
            field = asked.WhichOneof("call")
            assert field is not None
            call = "".join(word.capitalize() for word in field.split("_"))
            answered: dict[str, Any] = {}
            try:
                answered[field] = self._answer(call, getattr(asked, field).SerializeToString())
            except Lost as lost:
                replies.put(lost)
                return
            except Refused as refused:
                code = refused.code.value[0]
                answered["refusal"] = pb.Refusal(code=code, details=refused.details)
            replies.put(pb.WorkReply(**answered, number=asked.number).SerializeToString())

        def take() -> None:
            with suppress(Exception):  # the caller has gone
                for data in requests:
                    threading.Thread(target=answer, args=(data,), daemon=True).start()
            replies.put(None)

        threading.Thread(target=take, daemon=True).start()
        while (reply := replies.get()) is not None:
            if isinstance(reply, Lost):
                context.abort(reply.code, reply.details)
            else:
                yield reply

    def _unless_refused(self, name: str, data: bytes, context: Any) -> Any:
        try:
            return self._answer(name, data)
        except Refused as refused:
            context.abort(refused.code, refused.details)

    def _answer(self, name: str, data: bytes) -> Any:
        request = getattr(pb, f"{name}Request").FromString(data)
        with self._arrived:
            with self._lock:
                self.calls.append((name, data))
            self._arrived.notify_all()
        fault = next((f for f in self._faults if f[0] == name), None)
        if fault is not None:
            self._faults.remove(fault)

        def apply() -> Any:
            with self._lock:
                return self._once(name, request)

        return apply() if fault is None else fault[1](apply)

    def _once(self, name: str, request: Any) -> Any:
        write = getattr(request, "write", None)
        if write is None:
            return getattr(self, name)(request)
        key = write.session, write.sequence
        if key not in self.database.answers:
            self.database.answers[key] = getattr(self, name)(request)
        return self.database.answers[key]

    def OpenSession(self, request: Any) -> pb.OpenSessionReply:
        ordinal = len(self.database.sessions)
        self.database.sessions[request.session] = True
        return pb.OpenSessionReply(ordinal=ordinal, max_message_bytes=self.max_message_bytes)

    def KeepAlive(self, request: Any) -> pb.KeepAliveReply:
        return pb.KeepAliveReply(alive=self.database.sessions[request.session])

    def CloseSession(self, request: Any) -> pb.Applied:
        self.database.fence(request.session)
        return pb.Applied()

    def CreateStudy(self, request: Any) -> pb.CreateStudyReply:
        if not self.database.sessions.get(request.write.session):
            raise Refused(grpc.StatusCode.ABORTED, "the session was given up")
        if any(study.name == request.name for study in self.database.studies.values()):
            raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"{request.name} exists")
        study_id = len(self.database.studies) + 1
        self.database.studies[study_id] = pb.Study(
            study_id=study_id, name=request.name, directions=request.directions
        )
        return pb.CreateStudyReply(study_id=study_id)

    def ListStudies(self, request: Any) -> pb.ListStudiesReply:
        return pb.ListStudiesReply(
            studies=[
                study
                for study in self.database.studies.values()
                if request.WhichOneof("selector") is None
                or study.study_id == request.study_id
                or study.name == request.name
            ]
        )

    def CreateTrial(self, request: Any) -> pb.CreateTrialReply:
        trial = self._open(request.write.session)
        return pb.CreateTrialReply(trial_id=trial.trial_id, number=trial.number)

    def Ask(self, request: Any) -> pb.AskReply:
        if not self.database.sessions.get(request.write.session):
            return pb.AskReply(fenced=True)
        if len(self.database.trials) >= self.database.budget:
            return pb.AskReply(ended=pb.AskReply.Ended(reason=names.ENDED_TRIALS))
        trial = self._open(request.write.session)
        news = self._news(request.history)[0] if request.HasField("history") else None
        return pb.AskReply(trial=self._batch(trial), news=news)

    def Report(self, request: Any) -> pb.ReportReply:
        if request.HasField("decision"):
            return self._decide(request)
        if not self._update(request):
            return pb.ReportReply(fenced=True)
        wanted = request.HasField("history")
        return pb.ReportReply(news=self._news(request.history)[0] if wanted else None)

    def _decide(self, request: Any) -> pb.ReportReply:
        """Prune a trial whose last value is over 100; write when ``writes`` says so."""
        fenced = not self.database.sessions[request.write.session]
        if self.writes and not fenced:
            self._update(request)
            self.stored = request.write.sequence
        return pb.ReportReply(
            fenced=fenced, prune=request.decision.values[-1] > 100, stored=self.stored
        )

    def Tell(self, request: Any) -> pb.TellReply:
        if not self._update(request):
            return pb.TellReply(fenced=True, next=self._next(request))
        trial = self.database.trials[request.update.trial_id]
        trial.state = request.state
        trial.values.extend(request.values)
        if request.state != pb.WAITING:
            self.database.finished.append(trial.trial_id)
        return pb.TellReply(next=self._next(request))

    def _next(self, request: Any) -> Any:
        return self._once("Ask", request.next) if request.HasField("next") else None

    def GetTrials(self, request: Any) -> pb.GetTrialsReply:
        try:
            found = [self.database.trials[trial_id] for trial_id in request.trial_ids]
        except KeyError as error:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"no trial has the id {error}") from error
        return pb.GetTrialsReply(trials=self._batch(*found))

    def History(self, request: Any) -> Iterator[bytes]:
        parts = self._news(request.cursor)
        return iter([pb.HistoryPart(news=news).SerializeToString() for news in parts])

    def _open(self, session: bytes) -> pb.Trial:
        number = len(self.database.trials)
        trial = pb.Trial(trial_id=number + 101, number=number, state=pb.RUNNING, started_us=number)
        self.database.trials[trial.trial_id] = trial
        self.database.owners[trial.trial_id] = session
        return trial

    def _update(self, request: Any) -> bool:
        update = request.update
        session = self.database.owners[update.trial_id]
        if request.write.session != session or not self.database.sessions[session]:
            return False
        trial = self.database.trials[update.trial_id]
        for param in update.params:
            trial.definitions.append(self.database.index(param))
            trial.params.append(param.value)
        trial.user_attrs.extend(update.user_attrs)
        trial.system_attrs.extend(update.system_attrs)
        trial.steps.extend(update.steps)
        trial.intermediate_values.extend(update.intermediate_values)
        return True

    def _batch(self, *trials: pb.Trial) -> pb.TrialBatch:
        return pb.TrialBatch(
            definitions=self.database.definitions,
            trials=[trial.SerializeToString() for trial in trials],
        )

    def _news(self, cursor: pb.Cursor) -> list[pb.News]:
        restarted = cursor.epoch != self._epoch
        begin = 0 if restarted else cursor.trials
        first = 0 if restarted else cursor.definitions
        end, parts = len(self.database.finished), []
        while True:
            upto = min(end, begin + self.part)
            ids = self.database.finished[begin:upto]
            finished = self._batch(*(self.database.trials[trial_id] for trial_id in ids))
            del finished.definitions[:first]
            finished.first_definition = first
            first = len(self.database.definitions)
            news = pb.News(
                restarted=restarted,
                cursor=pb.Cursor(epoch=self._epoch, trials=upto, definitions=first),
                finished=finished,
                more=upto < end,
            )
            parts.append(news)
            restarted, begin = False, upto
            if upto == end:
                break
        running = [t for t in self.database.trials.values() if t.state in (pb.RUNNING, pb.WAITING)]
        if not cursor.finished_only:
            parts[-1].unfinished.CopyFrom(self._batch(*running))
        return parts

from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUNNING: _ClassVar[State]
    COMPLETE: _ClassVar[State]
    PRUNED: _ClassVar[State]
    FAIL: _ClassVar[State]
    WAITING: _ClassVar[State]

class Direction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MINIMIZE: _ClassVar[Direction]
    MAXIMIZE: _ClassVar[Direction]
RUNNING: State
COMPLETE: State
PRUNED: State
FAIL: State
WAITING: State
MINIMIZE: Direction
MAXIMIZE: Direction

class WriteId(_message.Message):
    __slots__ = ("session", "sequence")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    sequence: int
    def __init__(self, session: _Optional[bytes] = ..., sequence: _Optional[int] = ...) -> None: ...

class Applied(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Attribute(_message.Message):
    __slots__ = ("key", "value_json")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    key: str
    value_json: str
    def __init__(self, key: _Optional[str] = ..., value_json: _Optional[str] = ...) -> None: ...

class Definition(_message.Message):
    __slots__ = ("name", "distribution_json")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DISTRIBUTION_JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    distribution_json: str
    def __init__(self, name: _Optional[str] = ..., distribution_json: _Optional[str] = ...) -> None: ...

class Param(_message.Message):
    __slots__ = ("name", "value", "distribution_json")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DISTRIBUTION_JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    distribution_json: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., distribution_json: _Optional[str] = ...) -> None: ...

class Trial(_message.Message):
    __slots__ = ("trial_id", "number", "state", "values", "started_us", "completed_us", "definitions", "params", "user_attrs", "system_attrs", "steps", "intermediate_values")
    TRIAL_ID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    STARTED_US_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_US_FIELD_NUMBER: _ClassVar[int]
    DEFINITIONS_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    USER_ATTRS_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_ATTRS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    INTERMEDIATE_VALUES_FIELD_NUMBER: _ClassVar[int]
    trial_id: int
    number: int
    state: State
    values: _containers.RepeatedScalarFieldContainer[float]
    started_us: int
    completed_us: int
    definitions: _containers.RepeatedScalarFieldContainer[int]
    params: _containers.RepeatedScalarFieldContainer[float]
    user_attrs: _containers.RepeatedCompositeFieldContainer[Attribute]
    system_attrs: _containers.RepeatedCompositeFieldContainer[Attribute]
    steps: _containers.RepeatedScalarFieldContainer[int]
    intermediate_values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, trial_id: _Optional[int] = ..., number: _Optional[int] = ..., state: _Optional[_Union[State, str]] = ..., values: _Optional[_Iterable[float]] = ..., started_us: _Optional[int] = ..., completed_us: _Optional[int] = ..., definitions: _Optional[_Iterable[int]] = ..., params: _Optional[_Iterable[float]] = ..., user_attrs: _Optional[_Iterable[_Union[Attribute, _Mapping]]] = ..., system_attrs: _Optional[_Iterable[_Union[Attribute, _Mapping]]] = ..., steps: _Optional[_Iterable[int]] = ..., intermediate_values: _Optional[_Iterable[float]] = ...) -> None: ...

class TrialBatch(_message.Message):
    __slots__ = ("first_definition", "definitions", "trials")
    FIRST_DEFINITION_FIELD_NUMBER: _ClassVar[int]
    DEFINITIONS_FIELD_NUMBER: _ClassVar[int]
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    first_definition: int
    definitions: _containers.RepeatedCompositeFieldContainer[Definition]
    trials: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, first_definition: _Optional[int] = ..., definitions: _Optional[_Iterable[_Union[Definition, _Mapping]]] = ..., trials: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Cursor(_message.Message):
    __slots__ = ("epoch", "trials", "definitions", "finished_only")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    DEFINITIONS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_ONLY_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    trials: int
    definitions: int
    finished_only: bool
    def __init__(self, epoch: _Optional[int] = ..., trials: _Optional[int] = ..., definitions: _Optional[int] = ..., finished_only: _Optional[bool] = ...) -> None: ...

class News(_message.Message):
    __slots__ = ("restarted", "cursor", "finished", "unfinished", "more")
    RESTARTED_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    UNFINISHED_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    restarted: bool
    cursor: Cursor
    finished: TrialBatch
    unfinished: TrialBatch
    more: bool
    def __init__(self, restarted: _Optional[bool] = ..., cursor: _Optional[_Union[Cursor, _Mapping]] = ..., finished: _Optional[_Union[TrialBatch, _Mapping]] = ..., unfinished: _Optional[_Union[TrialBatch, _Mapping]] = ..., more: _Optional[bool] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("trials", "failed_trials", "timeout_s", "goals", "patience")
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    FAILED_TRIALS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    GOALS_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_FIELD_NUMBER: _ClassVar[int]
    trials: int
    failed_trials: int
    timeout_s: float
    goals: _containers.RepeatedCompositeFieldContainer[Goal]
    patience: int
    def __init__(self, trials: _Optional[int] = ..., failed_trials: _Optional[int] = ..., timeout_s: _Optional[float] = ..., goals: _Optional[_Iterable[_Union[Goal, _Mapping]]] = ..., patience: _Optional[int] = ...) -> None: ...

class Goal(_message.Message):
    __slots__ = ("objective", "value")
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    objective: int
    value: float
    def __init__(self, objective: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...

class EnsureStudyRequest(_message.Message):
    __slots__ = ("name", "directions", "budget", "retries", "enqueue_json", "metric_names", "definition", "adopt", "owner", "warm_start", "search_space", "bare_tokens")
    class SearchSpaceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIRECTIONS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    ENQUEUE_JSON_FIELD_NUMBER: _ClassVar[int]
    METRIC_NAMES_FIELD_NUMBER: _ClassVar[int]
    DEFINITION_FIELD_NUMBER: _ClassVar[int]
    ADOPT_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    WARM_START_FIELD_NUMBER: _ClassVar[int]
    SEARCH_SPACE_FIELD_NUMBER: _ClassVar[int]
    BARE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    name: str
    directions: _containers.RepeatedScalarFieldContainer[Direction]
    budget: Budget
    retries: int
    enqueue_json: _containers.RepeatedScalarFieldContainer[str]
    metric_names: _containers.RepeatedScalarFieldContainer[str]
    definition: str
    adopt: bool
    owner: str
    warm_start: _containers.RepeatedScalarFieldContainer[str]
    search_space: _containers.ScalarMap[str, str]
    bare_tokens: bool
    def __init__(self, name: _Optional[str] = ..., directions: _Optional[_Iterable[_Union[Direction, str]]] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ..., retries: _Optional[int] = ..., enqueue_json: _Optional[_Iterable[str]] = ..., metric_names: _Optional[_Iterable[str]] = ..., definition: _Optional[str] = ..., adopt: _Optional[bool] = ..., owner: _Optional[str] = ..., warm_start: _Optional[_Iterable[str]] = ..., search_space: _Optional[_Mapping[str, str]] = ..., bare_tokens: _Optional[bool] = ...) -> None: ...

class EnsureStudyReply(_message.Message):
    __slots__ = ("study_id", "created", "differs", "trials", "definition")
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    DIFFERS_FIELD_NUMBER: _ClassVar[int]
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    DEFINITION_FIELD_NUMBER: _ClassVar[int]
    study_id: int
    created: bool
    differs: bool
    trials: int
    definition: str
    def __init__(self, study_id: _Optional[int] = ..., created: _Optional[bool] = ..., differs: _Optional[bool] = ..., trials: _Optional[int] = ..., definition: _Optional[str] = ...) -> None: ...

class CreateStudyRequest(_message.Message):
    __slots__ = ("write", "name", "directions")
    WRITE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIRECTIONS_FIELD_NUMBER: _ClassVar[int]
    write: WriteId
    name: str
    directions: _containers.RepeatedScalarFieldContainer[Direction]
    def __init__(self, write: _Optional[_Union[WriteId, _Mapping]] = ..., name: _Optional[str] = ..., directions: _Optional[_Iterable[_Union[Direction, str]]] = ...) -> None: ...

class CreateStudyReply(_message.Message):
    __slots__ = ("study_id",)
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    study_id: int
    def __init__(self, study_id: _Optional[int] = ...) -> None: ...

class StopStudyRequest(_message.Message):
    __slots__ = ("study_id",)
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    study_id: int
    def __init__(self, study_id: _Optional[int] = ...) -> None: ...

class DeleteStudyRequest(_message.Message):
    __slots__ = ("write", "study_id")
    WRITE_FIELD_NUMBER: _ClassVar[int]
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    write: WriteId
    study_id: int
    def __init__(self, write: _Optional[_Union[WriteId, _Mapping]] = ..., study_id: _Optional[int] = ...) -> None: ...

class SetStudyAttributeRequest(_message.Message):
    __slots__ = ("write", "study_id", "system", "attribute")
    WRITE_FIELD_NUMBER: _ClassVar[int]
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    write: WriteId
    study_id: int
    system: bool
    attribute: Attribute
    def __init__(self, write: _Optional[_Union[WriteId, _Mapping]] = ..., study_id: _Optional[int] = ..., system: _Optional[bool] = ..., attribute: _Optional[_Union[Attribute, _Mapping]] = ...) -> None: ...

class ListStudiesRequest(_message.Message):
    __slots__ = ("study_id", "name", "owner")
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    study_id: int
    name: str
    owner: str
    def __init__(self, study_id: _Optional[int] = ..., name: _Optional[str] = ..., owner: _Optional[str] = ...) -> None: ...

class Study(_message.Message):
    __slots__ = ("study_id", "name", "directions", "user_attrs", "system_attrs", "owner")
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIRECTIONS_FIELD_NUMBER: _ClassVar[int]
    USER_ATTRS_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_ATTRS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    study_id: int
    name: str
    directions: _containers.RepeatedScalarFieldContainer[Direction]
    user_attrs: _containers.RepeatedCompositeFieldContainer[Attribute]
    system_attrs: _containers.RepeatedCompositeFieldContainer[Attribute]
    owner: str
    def __init__(self, study_id: _Optional[int] = ..., name: _Optional[str] = ..., directions: _Optional[_Iterable[_Union[Direction, str]]] = ..., user_attrs: _Optional[_Iterable[_Union[Attribute, _Mapping]]] = ..., system_attrs: _Optional[_Iterable[_Union[Attribute, _Mapping]]] = ..., owner: _Optional[str] = ...) -> None: ...

class ListStudiesReply(_message.Message):
    __slots__ = ("studies", "identity")
    STUDIES_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    studies: _containers.RepeatedCompositeFieldContainer[Study]
    identity: str
    def __init__(self, studies: _Optional[_Iterable[_Union[Study, _Mapping]]] = ..., identity: _Optional[str] = ...) -> None: ...

class OpenSessionRequest(_message.Message):
    __slots__ = ("session", "worker", "study", "time_to_live_s", "definition")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    STUDY_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_LIVE_S_FIELD_NUMBER: _ClassVar[int]
    DEFINITION_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    worker: str
    study: str
    time_to_live_s: float
    definition: str
    def __init__(self, session: _Optional[bytes] = ..., worker: _Optional[str] = ..., study: _Optional[str] = ..., time_to_live_s: _Optional[float] = ..., definition: _Optional[str] = ...) -> None: ...

class OpenSessionReply(_message.Message):
    __slots__ = ("study_id", "directions", "ordinal", "max_message_bytes")
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    DIRECTIONS_FIELD_NUMBER: _ClassVar[int]
    ORDINAL_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    study_id: int
    directions: _containers.RepeatedScalarFieldContainer[Direction]
    ordinal: int
    max_message_bytes: int
    def __init__(self, study_id: _Optional[int] = ..., directions: _Optional[_Iterable[_Union[Direction, str]]] = ..., ordinal: _Optional[int] = ..., max_message_bytes: _Optional[int] = ...) -> None: ...

class KeepAliveRequest(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    def __init__(self, session: _Optional[bytes] = ...) -> None: ...

class KeepAliveReply(_message.Message):
    __slots__ = ("alive",)
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    alive: bool
    def __init__(self, alive: _Optional[bool] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    def __init__(self, session: _Optional[bytes] = ...) -> None: ...

class GiveUpRequest(_message.Message):
    __slots__ = ("session", "worker", "reason", "message", "failed")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    worker: str
    reason: str
    message: str
    failed: bool
    def __init__(self, session: _Optional[bytes] = ..., worker: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., failed: _Optional[bool] = ...) -> None: ...

class GiveUpReply(_message.Message):
    __slots__ = ("sessions", "lost", "requeued", "failed", "opened")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    REQUEUED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    sessions: int
    lost: _containers.RepeatedScalarFieldContainer[int]
    requeued: _containers.RepeatedScalarFieldContainer[int]
    failed: _containers.RepeatedScalarFieldContainer[int]
    opened: int
    def __init__(self, sessions: _Optional[int] = ..., lost: _Optional[_Iterable[int]] = ..., requeued: _Optional[_Iterable[int]] = ..., failed: _Optional[_Iterable[int]] = ..., opened: _Optional[int] = ...) -> None: ...

class AskRequest(_message.Message):
    __slots__ = ("write", "study_id", "wait_ms", "history", "definitions")
    WRITE_FIELD_NUMBER: _ClassVar[int]
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    DEFINITIONS_FIELD_NUMBER: _ClassVar[int]
    write: WriteId
    study_id: int
    wait_ms: int
    history: Cursor
    definitions: bool
    def __init__(self, write: _Optional[_Union[WriteId, _Mapping]] = ..., study_id: _Optional[int] = ..., wait_ms: _Optional[int] = ..., history: _Optional[_Union[Cursor, _Mapping]] = ..., definitions: _Optional[bool] = ...) -> None: ...

class AskReply(_message.Message):
    __slots__ = ("trial", "wait", "ended", "fenced", "news", "definitions")
    class Wait(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class Ended(_message.Message):
        __slots__ = ("reason",)
        REASON_FIELD_NUMBER: _ClassVar[int]
        reason: str
        def __init__(self, reason: _Optional[str] = ...) -> None: ...
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    FENCED_FIELD_NUMBER: _ClassVar[int]
    NEWS_FIELD_NUMBER: _ClassVar[int]
    DEFINITIONS_FIELD_NUMBER: _ClassVar[int]
    trial: TrialBatch
    wait: AskReply.Wait
    ended: AskReply.Ended
    fenced: bool
    news: News
    definitions: _containers.RepeatedCompositeFieldContainer[Definition]
    def __init__(self, trial: _Optional[_Union[TrialBatch, _Mapping]] = ..., wait: _Optional[_Union[AskReply.Wait, _Mapping]] = ..., ended: _Optional[_Union[AskReply.Ended, _Mapping]] = ..., fenced: _Optional[bool] = ..., news: _Optional[_Union[News, _Mapping]] = ..., definitions: _Optional[_Iterable[_Union[Definition, _Mapping]]] = ...) -> None: ...

class TrialUpdate(_message.Message):
    __slots__ = ("trial_id", "params", "user_attrs", "system_attrs", "steps", "intermediate_values")
    TRIAL_ID_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    USER_ATTRS_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_ATTRS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    INTERMEDIATE_VALUES_FIELD_NUMBER: _ClassVar[int]
    trial_id: int
    params: _containers.RepeatedCompositeFieldContainer[Param]
    user_attrs: _containers.RepeatedCompositeFieldContainer[Attribute]
    system_attrs: _containers.RepeatedCompositeFieldContainer[Attribute]
    steps: _containers.RepeatedScalarFieldContainer[int]
    intermediate_values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, trial_id: _Optional[int] = ..., params: _Optional[_Iterable[_Union[Param, _Mapping]]] = ..., user_attrs: _Optional[_Iterable[_Union[Attribute, _Mapping]]] = ..., system_attrs: _Optional[_Iterable[_Union[Attribute, _Mapping]]] = ..., steps: _Optional[_Iterable[int]] = ..., intermediate_values: _Optional[_Iterable[float]] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("write", "update", "history", "study_id", "decision")
    WRITE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    write: WriteId
    update: TrialUpdate
    history: Cursor
    study_id: int
    decision: Decision
    def __init__(self, write: _Optional[_Union[WriteId, _Mapping]] = ..., update: _Optional[_Union[TrialUpdate, _Mapping]] = ..., history: _Optional[_Union[Cursor, _Mapping]] = ..., study_id: _Optional[int] = ..., decision: _Optional[_Union[Decision, _Mapping]] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("pruner", "steps", "values")
    PRUNER_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    pruner: str
    steps: _containers.RepeatedScalarFieldContainer[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, pruner: _Optional[str] = ..., steps: _Optional[_Iterable[int]] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class ReportReply(_message.Message):
    __slots__ = ("fenced", "news", "prune", "stored")
    FENCED_FIELD_NUMBER: _ClassVar[int]
    NEWS_FIELD_NUMBER: _ClassVar[int]
    PRUNE_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    fenced: bool
    news: News
    prune: bool
    stored: int
    def __init__(self, fenced: _Optional[bool] = ..., news: _Optional[_Union[News, _Mapping]] = ..., prune: _Optional[bool] = ..., stored: _Optional[int] = ...) -> None: ...

class TellRequest(_message.Message):
    __slots__ = ("write", "update", "state", "values", "next")
    WRITE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    write: WriteId
    update: TrialUpdate
    state: State
    values: _containers.RepeatedScalarFieldContainer[float]
    next: AskRequest
    def __init__(self, write: _Optional[_Union[WriteId, _Mapping]] = ..., update: _Optional[_Union[TrialUpdate, _Mapping]] = ..., state: _Optional[_Union[State, str]] = ..., values: _Optional[_Iterable[float]] = ..., next: _Optional[_Union[AskRequest, _Mapping]] = ...) -> None: ...

class TellReply(_message.Message):
    __slots__ = ("fenced", "next")
    FENCED_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    fenced: bool
    next: AskReply
    def __init__(self, fenced: _Optional[bool] = ..., next: _Optional[_Union[AskReply, _Mapping]] = ...) -> None: ...

class WorkRequest(_message.Message):
    __slots__ = ("open_session", "keep_alive", "close_session", "ask", "report", "tell", "number")
    OPEN_SESSION_FIELD_NUMBER: _ClassVar[int]
    KEEP_ALIVE_FIELD_NUMBER: _ClassVar[int]
    CLOSE_SESSION_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    TELL_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    open_session: OpenSessionRequest
    keep_alive: KeepAliveRequest
    close_session: CloseSessionRequest
    ask: AskRequest
    report: ReportRequest
    tell: TellRequest
    number: int
    def __init__(self, open_session: _Optional[_Union[OpenSessionRequest, _Mapping]] = ..., keep_alive: _Optional[_Union[KeepAliveRequest, _Mapping]] = ..., close_session: _Optional[_Union[CloseSessionRequest, _Mapping]] = ..., ask: _Optional[_Union[AskRequest, _Mapping]] = ..., report: _Optional[_Union[ReportRequest, _Mapping]] = ..., tell: _Optional[_Union[TellRequest, _Mapping]] = ..., number: _Optional[int] = ...) -> None: ...

class WorkReply(_message.Message):
    __slots__ = ("open_session", "keep_alive", "close_session", "ask", "report", "tell", "refusal", "number")
    OPEN_SESSION_FIELD_NUMBER: _ClassVar[int]
    KEEP_ALIVE_FIELD_NUMBER: _ClassVar[int]
    CLOSE_SESSION_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    TELL_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    open_session: OpenSessionReply
    keep_alive: KeepAliveReply
    close_session: Applied
    ask: AskReply
    report: ReportReply
    tell: TellReply
    refusal: Refusal
    number: int
    def __init__(self, open_session: _Optional[_Union[OpenSessionReply, _Mapping]] = ..., keep_alive: _Optional[_Union[KeepAliveReply, _Mapping]] = ..., close_session: _Optional[_Union[Applied, _Mapping]] = ..., ask: _Optional[_Union[AskReply, _Mapping]] = ..., report: _Optional[_Union[ReportReply, _Mapping]] = ..., tell: _Optional[_Union[TellReply, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., number: _Optional[int] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("code", "details")
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: int
    details: str
    def __init__(self, code: _Optional[int] = ..., details: _Optional[str] = ...) -> None: ...

class CreateTrialRequest(_message.Message):
    __slots__ = ("write", "study_id", "template")
    WRITE_FIELD_NUMBER: _ClassVar[int]
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    write: WriteId
    study_id: int
    template: TrialBatch
    def __init__(self, write: _Optional[_Union[WriteId, _Mapping]] = ..., study_id: _Optional[int] = ..., template: _Optional[_Union[TrialBatch, _Mapping]] = ...) -> None: ...

class CreateTrialReply(_message.Message):
    __slots__ = ("trial_id", "number")
    TRIAL_ID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    trial_id: int
    number: int
    def __init__(self, trial_id: _Optional[int] = ..., number: _Optional[int] = ...) -> None: ...

class WriteTrialRequest(_message.Message):
    __slots__ = ("write", "update", "state", "values")
    WRITE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    write: WriteId
    update: TrialUpdate
    state: State
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, write: _Optional[_Union[WriteId, _Mapping]] = ..., update: _Optional[_Union[TrialUpdate, _Mapping]] = ..., state: _Optional[_Union[State, str]] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class WriteTrialReply(_message.Message):
    __slots__ = ("updated",)
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    updated: bool
    def __init__(self, updated: _Optional[bool] = ...) -> None: ...

class GetTrialsRequest(_message.Message):
    __slots__ = ("trial_ids", "study_id", "numbers")
    TRIAL_IDS_FIELD_NUMBER: _ClassVar[int]
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    trial_ids: _containers.RepeatedScalarFieldContainer[int]
    study_id: int
    numbers: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, trial_ids: _Optional[_Iterable[int]] = ..., study_id: _Optional[int] = ..., numbers: _Optional[_Iterable[int]] = ...) -> None: ...

class GetTrialsReply(_message.Message):
    __slots__ = ("trials",)
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    trials: TrialBatch
    def __init__(self, trials: _Optional[_Union[TrialBatch, _Mapping]] = ...) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ("study_id", "cursor")
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    study_id: int
    cursor: Cursor
    def __init__(self, study_id: _Optional[int] = ..., cursor: _Optional[_Union[Cursor, _Mapping]] = ...) -> None: ...

class HistoryPart(_message.Message):
    __slots__ = ("news",)
    NEWS_FIELD_NUMBER: _ClassVar[int]
    news: News
    def __init__(self, news: _Optional[_Union[News, _Mapping]] = ...) -> None: ...

class Counts(_message.Message):
    __slots__ = ("complete", "pruned", "failed", "running", "waiting", "lost")
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    PRUNED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    complete: int
    pruned: int
    failed: int
    running: int
    waiting: int
    lost: int
    def __init__(self, complete: _Optional[int] = ..., pruned: _Optional[int] = ..., failed: _Optional[int] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., lost: _Optional[int] = ...) -> None: ...

class SummaryRequest(_message.Message):
    __slots__ = ("study_id", "best")
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    study_id: int
    best: int
    def __init__(self, study_id: _Optional[int] = ..., best: _Optional[int] = ...) -> None: ...

class SummaryReply(_message.Message):
    __slots__ = ("counts", "best", "ended", "sessions", "lost_reasons", "front", "failure", "failed_reasons", "silent", "taken")
    class LostReasonsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class FailedReasonsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    LOST_REASONS_FIELD_NUMBER: _ClassVar[int]
    FRONT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    FAILED_REASONS_FIELD_NUMBER: _ClassVar[int]
    SILENT_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    counts: Counts
    best: TrialBatch
    ended: str
    sessions: int
    lost_reasons: _containers.ScalarMap[str, int]
    front: int
    failure: Failure
    failed_reasons: _containers.ScalarMap[str, int]
    silent: _containers.RepeatedScalarFieldContainer[str]
    taken: int
    def __init__(self, counts: _Optional[_Union[Counts, _Mapping]] = ..., best: _Optional[_Union[TrialBatch, _Mapping]] = ..., ended: _Optional[str] = ..., sessions: _Optional[int] = ..., lost_reasons: _Optional[_Mapping[str, int]] = ..., front: _Optional[int] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., failed_reasons: _Optional[_Mapping[str, int]] = ..., silent: _Optional[_Iterable[str]] = ..., taken: _Optional[int] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("number", "reason", "message")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    number: int
    reason: str
    message: str
    def __init__(self, number: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

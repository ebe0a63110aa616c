"""What goes into a storage and what comes out of it, as plain values.

Nothing here knows SQL or gRPC. Trial states are Optuna's; parameter values are in the
internal representation of their distribution, distributions and attribute values are
Optuna's JSON text, times are aware and in UTC.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from optuna.study import StudyDirection
from optuna.trial import TrialState

from trialfleet.model.budget import Budget
from trialfleet.model.session import SilentSession, WriteId
from trialfleet.model.study import Counts, Failure
from trialfleet.model.trial import TrialRecord, TrialUpdate

# -- commands: each is applied in one transaction, many share one --------------------------


@dataclass(frozen=True, slots=True)
class EnsureStudy:
    """Create a study or bring its budget up to date -> :class:`StudyEnsured`.

    Raises ``InvalidInput`` if the study exists with other directions.
    """

    name: str
    directions: Sequence[StudyDirection]
    budget: Budget
    retries: int = 0
    enqueue: Sequence[str] = ()
    """JSON objects, parameter to value: waiting trials, made once in the study's life."""
    metric_names: Sequence[str] = ()
    definition: str = ""
    """What makes two studies the same; empty: not told, and nothing is compared."""
    adopt: bool = False
    """Take over trials of another definition."""
    owner: str = ""
    """Whose the study is from now on; empty: as before."""
    warm_start: Sequence[str] = ()
    """Names of studies whose finished trials are taken over once, before the first trial."""
    search_space: Mapping[str, str] = field(default_factory=dict)
    """Distributions that the trials of ``warm_start`` have to fit, by parameter."""
    bare_tokens: bool = False
    """Tokens that bear no owner open it for as long as it is this owner's."""


class StudyEnsured(NamedTuple):
    """Answer of :class:`EnsureStudy`."""

    study_id: int
    created: bool
    differs: bool = False
    """Nothing was changed: the study has trials of another definition."""
    trials: int = 0
    """Running or finished ones that were there before."""
    definition: str = ""
    """That was there before; empty: not known."""


@dataclass(frozen=True, slots=True)
class CreateStudy:
    """Optuna's ``create_new_study`` -> the study's id.

    Raises ``StudyExists``.
    """

    name: str
    directions: Sequence[StudyDirection]
    write: WriteId | None = None


@dataclass(frozen=True, slots=True)
class StopStudy:
    """Open no new trial of a study any more, until its budget is changed -> None.

    Waiting trials are still opened: a lost one may come back. Raises ``NotFound``.
    """

    study_id: int


@dataclass(frozen=True, slots=True)
class DeleteStudy:
    """Delete a study with its trials -> None. Raises ``NotFound``."""

    study_id: int
    write: WriteId | None = None


@dataclass(frozen=True, slots=True)
class SetStudyAttribute:
    """Set one attribute of a study -> None. Raises ``NotFound``."""

    study_id: int
    key: str
    value_json: str
    system: bool
    write: WriteId | None = None


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Begin a worker's life -> :class:`SessionOpened`; a repeat opens it once.

    Raises ``NotFound`` if a study is named that does not exist, or has another definition than the
    one that is given.
    """

    session: bytes
    worker: str
    study: str
    """Name of the study, or empty for a session bound to none."""
    time_to_live_s: float
    definition: str = ""
    """Of the study, where the worker is for no other; empty for any."""


class SessionOpened(NamedTuple):
    """Answer of :class:`OpenSession`."""

    study_id: int | None
    ordinal: int
    """Sessions that the study had before this one."""
    directions: Sequence[StudyDirection]
    """Of the study."""


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Extend a session's life -> False if it was given up or closed."""

    session: bytes


@dataclass(frozen=True, slots=True)
class CloseSession:
    """End a session in order; trials it still runs go back to waiting -> None."""

    session: bytes


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Fence a dead worker's sessions, fail and requeue its trials -> :class:`GivenUp`.

    Exactly one of ``session``, ``worker`` and ``silent`` is given.
    """

    reason: str
    message: str = ""
    session: bytes | None = None
    worker: str | None = None
    failed: bool = False
    """The objective's own doing: its trials count as failed and are not requeued."""
    silent: tuple[SilentSession, ...] = ()
    """Sessions that nobody has heard since they were seen like this."""


@dataclass(frozen=True, slots=True)
class OpenTrial:
    """Open the next trial for a session -> a :class:`TrialRecord`, ``Wait`` or ``Ended``.

    Raises ``SessionGivenUp``, or ``NotFound`` for the study.
    """

    study_id: int
    write: WriteId


class Wait(enum.Enum):
    """No trial may be opened now, but one that still runs may be lost and come back."""

    WAIT = enum.auto()


@dataclass(frozen=True, slots=True)
class Ended:
    """No trial may be opened any more."""

    reason: str
    """One of ``names.ENDED_*``."""


@dataclass(frozen=True, slots=True)
class UpdateTrial:
    """Write to a running trial of a session, and end it if ``state`` is given -> None.

    ``state`` may be COMPLETE, PRUNED, FAIL, or WAITING to hand the trial back.
    Raises ``SessionGivenUp`` if the trial is not the session's own any more, or ``InvalidInput``
    for a parameter whose distribution is incompatible with the study's.
    """

    write: WriteId
    update: TrialUpdate
    state: TrialState | None = None
    values: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class CreateTrial:
    """Optuna's ``create_new_trial`` -> :class:`TrialCreated`.

    Without a template the trial runs; if a write is given it is the session's own, and the
    budget may refuse it (``StudyEnded``). Raises ``NotFound``, or ``InvalidInput`` for a
    parameter of the template whose distribution is incompatible with the study's.
    """

    study_id: int
    template: TrialRecord | None = None
    write: WriteId | None = None


class TrialCreated(NamedTuple):
    """Answer of :class:`CreateTrial`."""

    trial_id: int
    number: int


@dataclass(frozen=True, slots=True)
class WriteTrial:
    """Optuna's ``set_trial_*`` methods: a write by a caller that does not own the trial.

    -> False if RUNNING was asked for and the trial was not waiting, else True.
    Raises ``NotFound``, ``TrialFinished``, or ``InvalidInput`` for a parameter whose
    distribution is incompatible with the study's.
    """

    update: TrialUpdate
    state: TrialState | None = None
    values: Sequence[float] | None = None
    write: WriteId | None = None


Command = (
    EnsureStudy
    | CreateStudy
    | StopStudy
    | DeleteStudy
    | SetStudyAttribute
    | OpenSession
    | KeepAlive
    | CloseSession
    | GiveUp
    | OpenTrial
    | UpdateTrial
    | CreateTrial
    | WriteTrial
)


# -- answers of reads -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Summary:
    """A study in a few numbers."""

    counts: Counts
    best: Sequence[TrialRecord]
    """The best trial; with several objectives the head of the Pareto front."""
    front: int
    ended: str
    """Empty while the study may open trials, else one of ``names.ENDED_*``."""
    sessions: int
    """Open now."""
    lost_reasons: dict[str, int] = field(default_factory=dict)
    taken: int = 0
    """Trials that were taken over before the first one, which are in none of the counts."""
    failure: Failure | None = None
    failed_reasons: dict[str, int] = field(default_factory=dict)
    """Of the newest hundred failed trials."""
    silent: Sequence[str] = ()
    """Workers that were given up lately because they said nothing, and have not come back."""

    def head(self, best: int) -> "Summary":
        """Return the summary with at most ``best`` of the best trials."""
        return self if len(self.best) <= best else replace(self, best=self.best[:best])

"""What is asked of a storage beyond Optuna's interface, and what it answers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from trialfleet.client.trial_batches import decode_batch
from trialfleet.model.budget import Goal
from trialfleet.model.definition import differing
from trialfleet.model.study import Counts, Failure
from trialfleet.wire.v1 import trialfleet_pb2 as pb


@dataclass(frozen=True)
class StudyDefinition:
    """A study: what it optimizes, and what ends it. An absent field of the budget sets no end."""

    name: str
    directions: Sequence[StudyDirection]
    trials: int | None = None
    """Counted trials: COMPLETE, PRUNED, and FAIL by the objective's own error."""
    failed_trials: int | None = None
    """The study ends when so many have failed."""
    timeout_s: float | None = None
    """Seconds from the first trial opened."""
    goals: Sequence[Goal | tuple[int, float]] = ()
    patience: int | None = None
    """The study ends after so many counted trials in a row that improve nothing."""
    warm_start: Sequence[str] = ()
    """Names of studies of the storage whose finished trials are taken over before the first one."""
    search_space: Mapping[str, BaseDistribution] = field(default_factory=dict)
    """Distributions that those have to fit, by parameter."""
    retries: int = 0
    """Of a lost trial."""
    enqueue: Sequence[Mapping[str, Any]] = ()
    """Points to run first, parameter to value: made waiting trials once in the study's life."""
    metric_names: Sequence[str] = ()
    """One for each objective, or none."""
    definition: str = ""
    """What makes two studies the same, see ``model.definition``; empty: not told."""
    adopt: bool = False
    """Take over trials of another definition."""
    owner: str = ""
    """Whose it is from now on, at most 256 characters; empty: as before."""
    bare_tokens: bool = False
    """Tokens that bear no owner open it for as long as it is this owner's."""

    def message(self) -> pb.EnsureStudyRequest:
        """Return the request that makes it so. Raises ``TypeError`` for what is not JSON."""
        return pb.EnsureStudyRequest(
            name=self.name,
            directions=[direction.name for direction in self.directions],
            budget=pb.Budget(
                trials=self.trials,
                failed_trials=self.failed_trials,
                timeout_s=self.timeout_s,
                goals=[pb.Goal(objective=goal[0], value=goal[1]) for goal in self.goals],
                patience=self.patience,
            ),
            warm_start=self.warm_start,
            search_space={
                name: distribution_to_json(one) for name, one in self.search_space.items()
            },
            retries=self.retries,
            enqueue_json=[json.dumps(dict(point)) for point in self.enqueue],
            metric_names=self.metric_names,
            definition=self.definition,
            adopt=self.adopt,
            owner=self.owner,
            bare_tokens=self.bare_tokens,
        )


@dataclass(frozen=True)
class Ensured:
    """What a storage has of a study that it was told of."""

    study_id: int
    created: bool
    """It was not there before."""
    trials: int
    """Running or finished ones that were there before."""
    differs: str
    """Not empty: nothing was changed, for the trials are those of another study, in words."""

    @classmethod
    def decode(cls, message: pb.EnsureStudyReply, asked: StudyDefinition) -> "Ensured":
        """Return what a message says."""
        differs = ""
        if message.differs:
            other = differing(message.definition, asked.definition)
            differs = f"the storage has {message.trials} trials of a study {asked.name!r} {other}"
        return cls(message.study_id, message.created, message.trials, differs)


@dataclass(frozen=True)
class Summary:
    """A study in a few numbers: at the client's end of the wire."""

    counts: Counts
    best: list[FrozenTrial]
    """The best trial; with several objectives the head of the Pareto front."""
    front: int
    """Size of the Pareto front; 1 or 0 for a single objective."""
    ended: str
    """Empty while the study may open trials, else one of ``names.ENDED_*``."""
    sessions: int
    """Sessions that are open now."""
    lost_reasons: dict[str, int] = field(default_factory=dict)
    taken: int = 0
    """Trials that were taken over before the first one, which are in none of the counts."""
    failure: Failure | None = None
    """The newest failed trial."""
    failed_reasons: dict[str, int] = field(default_factory=dict)
    """Of the newest hundred failed trials."""
    silent: Sequence[str] = ()
    """Workers that were given up lately because they said nothing, and have not come back."""

    @classmethod
    def decode(cls, message: pb.SummaryReply) -> "Summary":
        """Return what a message says."""
        counts, failed = message.counts, message.failure
        return cls(
            counts=Counts(
                complete=counts.complete,
                pruned=counts.pruned,
                failed=counts.failed,
                running=counts.running,
                waiting=counts.waiting,
                lost=counts.lost,
            ),
            best=decode_batch(message.best),
            front=message.front,
            ended=message.ended,
            sessions=message.sessions,
            lost_reasons=dict(message.lost_reasons),
            taken=message.taken,
            failure=(
                Failure(failed.number, failed.reason, failed.message)
                if message.HasField("failure")
                else None
            ),
            failed_reasons=dict(message.failed_reasons),
            silent=tuple(message.silent),
        )


@dataclass(frozen=True)
class GivenUp:
    """What became of a dead worker's sessions and trials: at the client's end of the wire."""

    sessions: int
    """Sessions that this call ended."""
    lost: Sequence[int]
    """Numbers of the trials that were lost."""
    requeued: Sequence[int]
    """Numbers of the waiting trials made of them."""
    failed: Sequence[int]
    """Numbers of the trials that count as failed."""
    opened: int = 0
    """Sessions that the worker ever had; 0 if it ended before its first trial."""

    @classmethod
    def decode(cls, message: pb.GiveUpReply) -> "GivenUp":
        """Return what a message says."""
        return cls(
            sessions=message.sessions,
            lost=tuple(message.lost),
            requeued=tuple(message.requeued),
            failed=tuple(message.failed),
            opened=message.opened,
        )

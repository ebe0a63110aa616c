"""The status of a Study: small and of constant size; trials live in PostgreSQL."""

from typing import Annotated, Literal

from pydantic import Field

from trialfleet.api.base import Condition, Model, Scalar

_Count = Annotated[int, Field(ge=0)]


class TrialCounts(Model):
    """How many trials are in each state."""

    complete: _Count = 0
    """Trials that returned a value."""
    pruned: _Count = 0
    """Trials that the pruner gave up early."""
    failed: _Count = 0
    """Trials whose objective raised, crashed or was out of memory."""
    running: _Count = 0
    """Trials that a worker runs now."""
    waiting: _Count = 0
    """Trials that wait for a worker."""
    lost: _Count = 0
    """Trials whose worker was taken away; they are not counted by the budget."""


class BestTrial(Model):
    """One of the best trials."""

    number: _Count
    """The trial's number."""
    values: dict[str, float]
    """The value of each objective, by its name."""
    params: dict[str, Scalar]
    """The trial's parameters."""


class WorkerCounts(Model):
    """How many workers there should be, and are."""

    desired: _Count = 0
    """Workers that the study should have now."""
    ready: _Count = 0
    """Workers that hold a session."""


class StudyStatus(Model):
    """What is known of a study; written by the operator."""

    phase: (
        Literal[
            "Pending",
            "Preparing",
            "Running",
            "Stalled",
            "Suspended",
            "Collating",
            "Complete",
            "Failed",
        ]
        | None
    ) = None
    """One word for the eye; the conditions are the truth."""
    message: Annotated[str, Field(max_length=256)] | None = None
    """What is in the way, or how the study ended; one line."""
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=32,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            },
        ),
    ] = Field(default_factory=list)
    """StorageReady, Prepared, Running, Complete, Failed, Suspended and others, with reasons."""
    observed_generation: _Count | None = None
    """The generation of the spec that this status was made for."""
    progress: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, examples=["120/200"]
    )
    """Counted trials and the budget's number of them."""
    trials: TrialCounts | None = None
    """How many trials are in each state."""
    best_value: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, examples=["0.981"]
    )
    """The best trial's value; absent where there are several objectives."""
    best: Annotated[list[BestTrial], Field(max_length=10)] | None = None
    """The best trial, or the head of the Pareto front where there are several objectives."""
    pareto_front: _Count | None = None
    """Size of the Pareto front where there are several objectives."""
    workers: WorkerCounts | None = None
    """How many workers there should be, and are."""
    selector: Annotated[str, Field(max_length=512)] | None = None
    """The workers' label selector, for the scale subresource."""
    storage: Annotated[str, Field(max_length=253)] | None = None
    """Name of the StudyStorage that holds the trials."""
    start_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None = None
    """When the first trial was opened."""
    completion_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None = None
    """When the study ended."""
    ended: Annotated[str, Field(max_length=64)] | None = None
    """Why the study ended: TrialsComplete, FailedTrialsExceeded, Timeout or GoalReached."""
    lost_reasons: Annotated[dict[str, _Count], Field(max_length=64)] | None = None
    """Lost trials by reason."""
    last_failure: Annotated[str, Field(max_length=1024)] | None = None
    """The newest failed trial: its number, the reason, the error in short."""
    failed_reasons: Annotated[dict[str, _Count], Field(max_length=64)] | None = None
    """The newest failed trials, a hundred at most, by reason."""

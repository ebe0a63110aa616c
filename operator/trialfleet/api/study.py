"""The resource Study: one hyperparameter optimization."""

from itertools import islice
from typing import Annotated, Final, Literal, Self

from optuna.study import StudyDirection
from pydantic import ConfigDict, Field, model_validator

from trialfleet.api.base import (
    RULES,
    ConfigMapKey,
    DnsSubdomain,
    Duration,
    Finding,
    MetricName,
    Model,
    ObjectMeta,
    ParameterName,
    Scalar,
    Text,
    broken,
    broken_at,
    exactly_one,
    found_fields,
    rule,
)
from trialfleet.api.callback import Callback
from trialfleet.api.objective import Objective
from trialfleet.api.optuna_classes import Pruner, Sampler
from trialfleet.api.pods import PodTemplate, RunOncePodTemplate
from trialfleet.api.search_space import ParameterSpace
from trialfleet.api.study_rules import STUDY_NAME, spec_errors, spec_notices, spec_rules
from trialfleet.api.study_status import StudyStatus
from trialfleet.api.study_storage import Idle
from trialfleet.api.suggestions import found


class ObjectiveValue(Model):
    """One value that a trial returns."""

    name: MetricName
    """Name of the value, as it appears in the status and in tables."""
    direction: Literal["minimize", "maximize"]
    """Which values are better."""
    goal: float | None = None
    """The study ends when a trial's value is as good as this."""

    @property
    def study_direction(self) -> StudyDirection:
        """The direction as Optuna's constant."""
        return StudyDirection[self.direction.upper()]


class Patience(Model):
    """How long a study goes on without improving."""

    trials: Annotated[int, Field(ge=1, le=2_147_483_647)] = Field(examples=[50])
    """Counted trials in a row, as in budget.trials, of which none is better than the best one so
    far; with several objectives, of which none belongs to their Pareto front."""


class BudgetSpec(Model):
    """What ends a study: trials, failedTrials, timeout, patience, or an objective's goal."""

    trials: Annotated[int, Field(ge=1, le=2_147_483_647)] | None = Field(
        default=None, examples=[200]
    )
    """Ends after so many trials: complete, pruned, or failed by their own error. Lost ones are
    not counted. Never exceeded."""
    failed_trials: Annotated[int, Field(ge=1, le=2_147_483_647)] | None = Field(
        default=None, examples=[10]
    )
    """Ends when so many trials have failed by their own error."""
    timeout: Duration | None = Field(default=None, examples=["2h"])
    """Ends so long after the first trial was opened; running trials are finished."""
    patience: Patience | None = Field(default=None, examples=[{"trials": 50}])
    """Ends when so many trials in a row have improved nothing."""
    trial_timeout: Duration | None = Field(default=None, examples=["20m"])
    """A trial that runs longer has failed. Ends no study."""


_ONE_STORAGE: Final = "accepted: exactly one of name and idle"


class StorageRef(Model):
    """A StudyStorage in the same namespace, or what is special about one of the study's own."""

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [rule(exactly_one("name", "idle"), _ONE_STORAGE)],
            "examples": [{"name": "shared"}, {"idle": {"action": "Keep"}}],
        }
    )

    name: DnsSubdomain | None = None
    """Name of the StudyStorage; absent: one of the study's own."""
    idle: Idle | None = None
    """What the study's own storage does once the study has ended; absent: it sleeps after 10m."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.name is None) == (self.idle is None):
            raise broken(f"{found_fields(self, 'name', 'idle')}, {_ONE_STORAGE}")
        return self


_ONE_SOURCE: Final = "accepted: exactly one of configMap and file"
_FILE: Final = "file is read on one machine only, by 'trialfleet run'; on a cluster give configMap"


class TrialsFrom(Model):
    """Where points to run first are read from: a JSON list of objects, parameter to value."""

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                rule("!has(self.file)", _FILE),
                rule(exactly_one("configMap", "file"), _ONE_SOURCE),
            ],
            "examples": [{"configMap": {"name": "points", "key": "hparams.json"}}],
        }
    )

    config_map: ConfigMapKey | None = None
    """The key of a ConfigMap that holds the list, such as hparams.json."""
    file: Text | None = None
    """A file beside the manifest that holds the list. Read by `trialfleet run`, on one machine
    only: a cluster does not have the file, so it wants configMap."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.config_map is None) == (self.file is None):
            raise broken(f"{found_fields(self, 'config_map', 'file')}, {_ONE_SOURCE}")
        return self


class WarmStart(Model):
    """A study whose finished trials are taken over."""

    study: Annotated[str, Field(min_length=1, max_length=512)] = Field(examples=["digits-2024"])
    """Name of a study of the same storage, with objectives of the same directions."""


_MAX_ERRORS = 100

_Point = Annotated[dict[ParameterName, Scalar], Field(max_length=256)]


class StudySpec(Model):
    """What to optimize, how, and for how long."""

    model_config = ConfigDict(json_schema_extra={RULES: spec_rules()})

    objectives: Annotated[
        list[ObjectiveValue],
        Field(
            min_length=1,
            max_length=16,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            },
        ),
    ] = Field(examples=[[{"name": "accuracy", "direction": "maximize", "goal": 0.99}]])
    """What a trial returns, one or more values, in this order."""
    sampler: Sampler = Field(
        default=Sampler(name="TPESampler"),
        examples=[{"name": "TPESampler", "options": {"multivariate": True, "seed": 7}}],
    )
    """How parameters are chosen: a class of optuna.samplers."""
    pruner: Pruner = Field(
        default=Pruner(name="MedianPruner"),
        examples=[{"name": "MedianPruner", "options": {"n_startup_trials": 5}}],
    )
    """When a trial is given up early: a class of optuna.pruners. Asked when the objective asks."""
    budget: BudgetSpec = BudgetSpec()
    """What ends the study. Changes live."""
    parallelism: Annotated[int, Field(ge=0, le=10_000)] = 1
    """How many workers run at once. Changes live; the scale subresource."""
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    """How often a lost trial is run again with the same parameters. Changes live."""
    suspend: bool = False
    """Stop all workers, keep all trials. Changes live."""
    trials: Annotated[list[_Point], Field(max_length=10_000, fail_fast=True)] | None = Field(
        default=None, examples=[[{"lr": 0.1, "depth": 3}]]
    )
    """Points to run first; parameters that a point leaves out are sampled."""
    trials_from: TrialsFrom | None = None
    """Points to run first, from a ConfigMap or, on one machine, a file."""
    warm_start: Annotated[list[WarmStart], Field(min_length=1, max_length=16)] | None = Field(
        default=None, examples=[[{"study": "digits-2024"}]]
    )
    """Studies whose complete and pruned trials are taken over once, before the first trial: the
    sampler and the pruner know them, and they count in no budget."""
    search_space: (
        Annotated[dict[ParameterName, ParameterSpace], Field(min_length=1, max_length=256)] | None
    ) = Field(
        default=None,
        examples=[
            {
                "lr": {"float": {"low": 1e-5, "high": 0.1, "log": True}},
                "depth": {"int": {"low": 1, "high": 9}},
                "kind": {"categorical": ["svm", "forest"]},
            }
        ],
    )
    """The parameters and their values. A Python objective may suggest its parameters itself
    instead; the kinds command and job can't."""
    objective: Objective
    """What a trial runs."""
    callbacks: Annotated[list[Callback], Field(min_length=1, max_length=16)] | None = Field(
        default=None,
        examples=[
            [
                {
                    "name": "optuna_integration.MLflowCallback",
                    "options": {"tracking_uri": "http://mlflow:5000"},
                }
            ]
        ],
    )
    """Called by each worker after each of its trials, as those of Optuna's `study.optimize`: with
    the study and the trial, in this order. One that raises is logged; the trial stays as it is."""
    template: PodTemplate | None = None
    """The workers' pods: image, resources, GPUs, volumes, affinity."""
    prepare: RunOncePodTemplate | None = None
    """A pod that runs once before the first trial."""
    collate: RunOncePodTemplate | None = None
    """A pod that runs once after the last trial and sees the results."""
    adopt: bool = False
    """Go on with trials under this name that are of another definition: of other objectives,
    another objective or another search space. Changes live."""
    storage: StorageRef | None = None
    """The StudyStorage that holds the trials; absent, or without a name: one of the study's own."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2_147_483_647)] | None = Field(
        default=None, examples=[86_400]
    )
    """The study is deleted so many seconds after it ended; absent: it stays."""

    @property
    def storage_name(self) -> str | None:
        """Name of the StudyStorage; None: one of the study's own."""
        return None if self.storage is None else self.storage.name

    @model_validator(mode="after")
    def _check(self) -> Self:
        # More than are told in the end; there may be one for each of thousands of points.
        errors = list(islice(spec_errors(self), _MAX_ERRORS))
        if errors:
            raise broken_at("StudySpec", errors)
        return self


class Study(Model):
    """One hyperparameter optimization: trials of an objective, until a budget ends it."""

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                rule(
                    "self.metadata.name.size() <= 48 && !self.metadata.name.contains('.')",
                    STUDY_NAME,
                )
            ]
        }
    )

    api_version: Literal["trialfleet.dev/v1alpha1"] = "trialfleet.dev/v1alpha1"
    kind: Literal["Study"] = "Study"
    metadata: ObjectMeta
    spec: StudySpec
    status: StudyStatus | None = None

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        name = self.metadata.name
        if len(name) > 48 or "." in name:
            raise broken_at(
                "Study", [Finding(("metadata", "name"), f"found {found(name)}, {STUDY_NAME}")]
            )
        return self

    def notices(self) -> list[Finding]:
        """Return what is accepted but has no effect, or not everywhere."""
        return [
            Finding(("spec", *notice.path), notice.message) for notice in spec_notices(self.spec)
        ]

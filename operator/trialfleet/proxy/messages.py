"""From the messages of ``trialfleet.v1`` to commands and records, and back.

Every function that takes a message raises :class:`~trialfleet.model.errors.InvalidInput`, with the
field's path, for one that no command can be made of.
"""

import functools
import json
import math
from collections.abc import Iterable, Sequence
from typing import Final

from google.protobuf.message import DecodeError
from optuna.distributions import json_to_distribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from trialfleet.model import definition
from trialfleet.model.budget import Budget, Goal
from trialfleet.model.errors import InvalidInput, NotFound
from trialfleet.model.session import WriteId
from trialfleet.model.study import Counts, StudyRecord
from trialfleet.model.trial import Param, TrialRecord, TrialUpdate
from trialfleet.proxy.batches import moment
from trialfleet.storage.commands import EnsureStudy, GiveUp, OpenSession
from trialfleet.wire.v1 import trialfleet_pb2 as pb

SESSION_BYTES: Final = 16

MAX_TRIALS: Final = 1000
"""Trials of one GetTrials, and best trials of one Summary."""

# Of Optuna's columns: ids and numbers are 32 bits wide there, and wider on the wire.
_MAX_INT: Final = 2**31 - 1
_MAX_SEQUENCE: Final = 2**63 - 1
_LONGEST_OWNER: Final = 256
"""Characters."""

# Both protocols give Optuna's states Optuna's own numbers.
_STATES: Final = {state.value: state for state in TrialState}
_DIRECTIONS: Final[dict[int, StudyDirection]] = {
    pb.MINIMIZE: StudyDirection.MINIMIZE,
    pb.MAXIMIZE: StudyDirection.MAXIMIZE,
}
_DIRECTION_NUMBERS: Final = {
    StudyDirection.MINIMIZE: pb.MINIMIZE,
    StudyDirection.MAXIMIZE: pb.MAXIMIZE,
}


def study_id(number: int) -> int:
    """Return a study's id; raise :class:`NotFound` for one that no study can have."""
    if not 0 < number <= _MAX_INT:
        raise NotFound(f"no study has the id {number}")
    return number


def trial_id(number: int) -> int:
    """Return a trial's id; raise :class:`NotFound` for one that no trial can have."""
    if not 0 < number <= _MAX_INT:
        raise NotFound(f"no trial has the id {number}")
    return number


def trial_number(number: int) -> int:
    """Return a trial's number; raise :class:`NotFound` for one that no trial can have."""
    if not 0 <= number <= _MAX_INT:
        raise NotFound(f"no study has a trial {number}")
    return number


def trial_ids(numbers: Iterable[int]) -> list[int]:
    """Return those of the numbers that a trial can have as its id."""
    return [number for number in numbers if 0 < number <= _MAX_INT]


def greater_than(number: int) -> int:
    """Return the bound that lets the same ids pass and fits an id's column."""
    return min(max(number, 0), _MAX_INT)


def study_name(text: str) -> str:
    """Return a name to look a study up by."""
    if "\0" in text:
        raise InvalidInput(f"name: found {text!r}, accepted: a text without NUL characters")
    return text


def check_json(text: str, path: str) -> str:
    """Return ``text`` if it is JSON: what is stored here every Optuna tool will parse."""
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: not JSON text: {error}") from error
    return text


@functools.lru_cache(maxsize=1024)
def check_distribution(text: str) -> str:
    """Return ``text`` if it is a distribution in Optuna's JSON."""
    try:
        json_to_distribution(text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        shown = text if len(text) <= 200 else f"{text[:200]}..."
        raise InvalidInput(
            f"distribution_json: found {shown!r}, accepted: the JSON text that Optuna's "
            f"distribution_to_json gives"
        ) from error
    return text


def state(number: int) -> TrialState:
    """Return the state that a number stands for."""
    found = _STATES.get(number)
    if found is None:
        raise InvalidInput(f"state: found {number}, accepted: 0 to {len(_STATES) - 1}")
    return found


def direction_numbers(directions: Iterable[StudyDirection]) -> list[pb.Direction]:
    """Return directions as messages have them."""
    return [_DIRECTION_NUMBERS[direction] for direction in directions]


def directions(numbers: Iterable[int]) -> list[StudyDirection]:
    """Return the directions of a study; at least one."""
    try:
        found = [_DIRECTIONS[number] for number in numbers]
    except KeyError as error:
        raise InvalidInput(f"directions: found {error}, accepted: MINIMIZE, MAXIMIZE") from error
    if not found:
        raise InvalidInput("directions: found none, accepted: one for each objective")
    return found


def session(found: bytes, path: str = "session") -> bytes:
    """Return a session's name."""
    if len(found) != SESSION_BYTES:
        raise InvalidInput(f"{path}: found {len(found)} bytes, accepted: {SESSION_BYTES} bytes")
    return found


def write_id(write: pb.WriteId) -> WriteId:
    """Return the identity of a write, which is required."""
    if not 0 < write.sequence <= _MAX_SEQUENCE:
        raise InvalidInput(
            f"write.sequence: found {write.sequence}, accepted: 1 to {_MAX_SEQUENCE}"
        )
    return WriteId(session(write.session, "write.session"), write.sequence)


def values(found: Sequence[float]) -> list[float] | None:
    """Return a trial's values; None if there are none."""
    return list(found) or None


def _attributes(found: Iterable[pb.Attribute], path: str) -> list[tuple[str, str]]:
    return [(a.key, check_json(a.value_json, f"{path}[{a.key!r}]")) for a in found]


def _intermediate_values(message: pb.Trial | pb.TrialUpdate) -> list[tuple[int, float]]:
    steps, found = message.steps, message.intermediate_values
    if len(steps) != len(found):
        raise InvalidInput(
            f"intermediate_values: found {len(found)} for {len(steps)} steps, accepted: as many"
        )
    return list(zip(steps, found, strict=True))


def trial_update(update: pb.TrialUpdate) -> TrialUpdate:
    """Return what a trial gained."""
    return TrialUpdate(
        trial_id=trial_id(update.trial_id),
        params=[
            Param(p.name, p.value, check_distribution(p.distribution_json)) for p in update.params
        ],
        user_attrs=_attributes(update.user_attrs, "user_attrs"),
        system_attrs=_attributes(update.system_attrs, "system_attrs"),
        intermediate_values=_intermediate_values(update),
    )


def check_selection(request: pb.GetTrialsRequest) -> None:
    """Raise :class:`~trialfleet.model.errors.InvalidInput` if too many trials are asked for."""
    asked = len(request.trial_ids) + len(request.numbers)
    if asked > MAX_TRIALS:
        raise InvalidInput(f"trial_ids, numbers: found {asked}, accepted: {MAX_TRIALS} at most")


def template(batch: pb.TrialBatch) -> TrialRecord:
    """Return the trial of a batch that holds exactly one and all its definitions."""
    if len(batch.trials) != 1:
        raise InvalidInput(f"template.trials: found {len(batch.trials)}, accepted: 1")
    if batch.first_definition:
        raise InvalidInput(
            f"template.first_definition: found {batch.first_definition}, accepted: 0"
        )
    try:
        trial = pb.Trial.FromString(batch.trials[0])
    except DecodeError as error:
        raise InvalidInput("template.trials: found bytes that are no Trial") from error
    if len(trial.params) != len(trial.definitions):
        raise InvalidInput(
            f"template: found {len(trial.params)} params for {len(trial.definitions)} "
            f"definitions, accepted: as many"
        )
    params = []
    for index, value in zip(trial.definitions, trial.params, strict=True):
        if index >= len(batch.definitions):
            raise InvalidInput(
                f"template: found the definition {index}, accepted: less than "
                f"{len(batch.definitions)}"
            )
        definition = batch.definitions[index]
        distribution = check_distribution(definition.distribution_json)
        params.append(Param(definition.name, value, distribution))
    try:
        started = moment(trial.started_us) if trial.HasField("started_us") else None
        completed = moment(trial.completed_us) if trial.HasField("completed_us") else None
    except OverflowError as error:
        raise InvalidInput(f"template: a time out of range: {error}") from error
    return TrialRecord(
        trial_id=0,
        number=0,
        state=state(trial.state),
        values=values(trial.values),
        started=started,
        completed=completed,
        params=params,
        user_attrs=_attributes(trial.user_attrs, "template.user_attrs"),
        system_attrs=_attributes(trial.system_attrs, "template.system_attrs"),
        intermediate_values=_intermediate_values(trial),
    )


def _budget(budget: pb.Budget, objectives: int) -> Budget:
    timeout_s = budget.timeout_s if budget.HasField("timeout_s") else None
    if timeout_s is not None and not (math.isfinite(timeout_s) and timeout_s >= 0):
        raise InvalidInput(f"budget.timeout_s: found {timeout_s}, accepted: 0 or more seconds")
    goals = []
    for place, goal in enumerate(budget.goals):
        if goal.objective >= objectives:
            raise InvalidInput(
                f"budget.goals[{place}].objective: found {goal.objective}, accepted: "
                f"0 to {objectives - 1}"
            )
        if math.isnan(goal.value):
            raise InvalidInput(f"budget.goals[{place}].value: found NaN, accepted: a number")
        goals.append(Goal(goal.objective, goal.value))
    return Budget(
        trials=budget.trials if budget.HasField("trials") else None,
        failed_trials=budget.failed_trials if budget.HasField("failed_trials") else None,
        timeout_s=timeout_s,
        goals=tuple(goals),
        patience=budget.patience if budget.HasField("patience") else None,
    )


def owner(text: str) -> str:
    """Return whose a study is, as its owner says."""
    if len(text) > _LONGEST_OWNER:
        raise InvalidInput(
            f"owner: found {len(text)} characters, accepted: at most {_LONGEST_OWNER}"
        )
    if "\0" in text:
        raise InvalidInput(f"owner: found {text!r}, accepted: a text without NUL characters")
    return text


def ensure_study(request: pb.EnsureStudyRequest) -> EnsureStudy:
    """Return the command of a request."""
    if not request.name:
        raise InvalidInput("name: found none, accepted: the study's name")
    objectives = directions(request.directions)
    if request.metric_names and len(request.metric_names) != len(objectives):
        raise InvalidInput(
            f"metric_names: found {len(request.metric_names)}, accepted: none, or one for each "
            f"of the {len(objectives)} objectives"
        )
    for place, text in enumerate(request.enqueue_json):
        path = f"enqueue_json[{place}]"
        if not check_json(text, path).lstrip().startswith("{"):
            raise InvalidInput(f"{path}: found {text!r}, accepted: an object, parameter to value")
    if len(request.definition) > definition.LONGEST:
        raise InvalidInput(
            f"definition: found {len(request.definition)} characters, accepted: at most "
            f"{definition.LONGEST}"
        )
    return EnsureStudy(
        name=request.name,
        directions=objectives,
        budget=_budget(request.budget, len(objectives)),
        retries=request.retries,
        enqueue=list(request.enqueue_json),
        metric_names=list(request.metric_names),
        definition=request.definition,
        adopt=request.adopt,
        owner=owner(request.owner),
        warm_start=list(request.warm_start),
        search_space={
            name: check_distribution(text) for name, text in request.search_space.items()
        },
        bare_tokens=request.bare_tokens,
    )


def open_session(request: pb.OpenSessionRequest) -> OpenSession:
    """Return the command of a request."""
    if not request.worker:
        raise InvalidInput("worker: found none, accepted: the worker's name")
    lasting = request.time_to_live_s
    if not (math.isfinite(lasting) and lasting > 0):
        raise InvalidInput(f"time_to_live_s: found {lasting}, accepted: more than 0 seconds")
    return OpenSession(
        session(request.session),
        request.worker,
        request.study,
        lasting,
        definition=request.definition,
    )


def give_up(request: pb.GiveUpRequest) -> GiveUp:
    """Return the command of a request."""
    if not request.reason:
        raise InvalidInput("reason: found none, accepted: one word, such as Evicted")
    whose = request.WhichOneof("whose")
    if whose is None or (whose == "worker" and not request.worker):
        raise InvalidInput("whose: found none, accepted: a session or a worker")
    return GiveUp(
        reason=request.reason,
        message=request.message,
        session=session(request.session) if whose == "session" else None,
        worker=request.worker if whose == "worker" else None,
        failed=request.failed,
    )


def _pairs(attributes: Iterable[tuple[str, str]]) -> list[pb.Attribute]:
    return [pb.Attribute(key=key, value_json=value) for key, value in attributes]


def study(record: StudyRecord) -> pb.Study:
    """Return the message for a study."""
    return pb.Study(
        study_id=record.study_id,
        name=record.name,
        directions=direction_numbers(record.directions),
        user_attrs=_pairs(record.user_attrs),
        system_attrs=_pairs(record.system_attrs),
        owner=record.owner,
    )


def counts(record: Counts) -> pb.Counts:
    """Return the message for a study's counts."""
    return pb.Counts(
        complete=record.complete,
        pruned=record.pruned,
        failed=record.failed,
        running=record.running,
        waiting=record.waiting,
        lost=record.lost,
    )

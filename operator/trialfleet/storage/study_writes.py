"""Writes to studies: create, define, delete, set attributes."""

import json
from collections.abc import Sequence

import sqlalchemy as sa
from optuna.study import StudyDirection
from optuna.trial import TrialState

from trialfleet import names
from trialfleet.model.errors import InvalidInput, NotFound, StudyExists
from trialfleet.model.trial import TrialRecord
from trialfleet.storage.commands import (
    CreateStudy,
    DeleteStudy,
    EnsureStudy,
    SetStudyAttribute,
    StopStudy,
    StudyEnsured,
)
from trialfleet.storage.opening import insert_trial
from trialfleet.storage.reading import read_studies, require_study
from trialfleet.storage.transaction import Transaction
from trialfleet.storage.warm_start import take_over

_INSERT_STUDY = sa.text(
    "INSERT INTO studies (study_name) VALUES (:name) ON CONFLICT DO NOTHING RETURNING study_id"
)
_INSERT_DIRECTIONS = sa.text(
    """
    INSERT INTO study_directions (study_id, direction, objective)
    SELECT :study_id, CAST(direction AS studydirection), objective - 1
    FROM unnest(CAST(:directions AS text[])) WITH ORDINALITY AS d (direction, objective)
    """
)
_DEFINE = sa.text(
    """
    INSERT INTO trialfleet_studies AS s
        (study_id, max_trials, max_failed, timeout_s, goals, patience, retries, definition, owner,
        bare_tokens_owner)
    VALUES (:study_id, :max_trials, :max_failed, :timeout_s, CAST(:goals AS jsonb), :patience,
        :retries, nullif(:definition, ''), nullif(:owner, ''), nullif(:bare_tokens_owner, ''))
    ON CONFLICT (study_id) DO UPDATE SET max_trials = excluded.max_trials,
        max_failed = excluded.max_failed, timeout_s = excluded.timeout_s,
        goals = excluded.goals, patience = excluded.patience, retries = excluded.retries,
        definition = coalesce(excluded.definition, s.definition),
        owner = coalesce(excluded.owner, s.owner),
        bare_tokens_owner = coalesce(excluded.bare_tokens_owner, s.bare_tokens_owner),
        stopped = s.stopped
            AND (s.max_trials, s.max_failed, s.timeout_s, s.goals, s.patience)
                IS NOT DISTINCT FROM (excluded.max_trials, excluded.max_failed,
                    excluded.timeout_s, excluded.goals, excluded.patience)
    RETURNING enqueued
    """
)
_TOLD = sa.text(
    """
    SELECT coalesce(max(d.definition), ''),
        coalesce(sum(c.complete + c.pruned + c.failed + c.running), 0)::bigint
            - coalesce(max(d.taken[1] + d.taken[2]), 0)
    FROM studies s
    LEFT JOIN trialfleet_studies d USING (study_id)
    LEFT JOIN trialfleet_counts c USING (study_id)
    WHERE s.study_id = :study_id
    """
)
_ENQUEUED = sa.text("UPDATE trialfleet_studies SET enqueued = true WHERE study_id = :study_id")
_STOP = sa.text(
    "INSERT INTO trialfleet_studies (study_id, stopped) VALUES (:study_id, true) "
    "ON CONFLICT (study_id) DO UPDATE SET stopped = true"
)
_UNLIMITED = sa.text("SET LOCAL statement_timeout = 0")
_LOCK_BY_NAME = sa.text("SELECT study_id FROM studies WHERE study_name = :name FOR NO KEY UPDATE")
_LOCK_TO_DELETE = sa.text("SELECT 1 FROM studies WHERE study_id = :study_id FOR UPDATE")
# Optuna's foreign keys don't cascade. The trials are locked before what belongs to them, as
# whoever writes to a trial does.
_DELETE = (
    [
        sa.text(
            "SELECT count(*) FROM "
            "(SELECT FROM trials WHERE study_id = :study_id ORDER BY trial_id FOR UPDATE) AS locked"
        )
    ]
    + [
        sa.text(
            f"DELETE FROM {table} WHERE trial_id IN "
            "(SELECT trial_id FROM trials WHERE study_id = :study_id)"
        )
        for table in (
            "trial_heartbeats",
            "trial_intermediate_values",
            "trial_values",
            "trial_params",
            "trial_user_attributes",
            "trial_system_attributes",
        )
    ]
    + [
        sa.text(f"DELETE FROM {table} WHERE study_id = :study_id")
        for table in (
            "trials",
            "study_user_attributes",
            "study_system_attributes",
            "study_directions",
            "studies",
        )
    ]
)


def _set_attribute(system: bool) -> sa.TextClause:
    table = "study_system_attributes" if system else "study_user_attributes"
    return sa.text(
        f"INSERT INTO {table} (study_id, key, value_json) VALUES (:study_id, :key, :value_json) "
        "ON CONFLICT (study_id, key) DO UPDATE SET value_json = excluded.value_json"
    )


_SET_ATTRIBUTE = {system: _set_attribute(system) for system in (False, True)}


def create_study(transaction: Transaction, command: CreateStudy) -> int:
    """See :class:`CreateStudy`."""
    study_id = _insert(transaction, command.name, command.directions)
    if study_id is None:
        raise StudyExists(f"a study with the name {command.name!r} exists")
    return study_id


def _insert(
    transaction: Transaction, name: str, directions: Sequence[StudyDirection]
) -> int | None:
    study_id = transaction.execute(_INSERT_STUDY, {"name": name}).scalar()
    if study_id is not None:
        transaction.execute(
            _INSERT_DIRECTIONS,
            {"study_id": study_id, "directions": [direction.name for direction in directions]},
        )
    return study_id


def _insert_or_lock(transaction: Transaction, command: EnsureStudy) -> tuple[int, bool]:
    """Return a study's id and whether it is new; nobody deletes it meanwhile."""
    while True:
        study_id = _insert(transaction, command.name, command.directions)
        if study_id is not None:
            return study_id, True
        study_id = transaction.execute(_LOCK_BY_NAME, {"name": command.name}).scalar()
        if study_id is not None:
            return study_id, False
        # It was deleted between the two.


def ensure_study(transaction: Transaction, command: EnsureStudy) -> StudyEnsured:
    """See :class:`EnsureStudy`."""
    study_id, created = _insert_or_lock(transaction, command)
    if not created:
        (study,) = read_studies(transaction.connection, study_id=study_id)
        if list(study.directions) != list(command.directions):
            found, accepted = (
                ", ".join(direction.name.lower() for direction in directions)
                for directions in (command.directions, study.directions)
            )
            raise InvalidInput(
                f"objectives: found the directions {found}, but the study {command.name!r} exists "
                f"with {accepted}: give the study another name, or delete it"
            )
    stored, trials = ("", 0) if created else _told(transaction, study_id)
    other = bool(command.definition) and stored != command.definition
    if other and trials and not command.adopt:
        return StudyEnsured(study_id, created, differs=True, trials=trials, definition=stored)
    budget = command.budget
    enqueued = transaction.execute(
        _DEFINE,
        {
            "study_id": study_id,
            "max_trials": budget.trials,
            "max_failed": budget.failed_trials,
            "timeout_s": budget.timeout_s,
            "goals": json.dumps([list(goal) for goal in budget.goals]),
            "patience": budget.patience,
            "retries": command.retries,
            "definition": command.definition,
            "owner": command.owner,
            "bare_tokens_owner": command.owner if command.bare_tokens else "",
        },
    ).scalar_one()
    if command.warm_start:
        take_over(
            *(transaction, study_id, command.directions),
            *(command.warm_start, command.search_space),
        )
    if command.metric_names:
        transaction.execute(
            _SET_ATTRIBUTE[True],
            {
                "study_id": study_id,
                "key": names.ATTR_METRIC_NAMES,
                "value_json": json.dumps(list(command.metric_names)),
            },
        )
    if command.enqueue and not enqueued:
        for point in command.enqueue:
            insert_trial(
                transaction,
                study_id,
                TrialRecord(
                    trial_id=0,
                    number=0,
                    state=TrialState.WAITING,
                    system_attrs=[(names.ATTR_FIXED_PARAMS, point)],
                ),
            )
        transaction.execute(_ENQUEUED, {"study_id": study_id})
    return StudyEnsured(study_id, created, trials=trials, definition=stored)


def _told(transaction: Transaction, study_id: int) -> tuple[str, int]:
    """Return a study's definition, and how many of its trials run or have finished."""
    row = transaction.execute(_TOLD, {"study_id": study_id}).one()
    return str(row[0]), int(row[1])


def stop_study(transaction: Transaction, command: StopStudy) -> None:
    """See :class:`StopStudy`."""
    require_study(transaction.connection, command.study_id)
    transaction.execute(_STOP, {"study_id": command.study_id})


def delete_study(transaction: Transaction, command: DeleteStudy) -> None:
    """See :class:`DeleteStudy`."""
    # As long as it takes: 0.1 ms a trial, so a minute for as few as 600,000.
    transaction.execute(_UNLIMITED)
    if transaction.execute(_LOCK_TO_DELETE, {"study_id": command.study_id}).first() is None:
        raise NotFound(f"no study has the id {command.study_id}")
    for statement in _DELETE:
        transaction.execute(statement, {"study_id": command.study_id})


def set_study_attribute(transaction: Transaction, command: SetStudyAttribute) -> None:
    """See :class:`SetStudyAttribute`."""
    require_study(transaction.connection, command.study_id)
    transaction.execute(
        _SET_ATTRIBUTE[command.system],
        {"study_id": command.study_id, "key": command.key, "value_json": command.value_json},
    )

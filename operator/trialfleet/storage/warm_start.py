"""Warm start: finished trials of other studies, taken over before a study's first trial."""

import json
from collections.abc import Mapping, Sequence
from typing import Final

import sqlalchemy as sa
from optuna.distributions import check_distribution_compatibility, json_to_distribution
from optuna.study import StudyDirection

from trialfleet import names
from trialfleet.model.errors import InvalidInput
from trialfleet.storage.reading import read_studies
from trialfleet.storage.transaction import Transaction

_IS_NEW: Final = sa.text(
    """
    SELECT d.taken IS NULL AND NOT EXISTS (SELECT FROM trials t WHERE t.study_id = d.study_id)
    FROM trialfleet_studies d WHERE d.study_id = :study_id
    """
)
_TAKEN: Final = sa.text("UPDATE trialfleet_studies SET taken = :taken WHERE study_id = :study_id")

# Against a deletion meanwhile, and against nothing else. What a finished trial has never changes.
_LOCK: Final = sa.text("SELECT FROM studies WHERE study_id = :study_id FOR KEY SHARE")
_FINISHED: Final = sa.text(
    """
    SELECT t.trial_id, t.state FROM unnest(ARRAY[CAST(:study_id AS int)]) AS u (study_id)
    JOIN trials t USING (study_id) WHERE t.state IN ('COMPLETE', 'PRUNED') ORDER BY t.number
    """
)
# Numbers follow the order of ids: Optuna numbers a trial by counting those with a lower id.
_TRIALS: Final = sa.text(
    """
    INSERT INTO trials (study_id, number, state, datetime_start, datetime_complete)
    SELECT :study_id, :first + u.place - 1, t.state, t.datetime_start, t.datetime_complete
    FROM unnest(CAST(:ids AS int[])) WITH ORDINALITY AS u (trial_id, place)
    JOIN trials t USING (trial_id) ORDER BY u.place RETURNING number, trial_id
    """
)


def _part(table: str, columns: str, condition: str = "true") -> sa.TextClause:
    return sa.text(
        f"INSERT INTO {table} (trial_id, {columns}) SELECT u.new_id, {columns} "
        "FROM unnest(CAST(:old_ids AS int[]), CAST(:new_ids AS int[])) AS u (old_id, new_id) "
        f"JOIN {table} p ON p.trial_id = u.old_id WHERE {condition}"
    )


_PARTS: Final = (
    _part("trial_params", "param_name, param_value, distribution_json"),
    _part("trial_values", "objective, value, value_type"),
    _part("trial_intermediate_values", "step, intermediate_value, intermediate_value_type"),
    _part("trial_user_attributes", "key, value_json"),
    # Whether it is feasible; what a sampler keeps for itself is not for another study's.
    _part(
        "trial_system_attributes",
        "key, value_json",
        "p.key = 'constraints' OR starts_with(p.key, 'constraints:')",
    ),
)
_MARKS: Final = sa.text(
    "INSERT INTO trial_system_attributes (trial_id, key, value_json) "
    "SELECT trial_id, :key, :value_json FROM unnest(CAST(:ids AS int[])) AS u (trial_id)"
)
_PARAMS: Final = sa.text(
    "SELECT param_name, distribution_json FROM trialfleet_params WHERE study_id = :study_id"
)
_PUT_PARAMS: Final = sa.text(
    """
    INSERT INTO trialfleet_params (study_id, param_name, distribution_json)
    SELECT :study_id, param_name, distribution_json FROM trialfleet_params
    WHERE study_id = :source ON CONFLICT DO NOTHING
    """
)
_UNLIMITED: Final = sa.text("SET LOCAL statement_timeout = 0")


def take_over(
    transaction: Transaction,
    study_id: int,
    directions: Sequence[StudyDirection],
    sources: Sequence[str],
    search_space: Mapping[str, str],
) -> None:
    """Copy the complete and pruned trials of studies, given by name, into a study without trials.

    Once in the study's life: nothing happens if it was done before, or the study has trials.
    ``search_space`` has the distributions of the study's own parameters, as far as known.

    Raises:
        InvalidInput: There is no such study, it has other directions, or a parameter is of another
            kind there.
    """
    if not transaction.execute(_IS_NEW, {"study_id": study_id}).scalar_one():
        return
    # As long as it takes: 1 s for 10,000 trials of four parameters, 12 s for 100,000.
    transaction.execute(_UNLIMITED)
    taken = {"COMPLETE": 0, "PRUNED": 0}
    for place, name in enumerate(sources):
        path = f"warmStart[{place}].study"
        source = _find(transaction, study_id, name, directions, path)
        _compare(transaction, study_id, source, search_space, path)
        finished = transaction.execute(_FINISHED, {"study_id": source}).all()
        _copy(transaction, study_id, source, name, [row[0] for row in finished], taken)
        for _, state in finished:
            taken[state] += 1
    transaction.execute(_TAKEN, {"study_id": study_id, "taken": list(taken.values())})


def _find(
    transaction: Transaction,
    study_id: int,
    name: str,
    directions: Sequence[StudyDirection],
    path: str,
) -> int:
    found = read_studies(transaction.connection, name=name)
    if not found or found[0].study_id == study_id:
        itself = "the study itself" if found else f"{name!r}, which the storage does not have"
        raise InvalidInput(f"{path}: found {itself}, accepted: another study of the same storage")
    (study,) = found
    if list(study.directions) != list(directions):
        theirs, ours = (
            ", ".join(direction.name.lower() for direction in some)
            for some in (study.directions, directions)
        )
        raise InvalidInput(
            f"{path}: found {name!r} with the directions {theirs}, accepted: a study with {ours}"
        )
    transaction.execute(_LOCK, {"study_id": study.study_id})
    return study.study_id


def _compare(
    transaction: Transaction,
    study_id: int,
    source: int,
    search_space: Mapping[str, str],
    path: str,
) -> None:
    """Raise ``InvalidInput`` for a parameter that would be of two kinds in one study."""
    ours = {**_params(transaction, study_id), **search_space}
    for name, text in sorted(_params(transaction, source).items()):
        if name not in ours:
            continue
        try:
            check_distribution_compatibility(
                json_to_distribution(ours[name]), json_to_distribution(text)
            )
        except ValueError:
            raise InvalidInput(
                f"{path}: found the parameter {name!r} as {text[:200]}, accepted: one of the kind "
                f"and the choices of {ours[name][:200]}"
            ) from None


def _params(transaction: Transaction, study_id: int) -> dict[str, str]:
    rows = transaction.execute(_PARAMS, {"study_id": study_id})
    return {name: text for name, text in rows}


def _copy(
    transaction: Transaction,
    study_id: int,
    source: int,
    name: str,
    ids: Sequence[int],
    taken: Mapping[str, int],
) -> None:
    values = {"study_id": study_id, "first": sum(taken.values()), "ids": ids}
    numbered = {number: trial_id for number, trial_id in transaction.execute(_TRIALS, values)}
    new_ids = [numbered[number] for number in sorted(numbered)]
    for part in _PARTS:
        transaction.execute(part, {"old_ids": ids, "new_ids": new_ids})
    mark = {"key": names.ATTR_WARM_START, "value_json": json.dumps(name), "ids": new_ids}
    transaction.execute(_MARKS, mark)
    transaction.execute(_PUT_PARAMS, {"study_id": study_id, "source": source})

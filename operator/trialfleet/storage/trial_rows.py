"""The rows that belong to trials, written for many trials in a few statements."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from optuna.trial import TrialState

from trialfleet.model.trial import Param, TrialUpdate
from trialfleet.storage.transaction import Statement, Transaction

_PARAMS: Final = Statement(
    "put_params",
    ("int[]", "text[]", "float8[]", "text[]"),
    """
    INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT * FROM unnest($1, $2, $3, $4)
    ON CONFLICT (trial_id, param_name) DO UPDATE
    SET param_value = excluded.param_value, distribution_json = excluded.distribution_json
    """,
)


def _attributes(table: str) -> Statement:
    return Statement(
        f"put_{table}",
        ("int[]", "text[]", "text[]"),
        f"""
        INSERT INTO {table} (trial_id, key, value_json) SELECT * FROM unnest($1, $2, $3)
        ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json
        """,
    )


_USER_ATTRS: Final = _attributes("trial_user_attributes")
_SYSTEM_ATTRS: Final = _attributes("trial_system_attributes")

_STEPS: Final = Statement(
    "put_steps",
    ("int[]", "int[]", "float8[]", "text[]"),
    """
    INSERT INTO trial_intermediate_values
        (trial_id, step, intermediate_value, intermediate_value_type)
    SELECT * FROM unnest($1, $2, $3, $4::trialintermediatevaluetype[])
    ON CONFLICT (trial_id, step) DO UPDATE SET intermediate_value = excluded.intermediate_value,
        intermediate_value_type = excluded.intermediate_value_type
    """,
)

_VALUES: Final = Statement(
    "put_values",
    ("int[]", "int[]", "float8[]", "text[]"),
    """
    INSERT INTO trial_values (trial_id, objective, value, value_type)
    SELECT * FROM unnest($1, $2, $3, $4::trialvaluetype[])
    ON CONFLICT (trial_id, objective) DO UPDATE
    SET value = excluded.value, value_type = excluded.value_type
    """,
)

# As Optuna does: naive UTC; a trial that starts gets its start, one that ends its end.
_STATES: Final = Statement(
    "set_states",
    ("int[]", "text[]"),
    """
    UPDATE trials t SET state = u.state::trialstate,
        datetime_start = CASE WHEN u.state = 'RUNNING'
            THEN clock_timestamp() AT TIME ZONE 'UTC' ELSE t.datetime_start END,
        datetime_complete = CASE WHEN u.state IN ('COMPLETE', 'PRUNED', 'FAIL')
            THEN clock_timestamp() AT TIME ZONE 'UTC' ELSE t.datetime_complete END
    FROM unnest($1, $2) AS u (trial_id, state) WHERE t.trial_id = u.trial_id
    """,
)

# Which of its session's writes a trial had last, and which one ended it.
_SEQUENCES: Final = Statement(
    "set_sequences",
    ("int[]", "bigint[]", "bigint[]"),
    """
    UPDATE trialfleet_runs r SET sequence = u.sequence, ended = u.ended
    FROM unnest($1, $2, $3) AS u (trial_id, sequence, ended) WHERE r.trial_id = u.trial_id
    """,
)

_DELETE_STEPS: Final = Statement(
    "delete_steps",
    ("int[]",),
    "DELETE FROM trial_intermediate_values WHERE trial_id = ANY ($1)",
)
# What its last worker may still send is refused.
_TAKE_AWAY: Final = Statement(
    "take_away",
    ("int[]",),
    "UPDATE trialfleet_runs SET taken_away = true WHERE trial_id = ANY ($1)",
)
_RETURN: Final = Statement(
    "put_returns",
    ("int[]", "bigint[]"),
    """
    INSERT INTO trialfleet_returns (session_id, opened, trial_id, sequence)
    SELECT r.session_id, r.opened, r.trial_id, u.sequence FROM trialfleet_runs r
    JOIN unnest($1, $2) AS u (trial_id, sequence) USING (trial_id)
    """,
)


def stored_value(value: float) -> tuple[float | None, str]:
    """Return what Optuna's tables hold of a trial's value: a number and its kind."""
    if value == math.inf:
        return None, "INF_POS"
    if value == -math.inf:
        return None, "INF_NEG"
    return value, "FINITE"


def stored_intermediate(value: float) -> tuple[float | None, str]:
    """Return what Optuna's tables hold of an intermediate value: a number and its kind."""
    return (None, "NAN") if math.isnan(value) else stored_value(value)


@dataclass(slots=True)
class TrialWrites:
    """Rows to be written for any number of trials, by their keys."""

    params: dict[tuple[int, str], tuple[float, str]] = field(default_factory=dict)
    user_attrs: dict[tuple[int, str], str] = field(default_factory=dict)
    system_attrs: dict[tuple[int, str], str] = field(default_factory=dict)
    steps: dict[tuple[int, int], float] = field(default_factory=dict)
    values: dict[tuple[int, int], float] = field(default_factory=dict)
    states: dict[int, TrialState] = field(default_factory=dict)
    sequences: dict[int, int] = field(default_factory=dict)
    """Of the last write of a trial's own session."""
    ended: dict[int, int] = field(default_factory=dict)
    """Of the write that ended a trial, if its own session did."""
    handed_back: list[int] = field(default_factory=list)
    returned: dict[int, int] = field(default_factory=dict)
    """By what write those of ``handed_back`` were whose session lives on."""

    def add(
        self,
        trial_id: int,
        *,
        params: Sequence[Param] = (),
        user_attrs: Sequence[tuple[str, str]] = (),
        system_attrs: Sequence[tuple[str, str]] = (),
        intermediate_values: Sequence[tuple[int, float]] = (),
        values: Sequence[float] | None = None,
    ) -> None:
        """Add what belongs to one trial; of two rows with the same key the later one stays."""
        for name, value, distribution_json in params:
            self.params[trial_id, name] = (value, distribution_json)
        for key, value_json in user_attrs:
            self.user_attrs[trial_id, key] = value_json
        for key, value_json in system_attrs:
            self.system_attrs[trial_id, key] = value_json
        for step, number in intermediate_values:
            self.steps[trial_id, step] = number
        for objective, number in enumerate(values or ()):
            self.values[trial_id, objective] = number

    def add_update(self, update: TrialUpdate) -> None:
        """Add all of an update."""
        self.add(
            update.trial_id,
            params=update.params,
            user_attrs=update.user_attrs,
            system_attrs=update.system_attrs,
            intermediate_values=update.intermediate_values,
        )

    def execute(self, transaction: Transaction) -> None:
        """Write the rows."""
        if self.params:
            values, texts = zip(*self.params.values(), strict=True)
            transaction.do(_PARAMS, *_keys(self.params), values, texts)
        for statement, attrs in (
            (_USER_ATTRS, self.user_attrs),
            (_SYSTEM_ATTRS, self.system_attrs),
        ):
            if attrs:
                transaction.do(statement, *_keys(attrs), attrs.values())
        if self.steps:
            stored = map(stored_intermediate, self.steps.values())
            transaction.do(_STEPS, *_keys(self.steps), *zip(*stored, strict=True))
        if self.handed_back:
            transaction.do(_DELETE_STEPS, self.handed_back)
            transaction.do(_TAKE_AWAY, self.handed_back)
        if self.returned:
            transaction.do(_RETURN, self.returned, self.returned.values())
        if self.values:
            stored = map(stored_value, self.values.values())
            transaction.do(_VALUES, *_keys(self.values), *zip(*stored, strict=True))
        if self.sequences:
            ended = [self.ended.get(trial_id) for trial_id in self.sequences]
            transaction.do(_SEQUENCES, self.sequences, self.sequences.values(), ended)
        if self.states:
            names = [state.name for state in self.states.values()]
            transaction.do(_STATES, self.states, names)


def _keys(rows: dict[tuple[int, Any], Any]) -> tuple[list[int], list[Any]]:
    return [key[0] for key in rows], [key[1] for key in rows]

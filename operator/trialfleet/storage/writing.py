"""The rows that belong to trials, written for many trials in a few statements."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa
from optuna.trial import TrialState

from trialfleet.storage.records import Param, TrialUpdate

_PARAMS: Final = sa.text(
    """
    INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT * FROM unnest(CAST(:ids AS int[]), CAST(:names AS text[]), CAST(:values AS float8[]),
        CAST(:texts AS text[]))
    ON CONFLICT (trial_id, param_name) DO UPDATE
    SET param_value = excluded.param_value, distribution_json = excluded.distribution_json
    """
)


def _attributes(table: str) -> sa.TextClause:
    return sa.text(
        f"""
        INSERT INTO {table} (trial_id, key, value_json)
        SELECT * FROM unnest(CAST(:ids AS int[]), CAST(:names AS text[]), CAST(:texts AS text[]))
        ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json
        """
    )


_USER_ATTRS: Final = _attributes("trial_user_attributes")
_SYSTEM_ATTRS: Final = _attributes("trial_system_attributes")

_STEPS: Final = sa.text(
    """
    INSERT INTO trial_intermediate_values
        (trial_id, step, intermediate_value, intermediate_value_type)
    SELECT * FROM unnest(CAST(:ids AS int[]), CAST(:steps AS int[]), CAST(:values AS float8[]),
        CAST(CAST(:types AS text[]) AS trialintermediatevaluetype[]))
    ON CONFLICT (trial_id, step) DO UPDATE SET intermediate_value = excluded.intermediate_value,
        intermediate_value_type = excluded.intermediate_value_type
    """
)

_VALUES: Final = sa.text(
    """
    INSERT INTO trial_values (trial_id, objective, value, value_type)
    SELECT * FROM unnest(CAST(:ids AS int[]), CAST(:objectives AS int[]),
        CAST(:values AS float8[]), CAST(CAST(:types AS text[]) AS trialvaluetype[]))
    ON CONFLICT (trial_id, objective) DO UPDATE
    SET value = excluded.value, value_type = excluded.value_type
    """
)

# As Optuna does: naive UTC; a trial that starts gets its start, one that ends its end.
_STATES: Final = sa.text(
    """
    UPDATE trials t SET state = CAST(u.state AS trialstate),
        datetime_start = CASE WHEN u.state = 'RUNNING'
            THEN clock_timestamp() AT TIME ZONE 'UTC' ELSE t.datetime_start END,
        datetime_complete = CASE WHEN u.state IN ('COMPLETE', 'PRUNED', 'FAIL')
            THEN clock_timestamp() AT TIME ZONE 'UTC' ELSE t.datetime_complete END
    FROM unnest(CAST(:ids AS int[]), CAST(:states AS text[])) AS u (trial_id, state)
    WHERE t.trial_id = u.trial_id
    """
)

_SEQUENCES: Final = sa.text(
    """
    UPDATE trialfleet_runs r SET sequence = u.sequence
    FROM unnest(CAST(:ids AS int[]), CAST(:sequences AS bigint[])) AS u (trial_id, sequence)
    WHERE r.trial_id = u.trial_id
    """
)

_HAND_BACK: Final = (
    sa.text("DELETE FROM trial_intermediate_values WHERE trial_id = ANY(CAST(:ids AS int[]))"),
    # What its last worker may still send is refused.
    sa.text(
        "UPDATE trialfleet_runs SET taken_away = true WHERE trial_id = ANY(CAST(:ids AS int[]))"
    ),
)
_RETURN: Final = sa.text(
    """
    INSERT INTO trialfleet_returns (session_id, opened, trial_id, sequence)
    SELECT r.session_id, r.opened, r.trial_id, u.sequence FROM trialfleet_runs r
    JOIN unnest(CAST(:ids AS int[]), CAST(:sequences AS bigint[])) AS u (trial_id, sequence)
    USING (trial_id)
    """
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
    """Rows to be written for any number of trials, column by column."""

    params: dict[tuple[int, str], tuple[float, str]] = field(default_factory=dict)
    user_attrs: dict[tuple[int, str], str] = field(default_factory=dict)
    system_attrs: dict[tuple[int, str], str] = field(default_factory=dict)
    steps: dict[tuple[int, int], float] = field(default_factory=dict)
    values: dict[tuple[int, int], float] = field(default_factory=dict)
    states: dict[int, TrialState] = field(default_factory=dict)
    sequences: dict[int, int] = field(default_factory=dict)
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

    def execute(self, connection: sa.Connection) -> None:
        """Write the rows."""
        if self.params:
            connection.execute(
                _PARAMS,
                {
                    "ids": [key[0] for key in self.params],
                    "names": [key[1] for key in self.params],
                    "values": [row[0] for row in self.params.values()],
                    "texts": [row[1] for row in self.params.values()],
                },
            )
        for statement, attrs in (
            (_USER_ATTRS, self.user_attrs),
            (_SYSTEM_ATTRS, self.system_attrs),
        ):
            if attrs:
                connection.execute(
                    statement,
                    {
                        "ids": [key[0] for key in attrs],
                        "names": [key[1] for key in attrs],
                        "texts": list(attrs.values()),
                    },
                )
        if self.steps:
            stored = [stored_intermediate(value) for value in self.steps.values()]
            connection.execute(
                _STEPS,
                {
                    "ids": [key[0] for key in self.steps],
                    "steps": [key[1] for key in self.steps],
                    "values": [value for value, _ in stored],
                    "types": [kind for _, kind in stored],
                },
            )
        if self.handed_back:
            for statement in _HAND_BACK:
                connection.execute(statement, {"ids": self.handed_back})
        if self.returned:
            connection.execute(
                _RETURN,
                {"ids": list(self.returned), "sequences": list(self.returned.values())},
            )
        if self.values:
            stored = [stored_value(value) for value in self.values.values()]
            connection.execute(
                _VALUES,
                {
                    "ids": [key[0] for key in self.values],
                    "objectives": [key[1] for key in self.values],
                    "values": [value for value, _ in stored],
                    "types": [kind for _, kind in stored],
                },
            )
        if self.sequences:
            connection.execute(
                _SEQUENCES,
                {"ids": list(self.sequences), "sequences": list(self.sequences.values())},
            )
        if self.states:
            connection.execute(
                _STATES,
                {"ids": list(self.states), "states": [s.name for s in self.states.values()]},
            )

"""Whether a parameter's distribution fits what the study has of it."""

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from optuna.distributions import check_distribution_compatibility, json_to_distribution

from trialfleet.errors import InvalidInput
from trialfleet.storage.records import Param

_KNOWN: Final = sa.text(
    """
    SELECT p.study_id, p.param_name, p.distribution_json
    FROM trialfleet_params p
    JOIN unnest(CAST(:studies AS int[]), CAST(:names AS text[])) AS u (study_id, param_name)
    USING (study_id, param_name)
    """
)

# For a name that is new to us: a stock writer may have used it. Looked up once in the life of
# a study and name.
_OTHERS: Final = sa.text(
    """
    SELECT p.distribution_json FROM trials t JOIN trial_params p USING (trial_id)
    WHERE t.study_id = :study_id AND p.param_name = :name LIMIT 1
    """
)
_ADD: Final = sa.text(
    """
    INSERT INTO trialfleet_params (study_id, param_name, distribution_json)
    VALUES (:study_id, :name, :text) ON CONFLICT DO NOTHING
    """
)

_MAX_REMEMBERED: Final = 100_000


class Distributions:
    """The first distribution of each parameter of each study, remembered from the database.

    Belongs to one thread.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._first: dict[tuple[int, str], str] = {}

    def learn(self, connection: sa.Connection, keys: set[tuple[int, str]]) -> None:
        """Read the first distributions of pairs of study and name that are not known yet."""
        missing = [key for key in keys if key not in self._first]
        if not missing:
            return
        if len(self._first) > _MAX_REMEMBERED:
            self._first.clear()
            missing = list(keys)
        rows = connection.execute(
            _KNOWN, {"studies": [key[0] for key in missing], "names": [key[1] for key in missing]}
        )
        for study_id, name, text in rows:
            self._first[study_id, name] = text

    def check(self, connection: sa.Connection, study_id: int, params: Sequence[Param]) -> None:
        """Raise :class:`InvalidInput` if one of the parameters does not fit the study."""
        for name, _, text in params:
            first = self._first.get((study_id, name))
            if first is None:
                first = self._first_use(connection, study_id, name, text)
            if first != text:
                try:
                    check_distribution_compatibility(
                        json_to_distribution(first), json_to_distribution(text)
                    )
                except ValueError as error:
                    raise InvalidInput(f"parameter {name!r}: {error}") from error

    def _first_use(self, connection: sa.Connection, study_id: int, name: str, text: str) -> str:
        key = {"study_id": study_id, "name": name}
        first: str = connection.execute(_OTHERS, key).scalar() or text
        connection.execute(_ADD, {**key, "text": first})
        # Remembered only once it was read back, committed: this transaction may yet fail.
        return first

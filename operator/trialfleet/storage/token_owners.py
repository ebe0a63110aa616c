"""Whose tokens open a study."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa

_OWNERS: Final = sa.text(
    """
    SELECT s.study_name, coalesce(d.owner, ''), coalesce(d.bare_tokens_owner, '')
    FROM studies s LEFT JOIN trialfleet_studies d USING (study_id)
    WHERE s.study_name = ANY(CAST(:studies AS text[]))
    """
)


class TokenOwners(NamedTuple):
    """What a study's tokens have to bear."""

    owner: str
    """Whose the study is; empty: nobody's, and any token of its name opens it."""
    bare: str
    """The owner for whom a token opens it that bears none; empty: for no owner."""


def read_token_owners(connection: sa.Connection, studies: Sequence[str]) -> dict[str, TokenOwners]:
    """Return by name whose tokens open studies; those that do not exist are left out."""
    rows = connection.execute(_OWNERS, {"studies": list(studies)})
    return {name: TokenOwners(owner, bare) for name, owner, bare in rows}

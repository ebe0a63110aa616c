"""Whether a parameter's distribution fits what the study has of it."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import sqlalchemy as sa
from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    json_to_distribution,
)

from trialfleet.model.errors import InvalidInput
from trialfleet.model.trial import Param
from trialfleet.storage.transaction import Transaction

_KNOWN: Final = sa.text(
    """
    SELECT p.study_id, p.param_name, p.distribution_json
    FROM trialfleet_params p
    JOIN unnest(CAST(:studies AS int[]), CAST(:names AS text[])) AS u (study_id, param_name)
    USING (study_id, param_name)
    """
)

# Who comes second waits for the first, and is told what that one wrote; the order is the same
# for all, so that no two wait for each other.
_CLAIM: Final = sa.text(
    """
    INSERT INTO trialfleet_params AS p (study_id, param_name, distribution_json)
    SELECT * FROM unnest(CAST(:studies AS int[]), CAST(:names AS text[]), CAST(:texts AS text[]))
        AS u (study_id, param_name, distribution_json)
    ORDER BY u.study_id, u.param_name
    ON CONFLICT (study_id, param_name) DO UPDATE SET param_name = p.param_name
    RETURNING study_id, param_name, distribution_json
    """
)

_MAX_REMEMBERED: Final = 100_000

Key = tuple[int, str]


class Distributions:
    """The first distribution of each parameter of each study, remembered from the database.

    Belongs to one thread; the event loop may call :meth:`known` at the same time.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._first: dict[Key, str] = {}
        self._of_studies: dict[int, dict[str, str]] = {}
        self._claimed: dict[Key, str] = {}  # in a transaction that may yet fail
        self._parsed: dict[str, BaseDistribution] = {}

    def check(
        self, transaction: Transaction, writes: Sequence[tuple[int, Sequence[Param]]]
    ) -> list[InvalidInput | None]:
        """Return for each write, of a study's id and parameters, what is wrong with it.

        A name that is new to its study is the study's from now on; within :meth:`transaction`
        it is remembered at the end.
        """
        errors = [self._malformed(params) for _, params in writes]
        keys = {
            (study_id, param.name)
            for (study_id, params), error in zip(writes, errors, strict=True)
            if error is None
            for param in params
        }
        self.learn(transaction, keys)
        self._compare(writes, errors, self._first)
        new: dict[Key, str] = {}
        for (study_id, params), error in zip(writes, errors, strict=True):
            if error is None:
                for name, _, text in params:
                    if (study_id, name) not in self._first:
                        new.setdefault((study_id, name), text)
        if new:
            claimed = _claim(transaction, new)
            self._compare(writes, errors, claimed)
            self._claimed |= claimed
        return errors

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Remember what was new in a transaction, once that is committed."""
        self._claimed = {}
        yield
        self._remember(self._claimed)

    def _malformed(self, params: Iterable[Param]) -> InvalidInput | None:
        """Return what keeps a worker from getting a parameter back, None if nothing does."""
        for name, value, text in params:
            try:
                self._parse(text).to_external_repr(value)
            except (
                *(AttributeError, ArithmeticError, LookupError, TypeError, ValueError),
                RecursionError,  # of brackets in brackets
            ) as error:
                return InvalidInput(
                    f"parameter {name!r}: found {value} of {text[:200]!r}, accepted: a value of a "
                    f"distribution as Optuna writes it ({error})"
                )
        return None

    def _parse(self, text: str) -> BaseDistribution:
        distribution = self._parsed.get(text)
        if distribution is None:
            if len(self._parsed) >= _MAX_REMEMBERED:
                self._parsed.clear()
            distribution = self._parsed[text] = json_to_distribution(text)
        return distribution

    def known(self, study_id: int) -> Mapping[str, str]:
        """Return the first distributions, by name, that are known of a study's parameters."""
        return self._of_studies.get(study_id, {}).copy()

    def learn(self, transaction: Transaction, keys: set[Key]) -> None:
        """Read what the database has of parameters, given by study and name, if it is unknown."""
        missing = [key for key in keys if key not in self._first]
        if not missing:
            return
        if len(self._first) > _MAX_REMEMBERED:
            self._first.clear()
            self._of_studies.clear()
            missing = list(keys)
        rows = transaction.execute(
            _KNOWN, {"studies": [key[0] for key in missing], "names": [key[1] for key in missing]}
        )
        self._remember({(study_id, name): text for study_id, name, text in rows})

    def _remember(self, texts: Mapping[Key, str]) -> None:
        for (study_id, name), text in texts.items():
            self._first[study_id, name] = text
            self._of_studies.setdefault(study_id, {})[name] = text

    def _compare(
        self,
        writes: Sequence[tuple[int, Sequence[Param]]],
        errors: list[InvalidInput | None],
        first: dict[Key, str],
    ) -> None:
        for place, (study_id, params) in enumerate(writes):
            if errors[place] is None:
                errors[place] = self._incompatible(study_id, params, first)

    def _incompatible(
        self, study_id: int, params: Iterable[Param], first: dict[Key, str]
    ) -> InvalidInput | None:
        for name, _, text in params:
            known = first.get((study_id, name), text)
            if known != text:
                try:
                    check_distribution_compatibility(self._parse(known), self._parse(text))
                except ValueError as error:
                    return InvalidInput(f"parameter {name!r}: {error}")
        return None


def _claim(transaction: Transaction, new: dict[Key, str]) -> dict[Key, str]:
    rows = transaction.execute(
        _CLAIM,
        {
            "studies": [key[0] for key in new],
            "names": [key[1] for key in new],
            "texts": list(new.values()),
        },
    )
    return {(study_id, name): text for study_id, name, text in rows}

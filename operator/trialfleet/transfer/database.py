"""Studies in the tables of Optuna's ``RDBStorage``: SQLite, PostgreSQL, MySQL."""

import contextlib
import datetime
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.study import StudyDirection

from trialfleet.model.errors import InvalidInput
from trialfleet.model.study import StudyRecord
from trialfleet.model.trial import Param, TrialRecord
from trialfleet.storage.checking import recompute
from trialfleet.storage.trial_rows import stored_intermediate, stored_value
from trialfleet.transfer.copying import SLICE, Add, Found
from trialfleet.transfer.rows import insert


def _table(model: type[models.BaseModel]) -> sa.Table:
    table = model.__table__
    assert isinstance(table, sa.Table)
    return table


_STUDIES: Final = _table(models.StudyModel)
_DIRECTIONS: Final = _table(models.StudyDirectionModel)
_STUDY_ATTRS: Final = (
    _table(models.StudyUserAttributeModel),
    _table(models.StudySystemAttributeModel),
)
_TRIALS: Final = _table(models.TrialModel)
_PARAMS: Final = _table(models.TrialParamModel)
_VALUES: Final = _table(models.TrialValueModel)
_STEPS: Final = _table(models.TrialIntermediateValueModel)
_USER_ATTRS: Final = _table(models.TrialUserAttributeModel)
_SYSTEM_ATTRS: Final = _table(models.TrialSystemAttributeModel)

_SPECIAL: Final = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}


class DatabaseSource:
    """Reads a database. All that it reads is of one moment, where the database can do that."""

    def __init__(self, connection: sa.Connection) -> None:
        """Take a connection that nothing was read from yet; see :func:`snapshot`."""
        self._connection = connection

    def studies(self) -> list[StudyRecord]:
        """See :class:`~trialfleet.transfer.copying.Source`."""
        return _read_studies(self._connection, None)

    def trials(self, study_id: int) -> Iterator[list[TrialRecord]]:
        """See :class:`~trialfleet.transfer.copying.Source`."""
        last = -1
        while True:
            query = (
                sa.select(*_TRIALS.c)
                .where(_TRIALS.c.study_id == study_id, _TRIALS.c.trial_id > last)
                .order_by(_TRIALS.c.trial_id)
                .limit(SLICE)
            )
            rows = self._connection.execute(query).all()
            if not rows:
                return
            last = rows[-1].trial_id
            yield self._with_parts(rows)

    def _with_parts(self, rows: Sequence[sa.Row[Any]]) -> list[TrialRecord]:
        ids = [row.trial_id for row in rows]
        params = self._parts(
            _PARAMS,
            ids,
            lambda row: Param(row.param_name, row.param_value, row.distribution_json),
        )
        values = self._parts(
            _VALUES, ids, lambda row: _number(row.value, row.value_type), _VALUES.c.objective
        )
        steps = self._parts(
            _STEPS,
            ids,
            lambda row: (row.step, _number(row.intermediate_value, row.intermediate_value_type)),
        )
        user = self._parts(_USER_ATTRS, ids, lambda row: (row.key, row.value_json))
        system = self._parts(_SYSTEM_ATTRS, ids, lambda row: (row.key, row.value_json))
        return [
            TrialRecord(
                trial_id=row.trial_id,
                number=row.number,
                state=row.state,
                values=values.get(row.trial_id),
                started=_aware(row.datetime_start),
                completed=_aware(row.datetime_complete),
                params=params.get(row.trial_id, ()),
                user_attrs=user.get(row.trial_id, ()),
                system_attrs=system.get(row.trial_id, ()),
                intermediate_values=steps.get(row.trial_id, ()),
            )
            for row in rows
        ]

    def _parts(
        self,
        table: sa.Table,
        ids: Sequence[int],
        build: Callable[[Any], Any],
        order: sa.ColumnElement[Any] | None = None,
    ) -> dict[int, list[Any]]:
        (key,) = table.primary_key
        query = (
            sa.select(*table.c)
            .where(table.c.trial_id.in_(ids))
            .order_by(key if order is None else order)
        )
        found: dict[int, list[Any]] = {}
        for row in self._connection.execute(query):
            found.setdefault(row.trial_id, []).append(build(row))
        return found


@contextlib.contextmanager
def snapshot(engine: sa.Engine) -> Iterator[DatabaseSource]:
    """Read a database as it is now."""
    postgresql = engine.dialect.name == "postgresql"
    options = {"isolation_level": "REPEATABLE READ"} if postgresql else {}
    with engine.connect().execution_options(**options) as connection:
        if postgresql:
            # Slices are found by indexes, whatever the planner knows of the tables yet.
            connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        yield DatabaseSource(connection)


class DatabaseTarget:
    """Writes to a database; a study is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        """Take a database that has Optuna's tables."""
        self._engine = engine
        self._ours = engine.dialect.name == "postgresql" and sa.inspect(engine).has_table(
            "trialfleet_schema"
        )

    def find(self, name: str) -> Found | None:
        """See :class:`~trialfleet.transfer.copying.Target`."""
        with self._engine.connect() as connection:
            return _find(connection, name)

    @contextlib.contextmanager
    def write(self, study: StudyRecord) -> Iterator[Add]:
        """See :class:`~trialfleet.transfer.copying.Target`."""
        with self._engine.begin() as connection:
            study_id = _create(connection, study)
            for table, attrs in zip(
                _STUDY_ATTRS, (study.user_attrs, study.system_attrs), strict=True
            ):
                _put_study_attrs(connection, table, study_id, attrs)
            newest = connection.execute(sa.select(sa.func.max(_TRIALS.c.trial_id))).scalar()
            added, last = 0, -1 if newest is None else int(newest)

            def add(trials: Sequence[TrialRecord]) -> None:
                nonlocal added, last
                last = _insert(connection, study_id, added, last, trials)
                added += len(trials)

            if self._ours:
                # Counts and best trials are made once, at the end: the triggers keep out.
                connection.execute(sa.text("SET LOCAL trialfleet.applying = 'on'"))
                connection.execute(sa.text("SET LOCAL trialfleet.claims = 'on'"))
            yield add
            if self._ours:
                recompute(connection, study_id)


def _read_studies(connection: sa.Connection, name: str | None) -> list[StudyRecord]:
    query = sa.select(*_STUDIES.c).order_by(_STUDIES.c.study_id)
    if name is not None:
        query = query.where(_STUDIES.c.study_name == name)
    studies = connection.execute(query).all()
    directions: dict[int, list[StudyDirection]] = {}
    for row in connection.execute(sa.select(*_DIRECTIONS.c).order_by(_DIRECTIONS.c.objective)):
        directions.setdefault(row.study_id, []).append(row.direction)
    attrs: list[dict[int, list[tuple[str, str]]]] = []
    for table in _STUDY_ATTRS:
        attrs.append({})
        (key,) = table.primary_key
        for row in connection.execute(sa.select(*table.c).order_by(key)):
            attrs[-1].setdefault(row.study_id, []).append((row.key, row.value_json))
    return [
        StudyRecord(
            study_id=row.study_id,
            name=row.study_name,
            directions=directions.get(row.study_id, []),
            user_attrs=attrs[0].get(row.study_id, ()),
            system_attrs=attrs[1].get(row.study_id, ()),
        )
        for row in studies
    ]


def _find(connection: sa.Connection, name: str) -> Found | None:
    found = _read_studies(connection, name)
    if not found:
        return None
    (study,) = found
    counting = sa.select(sa.func.count()).where(_TRIALS.c.study_id == study.study_id)
    trials = connection.execute(counting).scalar_one()
    return Found([direction.name for direction in study.directions], trials)


def _create(connection: sa.Connection, study: StudyRecord) -> int:
    """Return the id of the study: a new one, or an empty one that nobody adds trials to."""
    by_name = sa.select(_STUDIES.c.study_id).where(_STUDIES.c.study_name == study.name)
    found = connection.execute(by_name.with_for_update()).scalar()
    if found is not None:
        has = _find(connection, study.name)
        if has is not None and has.trials:
            raise InvalidInput(f"study {study.name!r}: has got trials meanwhile")
        return int(found)
    connection.execute(sa.insert(_STUDIES), {"study_name": study.name})
    study_id = int(connection.execute(by_name).scalar_one())
    connection.execute(
        sa.insert(_DIRECTIONS),
        [
            {"study_id": study_id, "objective": objective, "direction": direction}
            for objective, direction in enumerate(study.directions)
        ],
    )
    return study_id


def _put_study_attrs(
    connection: sa.Connection, table: sa.Table, study_id: int, attrs: Iterable[tuple[str, str]]
) -> None:
    for key, text in attrs:
        where = (table.c.study_id == study_id, table.c.key == key)
        connection.execute(sa.delete(table).where(*where))
        connection.execute(sa.insert(table), {"study_id": study_id, "key": key, "value_json": text})


def _insert(
    connection: sa.Connection,
    study_id: int,
    first: int,
    last: int,
    trials: Sequence[TrialRecord],
) -> int:
    """Add trials with the numbers from ``first`` on and ids over ``last``; return the last id."""
    insert(
        connection,
        _TRIALS,
        [
            {
                "study_id": study_id,
                "number": number,
                "state": trial.state,
                "datetime_start": _naive(trial.started),
                "datetime_complete": _naive(trial.completed),
            }
            for number, trial in enumerate(trials, first)
        ],
    )
    query = (
        sa.select(_TRIALS.c.trial_id)
        .where(_TRIALS.c.study_id == study_id, _TRIALS.c.trial_id > last)
        .order_by(_TRIALS.c.trial_id)
    )
    ids = connection.execute(query).scalars().all()
    pairs = list(zip(ids, trials, strict=True))
    for table, rows in (
        (_PARAMS, _param_rows(pairs)),
        (_USER_ATTRS, _attr_rows((i, trial.user_attrs) for i, trial in pairs)),
        (_SYSTEM_ATTRS, _attr_rows((i, trial.system_attrs) for i, trial in pairs)),
        (_STEPS, _step_rows(pairs)),
        (_VALUES, _value_rows(pairs)),
    ):
        insert(connection, table, rows)
    return int(ids[-1])


_Pairs = Iterable[tuple[int, TrialRecord]]
_Rows = list[dict[str, Any]]


def _param_rows(pairs: _Pairs) -> _Rows:
    return [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": value,
            "distribution_json": text,
        }
        for trial_id, trial in pairs
        for name, value, text in trial.params
    ]


def _attr_rows(attrs: Iterable[tuple[int, Iterable[tuple[str, str]]]]) -> _Rows:
    return [
        {"trial_id": trial_id, "key": key, "value_json": text}
        for trial_id, pairs in attrs
        for key, text in pairs
    ]


def _step_rows(pairs: _Pairs) -> _Rows:
    return [
        {
            "trial_id": trial_id,
            "step": step,
            "intermediate_value": number,
            "intermediate_value_type": kind,
        }
        for trial_id, trial in pairs
        for step, value in trial.intermediate_values
        for number, kind in (stored_intermediate(value),)
    ]


def _value_rows(pairs: _Pairs) -> _Rows:
    return [
        {"trial_id": trial_id, "objective": objective, "value": number, "value_type": kind}
        for trial_id, trial in pairs
        for objective, value in enumerate(trial.values or ())
        for number, kind in (stored_value(value),)
    ]


def _number(value: float | None, kind: Any) -> float:
    special = _SPECIAL.get(kind.name)
    if special is not None:
        return special
    assert value is not None
    return value


def _aware(time: datetime.datetime | None) -> datetime.datetime | None:
    return None if time is None else time.replace(tzinfo=datetime.UTC)


def _naive(time: datetime.datetime | None) -> datetime.datetime | None:
    return None if time is None else time.astimezone(datetime.UTC).replace(tzinfo=None)

"""What can be stored comes back as it was; what can't fails alone."""

import asyncio
import datetime
import json
import math
import re
from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.storage.fleet import (
    FLOAT,
    MINIMIZE,
    Worker,
    check,
    create,
    param,
    query,
    stock,
    storages,
    together,
)
from trialfleet.model.errors import InvalidInput, NotFound
from trialfleet.model.trial import Param, TrialRecord, TrialUpdate
from trialfleet.storage import Storage
from trialfleet.storage.commands import (
    Command,
    CreateStudy,
    CreateTrial,
    OpenSession,
    SetStudyAttribute,
    WriteTrial,
)

INF, NAN = math.inf, math.nan
TIME = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC)
UNICODE = "Größe 学習率 \U0001f680 ' \" \\ % :x {y} \n\t\u2028\ufffe"


async def told(storage: Storage, **update: Any) -> TrialRecord:
    study_id = await create(storage)
    worker = await Worker(storage, study_id).start()
    trial = await worker.open()
    await worker.tell(trial.trial_id, **update)
    (found,) = await storage.trials([trial.trial_id])
    # NaN differs from itself.
    assert repr(found) in map(repr, await storage.trials_since(study_id, -1, []))
    return found


def same(found: Sequence[float], expected: Sequence[float]) -> bool:
    # NaN differs from itself.
    return [repr(float(x)) for x in found] == [repr(float(x)) for x in expected]


EDGES = [NAN, INF, -INF, 0.0, 5e-324, 1.7976931348623157e308, 0.1, -1e-300, 2.0**53 + 1]


def test_numbers(shared_url: str) -> None:
    async def main() -> None:
        async with storages(shared_url, 1) as (storage,):
            trial = await told(storage, intermediate_values=list(enumerate(EDGES)))
            assert [step for step, _ in trial.intermediate_values] == list(range(len(EDGES)))
            assert same([value for _, value in trial.intermediate_values], EDGES)
            for value in EDGES[1:]:
                trial = await told(storage, values=[value])
                assert same(trial.values or [], [value])
            trial = await told(storage, values=[NAN], state=TrialState.FAIL)
            assert same(trial.values or [], [NAN])
            params = [Param(f"p{value!r}", value, FLOAT) for value in EDGES]
            trial = await told(storage, params=params)
            assert [p.name for p in trial.params] == [p.name for p in params]
            assert same([p.value for p in trial.params], EDGES)

    asyncio.run(main())


def test_steps(shared_url: str) -> None:
    steps = [-(2**31), -1, 0, 1, 2**31 - 1]

    async def main() -> None:
        async with storages(shared_url, 1) as (storage,):
            pairs = [(step, float(step)) for step in steps]
            trial = await told(storage, intermediate_values=pairs[::-1])
            assert trial.intermediate_values == pairs
            for step in (2**31, -(2**31) - 1):
                with pytest.raises(InvalidInput, match=r"can't be stored: .*out of range"):
                    await told(storage, intermediate_values=[(step, 0.0)])

    asyncio.run(main())


def test_many_intermediate_values(shared_url: str) -> None:
    pairs = [(step, step / 7) for step in range(10_000)]

    async def main() -> None:
        async with storages(shared_url, 1) as (storage,):
            trial = await told(storage, intermediate_values=pairs)
            assert trial.intermediate_values == pairs

    asyncio.run(main())


def test_large_and_strange_texts(shared_url: str) -> None:
    large = '"' + "x" * 1024**2 + '"'
    attrs = [
        ("large", large),
        ("", '""'),
        (UNICODE, json.dumps(UNICODE, ensure_ascii=False)),
        ("k" * 512, "1"),
    ]

    async def main() -> None:
        async with storages(shared_url, 1) as (storage,):
            trial = await told(
                storage,
                user_attrs=attrs,
                system_attrs=attrs[::-1],
                params=[param(""), param(UNICODE), param("k" * 512)],
            )
            assert trial.user_attrs == attrs
            assert trial.system_attrs == attrs[::-1]
            assert [p.name for p in trial.params] == ["", UNICODE, "k" * 512]
            for name in ("", UNICODE, "n" * 512):
                study_id = await storage.apply(CreateStudy(name, [MINIMIZE]))
                for key, text in attrs:
                    await storage.apply(SetStudyAttribute(study_id, key, text, False))
                    await storage.apply(SetStudyAttribute(study_id, key, text, True))
                (study,) = await storage.studies(name=name)
                assert study.name == name
                assert study.user_attrs == attrs
                assert study.system_attrs == attrs

    asyncio.run(main())


def test_the_later_of_two_in_one_write_stays(shared_url: str) -> None:
    async def main() -> None:
        async with storages(shared_url, 1) as (storage,):
            trial = await told(
                storage,
                params=[param("x", 0.1), param("x", 0.2)],
                user_attrs=[("k", "1"), ("k", "2")],
                system_attrs=[("k", "1"), ("k", "2")],
                intermediate_values=[(0, 1.0), (0, 2.0)],
            )
            assert trial.params == [param("x", 0.2)]
            assert trial.user_attrs == trial.system_attrs == [("k", "2")]
            assert trial.intermediate_values == [(0, 2.0)]

    asyncio.run(main())


def test_a_template_is_copied(shared_url: str) -> None:
    async def main() -> None:
        async with storages(shared_url, 1) as (storage,):
            study_id = await create(storage, "templates", [MINIMIZE] * 3)
            for state in TrialState:
                template = TrialRecord(
                    trial_id=77,
                    number=77,
                    state=state,
                    values=[1.0, -INF, INF] if state == TrialState.COMPLETE else None,
                    started=TIME,
                    completed=TIME if state.is_finished() else None,
                    params=[param("x"), param("a")],
                    user_attrs=[("b", "1"), ("a", "2")],
                    system_attrs=[("b", "3"), ("a", "4")],
                    intermediate_values=[(-1, 1.0), (7, INF)],
                )
                created = await storage.apply(CreateTrial(study_id, template))
                (found,) = await storage.trials([created.trial_id])
                for name in template.__slots__:
                    expected = getattr(template, name)
                    if name in ("trial_id", "number"):
                        expected = getattr(created, name)
                    assert getattr(found, name) == expected, name

    asyncio.run(main())
    check(shared_url)


def test_stock_optuna_reads_what_was_written(shared_url: str) -> None:
    async def main() -> TrialRecord:
        async with storages(shared_url, 1) as (storage,):
            return await told(
                storage,
                values=[-INF],
                params=[param("x", 0.25)],
                user_attrs=[("u", '{"a": [1, null]}')],
                system_attrs=[("s", '"t"')],
                intermediate_values=[(0, NAN), (1, INF)],
            )

    written = asyncio.run(main())
    with stock(shared_url) as storage:
        trial = storage.get_trial(written.trial_id)
        assert trial.values == [-INF]
        assert trial.params == {"x": 0.25}
        assert trial.distributions == {"x": optuna.distributions.FloatDistribution(0, 1)}
        assert trial.user_attrs == {"u": {"a": [1, None]}}
        assert trial.system_attrs == {"s": "t"}
        assert str(trial.intermediate_values) == "{0: nan, 1: inf}"
        for mine, theirs in (
            (written.started, trial.datetime_start),
            (written.completed, trial.datetime_complete),
        ):
            assert mine is not None
            assert theirs == mine.astimezone().replace(tzinfo=None)


LONG, NUL, LONE = "k" * 600, "k\0", "\ud800"
TOO_LONG = "value too long for type character varying(512)"
HAS_NUL = "A string literal cannot contain NUL (0x00) characters."
ENCODING = "'utf-8' codec can't encode character"


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"user_attrs": [(LONG, "1")]}, TOO_LONG),
        ({"system_attrs": [(LONG, "1")]}, TOO_LONG),
        ({"params": [param(LONG)]}, TOO_LONG),
        ({"user_attrs": [(NUL, "1")]}, HAS_NUL),
        ({"user_attrs": [("k", NUL)]}, HAS_NUL),
        ({"system_attrs": [("k", NUL)]}, HAS_NUL),
        ({"params": [param(NUL)]}, HAS_NUL),
        ({"user_attrs": [("k", LONE)]}, ENCODING),
        ({"intermediate_values": [(2**31, 0.0)]}, "out of range"),
    ],
)
@pytest.mark.parametrize("report", [False, True])
def test_what_cannot_be_stored_fails_alone(
    shared_url: str, update: dict[str, Any], message: str, report: bool
) -> None:
    async def main() -> None:
        async with storages(shared_url, 1) as (storage,):
            study_id = await create(storage, "alone")
            worker = await Worker(storage, study_id).start("alone")
            trials = [await worker.open() for _ in range(9)]
            commands: list[Command] = [
                worker.telling(trial.trial_id, None if report else TrialState.COMPLETE)
                for trial in trials
            ]
            bad = (2, 3, 7)
            for place in bad:
                trial_id = trials[place].trial_id
                if place == 3:
                    commands[place] = WriteTrial(TrialUpdate(trial_id, **update))
                else:
                    state = None if report else TrialState.COMPLETE
                    commands[place] = worker.telling(trial_id, state, **update)
            answers = await together(shared_url, [*commands, worker.opening()])
            for place, answer in enumerate(answers[:-1]):
                if place not in bad:
                    assert answer in (None, True)
                    continue
                assert isinstance(answer, InvalidInput)
                assert re.match(f"can't be stored: .*{re.escape(message)}", str(answer))
                assert "\n" not in str(answer)
            assert isinstance(answers[-1], TrialRecord)
            found = await storage.trials([trial.trial_id for trial in trials])
            if not report:
                running = [i for i, t in enumerate(found) if t.state == TrialState.RUNNING]
                assert running == list(bad)
            assert all(found[place].user_attrs == () for place in bad)

    asyncio.run(main())


@pytest.mark.parametrize(
    "command",
    [
        CreateStudy(LONG, [MINIMIZE]),
        CreateStudy(NUL, [MINIMIZE]),
        SetStudyAttribute(1, LONG, "1", True),
        SetStudyAttribute(1, "k", NUL, False),
        OpenSession(bytes(16), NUL, "", 60.0),
        OpenSession(bytes(16), "w", NUL, 60.0),
        CreateTrial(1, TrialRecord(0, 0, TrialState.WAITING, user_attrs=[(LONG, "1")])),
        CreateTrial(2**40, None),
        WriteTrial(TrialUpdate(2**40)),
    ],
)
def test_what_cannot_be_stored_is_said_to_be_so(shared_url: str, command: Command) -> None:
    async def main() -> None:
        async with storages(shared_url, 1) as (storage,):
            await create(storage)
            before = query(shared_url, "SELECT count(*) FROM trials")
            with pytest.raises(InvalidInput, match="can't be stored: "):
                await storage.apply(command)
            assert query(shared_url, "SELECT count(*) FROM trials") == before

    asyncio.run(main())


def test_what_does_not_exist(shared_url: str) -> None:
    async def main() -> None:
        async with storages(shared_url, 1) as (storage,):
            await create(storage)
            with pytest.raises(NotFound, match="no trial has the id 12345"):
                await storage.trials([12345])
            with pytest.raises(NotFound, match="no study has the id 12345"):
                await storage.summary(12345)
            with pytest.raises(NotFound, match="no study has the id 12345"):
                await storage.trials_since(12345, -1, [])
            with pytest.raises(NotFound, match="the study with id 12345 has no trial 0"):
                await storage.trial_id(12345, 0)
            with pytest.raises(NotFound, match="no study has the id 12345"):
                await storage.apply(CreateTrial(12345))
            with pytest.raises(NotFound, match="no study has the id 12345"):
                await storage.apply(SetStudyAttribute(12345, "k", "1", True))
            with pytest.raises(NotFound, match="no trial has the id 12345"):
                await storage.apply(WriteTrial(TrialUpdate(12345)))
            with pytest.raises(NotFound, match="no study has the name 'none'"):
                await storage.apply(OpenSession(bytes(16), "w", "none", 60.0))
            assert await storage.studies(study_id=12345) == []
            assert await storage.studies(name="none") == []
            assert await storage.trials([]) == []

    asyncio.run(main())

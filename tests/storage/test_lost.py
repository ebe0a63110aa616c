"""What becomes of the trials of a worker that is gone."""

import asyncio
import json
from typing import Any

import optuna
import pytest
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from tests.storage.fleet import (
    STUDY,
    Worker,
    attributes,
    check,
    create,
    give_up_silent,
    param,
    query,
    stock,
    storages,
    write,
)
from trialfleet import names
from trialfleet.model.errors import SessionGivenUp
from trialfleet.model.session import GivenUp
from trialfleet.model.study import Counts
from trialfleet.model.trial import TrialRecord, TrialUpdate
from trialfleet.storage import Storage
from trialfleet.storage.commands import (
    CloseSession,
    CreateTrial,
    DeleteStudy,
    GiveUp,
    KeepAlive,
    WriteTrial,
)

UPDATE: dict[str, Any] = {
    "params": [param("x", 0.25), param("y", 0.75)],
    "user_attrs": [("checkpoint", '"/c/0"'), ("n", "[1, null]")],
    "system_attrs": [("nsga2:generation", "3"), ("constraints", "[0.5]")],
    "intermediate_values": [(0, 0.5), (1, 0.25)],
}


async def give_up(storage: Storage, *args: Any, **kwargs: Any) -> tuple[int, list[int], list[int]]:
    """Return the numbers of sessions, of the trials lost, and of those requeued."""
    answer: GivenUp = await storage.apply(GiveUp(*args, **kwargs))
    return answer.sessions, list(answer.lost), list(answer.requeued)


async def one(storage: Storage, trial_id: int) -> TrialRecord:
    (trial,) = await storage.trials([trial_id])
    return trial


def test_a_sweep_that_had_to_wait_takes_nobody_who_was_heard_meanwhile(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, await create(storage)).start()
            await worker.open()
            write(url, "UPDATE trialfleet_sessions SET expires_at = clock_timestamp()")
            silent = tuple(await storage.silent_sessions())
            assert [session.session for session in silent] == [worker.session]
            assert await storage.apply(KeepAlive(worker.session))
            late = GiveUp(names.REASON_KEEP_ALIVE, silent=silent)
            assert await storage.apply(late) == GivenUp()
            write(url, "UPDATE trialfleet_sessions SET expires_at = clock_timestamp()")
            assert (await give_up_silent(storage)).lost == [0]

    asyncio.run(main())
    check(url)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_lost_trial_is_retried_as_optuna_retries_a_stale_one(url: str) -> None:
    async def main() -> tuple[list[TrialRecord], list[TrialRecord]]:
        async with storages(url, 1) as (storage,):
            tries, stale = [], []
            study_id = await create(storage, retries=2, enqueue=['{"x": 0.25, "z": 3}'])
            for _ in range(3):
                worker = await Worker(storage, study_id, "w1").start()
                trial = await worker.open()
                await worker.tell(trial.trial_id, None, **UPDATE)
                tries.append(await one(storage, trial.trial_id))
                await storage.apply(GiveUp("Evicted", worker="w1"))
                stale.append(await one(storage, trial.trial_id))
            return tries, stale

    tries, stale = asyncio.run(main())
    with stock(url) as storage:
        study = optuna.load_study(study_name=STUDY, storage=storage)
        for number, trial in enumerate(tries[:2]):
            frozen, mine = (storage.get_trial(each.trial_id) for each in (trial, tries[number + 1]))
            for each in (frozen, mine):
                for name in (names.ATTR_REASON, names.ATTR_WORKER):
                    del each.system_attrs[name]
            RetryHeartbeatStaleTrialCallback(max_retry=2)(study, frozen)
            theirs = study.trials[-1]
            assert theirs.state == TrialState.WAITING
            assert (mine.params, mine.distributions) == (theirs.params, theirs.distributions)
            assert mine.user_attrs == theirs.user_attrs
            # What it had suggested is fixed too: the sampler of its next worker is not asked.
            fixed = {"x": 0.25, "y": 0.75, "z": 3}
            assert mine.system_attrs == theirs.system_attrs | {"fixed_params": fixed}
            assert RetryHeartbeatStaleTrialCallback.retried_trial_number(mine) == 0
            history = RetryHeartbeatStaleTrialCallback.retry_history(mine)
            assert history == list(range(number + 1))
    for trial in stale:
        assert trial.state == TrialState.FAIL
        assert trial.completed is not None
        found = attributes(trial.system_attrs)
        assert found[names.ATTR_REASON] == "Evicted"
        assert found[names.ATTR_WORKER] == "w1"
        assert names.ATTR_MESSAGE not in found
        assert trial.params == UPDATE["params"]
        assert trial.intermediate_values == UPDATE["intermediate_values"]


def test_retries_are_used_up(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage, retries=2)
            for number in range(3):
                worker = await Worker(storage, study_id).start()
                assert (await worker.open()).number == number
                answer = await give_up(storage, "NodeLost", "gone", session=worker.session)
                assert answer == (1, [number], [number + 1] if number < 2 else [])
            summary = await storage.summary(study_id)
            assert summary.counts == Counts(lost=3)
            assert summary.lost_reasons == {"NodeLost": 3}
            trial = (await storage.trials_since(study_id, -1, []))[0]
            assert attributes(trial.system_attrs)[names.ATTR_MESSAGE] == "gone"
            worker = await Worker(storage, study_id).start()
            trial = await worker.open()
            assert (trial.number, trial.system_attrs) == (3, ())

    asyncio.run(main())
    check(url)


def test_a_trial_that_its_objective_killed_has_failed(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage, retries=5)
            worker = await Worker(storage, study_id).start()
            await worker.open()
            giving_up = GiveUp(names.REASON_OOM_KILLED, "12 GiB", worker=worker.name, failed=True)
            assert await storage.apply(giving_up) == GivenUp(sessions=1, opened=1, failed=[0])
            summary = await storage.summary(study_id)
            assert summary.counts == Counts(failed=1)
            assert summary.lost_reasons == {}
            (trial,) = await storage.trials_since(study_id, -1, [])
            found = attributes(trial.system_attrs)
            assert found[names.ATTR_REASON] == "OOMKilled"
            assert found[names.ATTR_MESSAGE] == "12 GiB"

    asyncio.run(main())
    check(url)


def test_without_a_definition_nothing_is_retried(url: str) -> None:
    with stock(url) as rdb:
        study_id = optuna.create_study(storage=rdb, study_name=STUDY)._study_id

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            worker = await Worker(storage, study_id).start()
            await worker.open()
            assert await give_up(storage, "Evicted", worker=worker.name) == (1, [0], [])

    asyncio.run(main())
    check(url)


def test_whose_sessions_are_given_up(url: str) -> None:
    async def main() -> None:
        async with storages(url, 2) as (first, second):
            study_id, other = await create(first), await create(second, "other", retries=1)
            a1 = await Worker(first, study_id, "a").start()
            a2 = await Worker(second, other, "a").start("other")
            b = await Worker(first, study_id, "b").start(time_to_live_s=0.0)
            c = await Worker(second, other, "c").start("", time_to_live_s=0.0)
            for worker in (a1, a2, b, c):
                await worker.open()
            assert (await first.summary(study_id)).sessions == 2
            assert await give_up(second, "Evicted", worker="a") == (2, [0, 0], [2])
            assert await give_up(first, "Evicted", worker="a") == (0, [], [])
            # Kept alive, but for no time: it expires again at once. The other lives.
            write(
                url,
                "UPDATE trialfleet_sessions SET time_to_live_s = 60 WHERE session_id = :session",
                session=b.session,
            )
            assert await first.apply(KeepAlive(b.session))
            assert await first.apply(KeepAlive(c.session))
            assert await give_up_silent(first) == GivenUp(1, 0, [1], [3])
            assert not await first.apply(KeepAlive(c.session))
            assert await give_up(first, "Evicted", session=b.session) == (1, [1], [])
            assert (await first.summary(study_id)).lost_reasons == {"Evicted": 2}
            found = (await first.summary(other)).lost_reasons
            assert found == {"Evicted": 1, names.REASON_KEEP_ALIVE: 1}
            assert (await first.summary(study_id)).sessions == 0

    asyncio.run(main())
    check(url)


@pytest.mark.parametrize("waiting", [False, True])
def test_who_opens_trials_lives(url: str, waiting: bool) -> None:
    left = (
        "SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 / time_to_live_s "
        "FROM trialfleet_sessions WHERE session_id = :session"
    )
    aging = (
        "UPDATE trialfleet_sessions SET expires_at = clock_timestamp() "
        "+ make_interval(secs => time_to_live_s * :left) WHERE session_id = :session"
    )

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start(time_to_live_s=3600.0)
            other = await Worker(storage, study_id).start(time_to_live_s=3600.0)
            for before, after in ((0.95, 0.95), (0.8, 1.0), (-0.5, 1.0)):
                for session in (worker.session, other.session):
                    write(url, aging, session=session, left=before)
                trial = await worker.open()
                if waiting:
                    await worker.tell(trial.trial_id, TrialState.WAITING)
                    await worker.open()
                await worker.tell(trial.trial_id)
                for session, expected in ((worker.session, after), (other.session, before)):
                    ((found,),) = query(url, left, session=session)
                    assert found == pytest.approx(expected, abs=0.02)
            assert await give_up_silent(storage) == GivenUp(1)
            assert await worker.ask() is not None
            with pytest.raises(SessionGivenUp):
                await other.ask()

    asyncio.run(main())
    check(url)


def test_only_what_runs_is_lost(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage, retries=1)
            worker = await Worker(storage, study_id).start()
            trials = [await worker.open() for _ in range(5)]
            for trial, state in zip(
                trials, (TrialState.COMPLETE, TrialState.WAITING, TrialState.FAIL), strict=False
            ):
                await worker.tell(trial.trial_id, state)
            # Handed back, and run by a client without a session now.
            update = TrialUpdate(trials[1].trial_id)
            assert await storage.apply(WriteTrial(update, TrialState.RUNNING))
            await storage.apply(CreateTrial(study_id))
            answer = await give_up(storage, "Evicted", session=worker.session)
            assert answer == (1, [3, 4], [6, 7])
            counts = Counts(complete=1, failed=1, running=2, waiting=2, lost=2)
            assert (await storage.summary(study_id)).counts == counts

    asyncio.run(main())
    check(url)


def test_a_trial_that_is_handed_back_waits_at_once(url: str) -> None:
    async def main() -> None:
        async with storages(url, 2) as (first, second):
            study_id = await create(first)
            worker = await Worker(first, study_id).start()
            trial = await worker.open()
            await worker.tell(trial.trial_id, None, **UPDATE)
            late: dict[str, Any] = {
                "user_attrs": [("last", "1")],
                "intermediate_values": [(2, 1.0)],
            }
            await worker.tell(trial.trial_id, TrialState.WAITING, **late)
            assert (await first.summary(study_id)).counts == Counts(waiting=1)
            other = await Worker(second, study_id, "other").start()
            again = await other.open()
            assert (again.trial_id, again.number) == (trial.trial_id, 0)
            assert again.state == TrialState.RUNNING
            assert again.params == UPDATE["params"]
            assert again.user_attrs == [*UPDATE["user_attrs"], ("last", "1")]
            assert again.intermediate_values == ()
            assert again.started is not None
            assert trial.started is not None
            assert again.started > trial.started
            await other.tell(again.trial_id)

    asyncio.run(main())
    check(url)


def test_closing_hands_back_what_still_runs(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage)
            worker = await Worker(storage, study_id).start()
            trials = [await worker.open() for _ in range(3)]
            await worker.tell(trials[0].trial_id)
            await worker.tell(trials[1].trial_id, None, **UPDATE)
            for _ in range(2):
                await storage.apply(CloseSession(worker.session))
            summary = await storage.summary(study_id)
            assert summary.counts == Counts(complete=1, waiting=2)
            assert (summary.sessions, summary.lost_reasons) == (0, {})
            assert await give_up(storage, "Evicted", worker=worker.name) == (0, [], [])
            other = await Worker(storage, study_id, "other").start()
            found = [await other.open() for _ in range(3)]
            assert [trial.number for trial in found] == [1, 2, 3]
            assert found[0].intermediate_values == ()

    asyncio.run(main())
    check(url)


def test_a_handed_back_trial_that_is_lost_later(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage, retries=1)
            first = await Worker(storage, study_id, "first").start()
            trial = await first.open()
            await first.tell(trial.trial_id, TrialState.WAITING, **UPDATE)
            second = await Worker(storage, study_id, "second").start()
            await second.open()
            assert await give_up(storage, "Evicted", worker="first") == (1, [], [])
            assert await give_up(storage, "Evicted", worker="second") == (1, [0], [1])
            found = attributes((await one(storage, trial.trial_id)).system_attrs)
            assert found[names.ATTR_WORKER] == "second"

    asyncio.run(main())
    check(url)


@pytest.mark.parametrize("key", [names.ATTR_FIXED_PARAMS, names.ATTR_RETRY_HISTORY])
@pytest.mark.parametrize("text", ["1", "[1, 2]", '{"x": 1}', '["a"]', "null", '"text"', "[[]]"])
def test_strange_attributes_keep_no_session_alive(shared_url: str, key: str, text: str) -> None:
    async def main() -> None:
        async with storages(shared_url, 1) as (storage,):
            name = f"{key} {text}"
            study_id = await create(storage, name, retries=9)
            worker = await Worker(storage, study_id).start(name, time_to_live_s=0.0)
            trial = await worker.open()
            await worker.tell(trial.trial_id, None, params=[param()], system_attrs=[(key, text)])
            assert await give_up_silent(storage) == GivenUp(1, 0, [0], [1])
            retry = (await storage.trials_since(study_id, trial.trial_id, []))[0]
            found = attributes(retry.system_attrs)
            assert found[names.ATTR_RETRY_HISTORY][-1] == 0
            assert found[names.ATTR_FIXED_PARAMS]["x"] == 0.5

    asyncio.run(main())


def test_categories_are_fixed_by_what_they_stand_for(url: str) -> None:
    distribution = optuna.distributions.CategoricalDistribution((None, "b", True, 1.5))
    text = optuna.distributions.distribution_to_json(distribution)

    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage, retries=1)
            worker = await Worker(storage, study_id).start()
            trial = await worker.open()
            params = [param(f"p{k}", float(k))._replace(distribution_json=text) for k in range(4)]
            await worker.tell(trial.trial_id, None, params=params)
            await storage.apply(GiveUp("Evicted", worker=worker.name))
            retry = (await storage.trials_since(study_id, trial.trial_id, []))[0]
            fixed = dict(retry.system_attrs)[names.ATTR_FIXED_PARAMS]
            assert json.loads(fixed) == {"p0": None, "p1": "b", "p2": True, "p3": 1.5}

    asyncio.run(main())


def test_the_study_may_be_deleted_under_its_workers(url: str) -> None:
    async def main() -> None:
        async with storages(url, 1) as (storage,):
            study_id = await create(storage, retries=1)
            workers = [await Worker(storage, study_id, f"w{k}").start() for k in range(3)]
            for worker in workers:
                await worker.tell((await worker.open()).trial_id, None, **UPDATE)
            await storage.apply(DeleteStudy(study_id))
            assert await storage.apply(KeepAlive(workers[0].session))
            assert await storage.apply(CloseSession(workers[0].session)) is None
            assert await give_up(storage, "Evicted", worker="w1") == (1, [], [])

    asyncio.run(main())
    for table in ("trials", "trial_params", "trialfleet_runs", "trialfleet_counts"):
        assert query(url, f"SELECT 1 FROM {table}") == []

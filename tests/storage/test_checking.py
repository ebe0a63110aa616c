"""What is kept beside the trials is compared with them, and put right."""

import asyncio
from pathlib import Path

import pytest

from tests.calling import Call, call, done, refused
from tests.local.conftest import folder
from tests.storage.fleet import (
    MAXIMIZE,
    MINIMIZE,
    Worker,
    check,
    create,
    held,
    param,
    query,
    write,
)
from trialfleet import names
from trialfleet.storage import Storage
from trialfleet.storage.commands import GiveUp

__all__ = ["call", "folder"]


async def fill(url: str) -> None:
    """Make two studies, of one objective and of two, and lose a trial of the first."""
    async with Storage(url) as storage:
        for name, directions in (("one", [MAXIMIZE]), ("two", [MINIMIZE, MAXIMIZE])):
            study_id = await create(storage, name, directions, retries=1)
            worker = await Worker(storage, study_id).start(name)
            for number in range(6):
                values = [float(number % 3), float(number % 2)][: len(directions)]
                trial = await worker.open()
                await worker.tell(trial.trial_id, values=values, params=[param(f"x{number % 2}")])
            await worker.open()
            if name == "one":
                await storage.apply(GiveUp(session=worker.session, reason=names.REASON_KILLED))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            "TRUNCATE trialfleet_counts",
            [
                "one: counts: complete: found 0, expected 6",
                "one: counts: lost: found 0, expected 1",
                "one: counts: waiting: found 0, expected 1",
                "two: counts: complete: found 0, expected 6",
                "two: counts: running: found 0, expected 1",
            ],
        ),
        (
            "UPDATE trialfleet_counts SET failed = failed + 1 WHERE study_id = 1",
            ["one: counts: failed: found 1, expected 0"],
        ),
        (
            "DELETE FROM trialfleet_best",
            ["one: best trials: found none, expected -2.0", "two: best trials: found none, "],
        ),
        (
            "UPDATE trialfleet_best SET costs = '{5}' WHERE study_id = 1",
            ["one: best trials: found 5.0, expected -2.0"],
        ),
        (
            "DELETE FROM trialfleet_params WHERE param_name = 'x0'",
            ["one: parameters: x0: found none, expected {", "two: parameters: x0: found none, "],
        ),
        (
            "UPDATE trialfleet_params SET distribution_json = '{}' WHERE study_id = 2",
            ["two: parameters: x0: found {}, expected {", "two: parameters: x1: found {}, "],
        ),
        ("TRUNCATE trialfleet_lost", ["one: lost: KilledBySignal: found none, expected 1"]),
    ],
)
def test_what_was_spoiled(url: str, folder: Path, call: Call, spoil: str, said: list[str]) -> None:
    asyncio.run(fill(url))
    check(url)
    options = ["storage", "check", "--storage", url]
    assert done(options, call) == "2 studies: nothing differs\n"
    write(url, spoil)
    for _ in range(2):  # to look changes nothing
        code, out, err = call(options)
        assert (code, err) == (1, "put it right with --repair\n")
        lines = out.splitlines()
        assert len(lines) == len(said), out
        for line, start in zip(lines, said, strict=True):
            assert line.startswith(start)
    assert done([*options, "--repair"], call).splitlines() == [*lines, f"{len(said)} repaired"]
    assert done(options, call) == "2 studies: nothing differs\n"
    check(url)


def test_equal_bests_and_compatible_distributions_differ_in_nothing(url: str, call: Call) -> None:
    asyncio.run(fill(url))
    # The later of two equals, as when it was told first; another range, as when it came first.
    write(
        url,
        "UPDATE trialfleet_best SET trial_id = (SELECT max(trial_id) FROM trial_values v "
        "JOIN trials t USING (trial_id) WHERE v.value = 2 AND t.study_id = 1) WHERE study_id = 1",
    )
    write(
        url,
        "UPDATE trialfleet_params SET distribution_json = replace(distribution_json, '1.0', '9.5')",
    )
    options = ["storage", "check", "--storage", url]
    assert done(options, call) == "2 studies: nothing differs\n"


def test_writers_wait_and_lose_nothing(url: str, call: Call) -> None:
    asyncio.run(fill(url))
    write(url, "TRUNCATE trialfleet_counts")

    async def main() -> None:
        async with Storage(url) as storage:
            worker = await Worker(storage, 2).start("two")
            # Somebody writes to a trial, and has not committed yet.
            change = "UPDATE trials SET state = 'FAIL' WHERE study_id = 2 AND state = 'RUNNING'"
            async with held(url, change) as writer:
                options = ["storage", "check", "--repair", "--storage", url]
                checking = asyncio.create_task(asyncio.to_thread(done, options, call))
                await writer.waiters(1)
                opening = asyncio.create_task(worker.open())
                await writer.waiters(2)
                writer.release()
                await checking
                await worker.tell((await opening).trial_id, values=[0.0, 0.0])

    asyncio.run(main())
    # The change of the writer without commit is undone; the repair saw the trials as they are.
    check(url)


def test_what_can_not_be_checked(database_url: str, url: str, call: Call) -> None:
    options = ["storage", "check", "--storage"]
    assert "no studies in this database" in refused([*options, database_url], call)
    assert refused([*options, "sqlite:///x.db"], call).startswith(
        "--storage: found a sqlite database, accepted: "
    )
    assert "no data of 'trialfleet run'" in refused(["storage", "check", "--data", "x"], call)
    write(url, "DROP TABLE trialfleet_schema")
    assert refused([*options, url], call).startswith(
        "the database has version none of the trialfleet_ tables, accepted: "
    )
    assert query(url, "SELECT count(*) FROM studies") == [(0,)]

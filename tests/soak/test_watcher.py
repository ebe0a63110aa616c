"""The watcher of a soak notices what it is there for."""

from dataclasses import replace

import pytest

from tests.soak.watcher import HEALED_S, Reading, Watcher

READING = Reading("s", finished=5, counted=4, running=2, budget=6)


@pytest.mark.parametrize(
    ("following", "found"),
    [
        ({}, []),
        ({"finished": 6, "counted": 5, "running": 1}, []),
        ({"finished": 4}, ["s: 5 trials were finished, now 4"]),
        ({"running": 3}, ["s: 7 trials count or run, of a budget of 6"]),
        ({"budget": 3}, []),
        ({"budget": 3, "running": 3}, ["s: 7 trials count or run, of a budget of 3"]),
        ({"study": "another", "finished": 0, "counted": 0, "running": 0}, []),
        ({"size": 16 * 1024}, ["s: the object has 16384 bytes"]),
    ],
)
def test_a_reading_after_another(following: dict[str, int], found: list[str]) -> None:
    watcher = Watcher(ownerless_s=10)
    watcher.look(READING, 0)
    watcher.look(replace(READING, **following), 1)  # type: ignore[arg-type]
    assert watcher.violations == found


def test_a_trial_without_a_worker() -> None:
    watcher = Watcher(ownerless_s=10)
    ownerless = replace(READING, ownerless=[3])
    watcher.look(ownerless, 0)
    watcher.look(ownerless, 9)
    watcher.trouble(9)
    watcher.look(ownerless, 18)
    assert watcher.violations == []
    watcher.look(ownerless, 20)
    assert watcher.violations == ["s: trial 3 runs without a worker"]
    assert watcher.longest_ownerless_s == 11
    watcher.look(READING, 21)
    watcher.look(ownerless, 30)
    assert len(watcher.violations) == 1


def test_workers_that_do_not_come_back() -> None:
    watcher = Watcher(ownerless_s=10)
    assert not watcher.healed(3, 2, HEALED_S)
    assert watcher.healed(3, 3, HEALED_S)
    assert watcher.violations == []
    assert watcher.healed(3, 2, HEALED_S + 1)
    assert watcher.violations == ["2 of 3 workers are ready 61 s after the last fault"]


def test_what_was_acknowledged_and_is_not_stored() -> None:
    watcher = Watcher(ownerless_s=10)
    watcher.compare({0: ("COMPLETE", 1.0)}, {0: ("COMPLETE", 1.0), 1: ("FAIL", None)})
    assert watcher.violations == []
    watcher.compare({0: ("COMPLETE", 1.0), 2: ("FAIL", None)}, {0: ("COMPLETE", 2.0)})
    assert watcher.violations == [
        "trial 0: acknowledged ('COMPLETE', 1.0), stored ('COMPLETE', 2.0)",
        "trial 2: acknowledged ('FAIL', None), stored None",
    ]

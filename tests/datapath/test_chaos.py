"""Twenty workers over three proxies, killed at random: exactly the budget, nothing lost."""

from pathlib import Path

import pytest

from tests.datapath.chaos import Chaos


def test_exact_budget_while_workers_and_proxies_are_killed(
    database_url: str, tmp_path: Path
) -> None:
    chaos = Chaos(database_url, tmp_path, trials=500)
    chaos.run()
    assert chaos.kills == {"worker": 40, "proxy": 6}
    chaos.check()


@pytest.mark.soak
def test_exact_budget_over_a_long_time(database_url: str, tmp_path: Path) -> None:
    chaos = Chaos(database_url, tmp_path, trials=50_000, seed=1, timeout_s=3600.0)
    chaos.worker_kills, chaos.proxy_kills = 1_500, 200
    chaos.run()
    chaos.check()

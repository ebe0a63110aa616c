"""Run the comparison, print it as a table, keep the figures: ``make bench``."""

import argparse
import datetime
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console
from rich.table import Table

from benchmarks import counting, fairness, growth, history
from benchmarks.cases import STEADY, Case, measure, measure_steady
from benchmarks.ways import Direct, StockProxy, Trialfleet, Way
from trialfleet.local.postgres import Postgres

_WHOSE = ("workers", "proxies", "postgres")

RESULTS = Path(__file__).parent / "results"

WORKING = (
    Case(workers=20, params=1, seconds=0.5),
    Case(workers=20, params=1, seconds=0.5, reports=2, pruner="MedianPruner"),
    Case(workers=100, params=1, seconds=1.0, reports=2, pruner="MedianPruner"),
    Case(workers=300, params=1, seconds=1.0),
)
"""Trials as long as work is: what of the workers' time is lost, and what the servers cost."""

CASES = (
    Case(workers=1, params=1),
    Case(workers=10, params=1),
    Case(workers=1, params=10),
    Case(workers=10, params=10),
    Case(workers=10, params=1, reports=50, pruner="MedianPruner"),
    Case(workers=300, params=1),
    Case(workers=300, params=1, proxies=30),
)
"""RandomSampler, whose own cost is small; one reports and prunes."""

ALONE = {
    f"growth, {growth.TRIALS} trials": growth.measure,
    f"fairness, {fairness.STUDIES} studies": fairness.measure,
    f"TPESampler, {history.TRIALS} trials": history.measure,
    f"latency, {STEADY.title}": measure_steady,
}
"""What is measured of Trialfleet alone."""


def trials_of(way: Way, case: Case, seconds: float) -> int:
    """Return how many trials to run, so that a case takes about so long."""
    if case.seconds:
        # A rival that is slower by far gets fewer, so that it is done in time.
        return case.workers * (
            round(2 * seconds / case.seconds) if isinstance(way, Trialfleet) else 4
        )
    guess = 500.0 if isinstance(way, Trialfleet) else 25.0
    guess *= 1 if case.workers > 1 else 0.4
    if case.reports:
        return 30 * case.workers  # how many reports a trial makes depends on those before it
    if case.workers > 100 and isinstance(way, Trialfleet):
        return 10_000  # as in Optuna's own report of 300 workers
    least = 4 if case.workers > 100 else 5
    return max(case.workers * least, int(seconds * guess))


def main() -> None:
    """Measure all cases all ways and print the ratios to the better rival."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement, about")
    parser.add_argument("--only", default="", help="cases whose title contains this text")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    cases = [case for case in (*WORKING, *CASES) if options.only in case.title]
    results: list[dict[str, Any]] = []
    alone: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        with Postgres(Path(folder)) as postgres:
            counting.enable(postgres.url)
        with Postgres(Path(folder)) as postgres:
            for case in cases:
                for way in (Direct(), StockProxy(), Trialfleet()):
                    trials = trials_of(way, case, options.seconds)
                    figures = measure(way, case, postgres.url, trials)
                    results.append({"case": case.title, "way": way.name, **figures.plain()})
                    print(json.dumps(results[-1]), flush=True)
            for title, figure in ALONE.items():
                if options.only in title:
                    alone[title] = figure(postgres.url)
                    print(json.dumps({title: alone[title]}, indent=1), flush=True)
    if results:
        _print(results, _load_last())
    if not options.only:
        _keep(results, alone)


def _print(results: list[dict[str, Any]], last: dict[tuple[str, str], float]) -> None:
    table = Table(
        title=f"RandomSampler, fsync on, {os.cpu_count()} cores, one run",
        caption="All but trials/s, the ratio and p99 are for a trial; CPU is that of the workers, "
        "the proxies if there are any, and PostgreSQL.",
    )
    for heading in (
        "",
        "trials/s",
        "ratio",
        "transactions",
        "statements",
        "RPCs",
        "WAL bytes",
        "CPU ms",
        "p99 ms",
        "working",
    ):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_column("last run", justify="right")
    for title in dict.fromkeys(result["case"] for result in results):
        rows = [result for result in results if result["case"] == title]
        best = max(row["trials_per_s"] for row in rows if row["way"] != Trialfleet.name)
        table.add_row(f"[bold]{title}")
        for row in rows:
            before = last.get((title, row["way"]))
            table.add_row(
                f"  {row['way']}",
                f"{row['trials_per_s']:.1f}",
                f"{row['trials_per_s'] / best:.1f}" if row["way"] == Trialfleet.name else "",
                f"{row['transactions']:.2f}",
                f"{row['statements']:.1f}",
                f"{row['rpcs']:.2f}" if row["rpcs"] else "",
                f"{row['wal_bytes']:.0f}",
                " + ".join(f"{row[f'{who}_cpu_ms']:.2f}" for who in _WHOSE if row[f"{who}_cpu_ms"]),
                f"{row['p99_ms']:.0f}" if row["p99_ms"] else "",
                f"{row['working']:.3f}" if row["working"] else "",
                "" if before is None else f"{before:.1f}",
            )
    Console(width=130).print(table)


def _load_last() -> dict[tuple[str, str], float]:
    files = sorted(RESULTS.glob("*.json"))
    if not files:
        return {}
    results = json.loads(files[-1].read_text())["results"]
    return {(result["case"], result["way"]): result["trials_per_s"] for result in results}


def _keep(results: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    now = datetime.datetime.now(datetime.UTC)
    RESULTS.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    content = {
        "at": now.isoformat(timespec="seconds"),
        **machine,
        "results": results,
        "alone": alone,
    }
    file = RESULTS / f"{now:%Y-%m-%dT%H%M%S}.json"
    file.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Reading studies from a folder, a database or a proxy."""

import csv
import io
import json
import re
from pathlib import Path

import optuna
import pytest

from tests.local.conftest import Start
from tests.local.running import run, until, write_study
from trialfleet.cli.trial_slices import open_slices


@pytest.fixture
def filled_url(database_url: str) -> str:
    """URL of a database with a study that stock Optuna made."""
    storage = optuna.storages.RDBStorage(database_url)
    study = optuna.create_study(
        study_name="stock", storage=storage, directions=["minimize", "maximize"]
    )
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.set_metric_names(["loss", "speed"])
    values = [(1.0, 5.0), (0.5, 9.0), (0.1, 1.0), (2.0, float("inf"))]
    for loss, speed in values:
        trial = study.ask()
        trial.suggest_categorical("kind", ["a[b]", "c"])
        trial.set_user_attr("list", [1, 2])
        study.tell(trial, [loss, speed])
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    storage.engine.dispose()
    return database_url


def test_a_database(folder: Path, filled_url: str) -> None:
    table = run(["trials", "--storage", filled_url], folder).stdout.splitlines()
    assert re.split(" +", table[0].strip()) == [
        "trial",
        "state",
        "loss",
        "speed",
        "kind",
        "seconds",
    ]
    assert re.match(r" +4 +fail +", table[5])
    rows = list(
        csv.DictReader(
            io.StringIO(run(["trials", "--storage", filled_url, "--output", "csv"], folder).stdout)
        )
    )
    assert [row["loss"] for row in rows] == ["1.0", "0.5", "0.1", "2.0", ""]
    assert rows[0]["user_attrs_list"] == "[1, 2]"
    assert rows[0]["params_kind"] in ("a[b]", "c")
    front = json.loads(
        run(["best", "stock", "--storage", filled_url, "--output", "json"], folder).stdout
    )
    assert {trial["number"] for trial in front} == {1, 2, 3}
    assert front[-1]["values"]["speed"] in ("Infinity", 9.0, 1.0)
    one = run(
        ["trials", "--storage", filled_url, "--state", "complete", "--limit", "1"], folder
    ).stdout.splitlines()
    assert len(one) == 2
    listed = json.loads(
        run(["studies", "--storage", filled_url, "--output", "json"], folder).stdout
    )
    assert listed == [
        {
            "name": "stock",
            "objectives": {"loss": "minimize", "speed": "maximize"},
            "trials": {"running": 0, "complete": 4, "pruned": 0, "fail": 1, "waiting": 0},
        }
    ]


def test_what_is_read_in_slices(folder: Path, database_url: str) -> None:
    storage = optuna.storages.RDBStorage(database_url)
    study = optuna.create_study(study_name="many", storage=storage)
    # More than a slice; what only some trials have is a column of its own all the same.
    study.add_trials(
        optuna.trial.create_trial(
            value=float(number),
            params={"x": number / 1000, **({"late": "b"} if number == 299 else {})},
            distributions={
                "x": optuna.distributions.FloatDistribution(0, 1),
                **(
                    {"late": optuna.distributions.CategoricalDistribution(["a", "b"])}
                    if number == 299
                    else {}
                ),
            },
        )
        for number in range(300)
    )
    expected = study.get_trials()
    with open_slices(study) as slices:
        assert [len(trials) for trials in slices.read(None, None)] == [250, 50]
    storage.engine.dispose()

    def listed(*options: str) -> str:
        done = run(["trials", "--storage", database_url, *options], folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    trials = json.loads(listed("--output", "json"))
    assert [trial["params"] for trial in trials] == [trial.params for trial in expected]
    assert trials[0]["datetime_start"] == str(expected[0].datetime_start).replace(" ", "T")
    rows = list(csv.DictReader(io.StringIO(listed("--output", "csv", "--limit", "2"))))
    assert [(row["number"], row["params_late"]) for row in rows] == [("298", ""), ("299", "b")]
    assert listed("--output", "json", "--state", "fail") == "[]\n"


def test_nothing_is_written_to_an_empty_database(folder: Path, database_url: str) -> None:
    for _ in range(2):
        done = run(["studies", "--storage", database_url], folder)
        assert done.returncode == 2
        assert "no studies in this database" in done.stderr


def test_a_study_is_named_where_there_are_several(folder: Path, filled_url: str) -> None:
    storage = optuna.storages.RDBStorage(filled_url)
    optuna.create_study(study_name="another", storage=storage)
    storage.engine.dispose()
    done = run(["best", "--storage", filled_url], folder)
    assert (done.returncode, done.stderr) == (2, "STUDY: missing, accepted: another, stock\n")
    done = run(["best", "stok", "--storage", filled_url], folder)
    assert (done.returncode, done.stderr) == (
        2,
        "STUDY: found 'stok', accepted: another, stock\n",
    )


def test_a_database_that_is_away(folder: Path) -> None:
    url = "postgresql+psycopg2://postgres:secret@127.0.0.1:1/none"
    done = run(["studies", "--storage", url], folder)
    assert done.returncode == 3
    assert "--storage postgresql+psycopg2://postgres:***@127.0.0.1:1/none: " in done.stderr
    assert "secret" not in done.stderr


def test_a_run_in_a_database_and_a_proxy_that_reads_it(
    folder: Path, database_url: str, start: Start
) -> None:
    write_study(folder, "def objective(trial):\n    return trial.suggest_float('x', 0, 1)\n")
    done = run(["run", "study.yaml", "--storage", database_url], folder)
    assert done.returncode == 0, done.stderr
    assert "6 of 6 trials" in done.stdout
    assert not (folder / ".trialfleet" / "postgres").exists()
    proxy = start(["proxy", "--storage", database_url, "--listen", "127.0.0.1:0"])
    address = until(lambda: next((x for x in proxy.lines if x.startswith("listening on ")), None))
    proxy_option = ["--proxy", address.removeprefix("listening on ")]
    through_proxy = run(["trials", *proxy_option, "--output", "json"], folder)
    directly = run(["trials", "--storage", database_url, "--output", "json"], folder)
    assert through_proxy.returncode == 0, through_proxy.stderr
    assert through_proxy.stdout == directly.stdout
    studies = run(["studies", *proxy_option], folder).stdout.splitlines()
    assert re.match(r"test +minimize loss +0 +6 ", studies[1])


def test_why_of_a_local_run(folder: Path) -> None:
    write_study(folder, "def objective(trial):\n    raise ValueError('too small')\n", trials=2)
    assert run(["run", "study.yaml"], folder).returncode == 1
    done = run(["why"], folder)
    assert (done.returncode, done.stderr) == (
        0,
        "looking at .trialfleet (a cluster instead: --namespace)\n",
    )
    page = done.stdout.splitlines()
    assert page[0] == "test: 2 fail"
    assert "  2 ObjectiveRaised" in page
    assert (
        "    do: read the error: trialfleet trials test --state fail; the objective" in done.stdout
    )
    assert page[-1] == "  ValueError: too small"

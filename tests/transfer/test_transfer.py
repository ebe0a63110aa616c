"""Studies leave for a file of Optuna's and come back, equal trial by trial."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from tests.calling import Call, call, done, refused
from tests.client.proxies import Proxy
from tests.storage.conftest import copied_database
from tests.storage.fleet import check, counts_of, database, query, write
from tests.transfer.studies import PARAMS, SPACE, contents, fill, opened, trial
from trialfleet.client import FleetStorage

__all__ = ["call"]

FILES = ["studies.sqlite3", "studies.journal"]


@pytest.fixture(scope="module")
def filled_once(shared_url: str) -> str:
    """URL of a database with studies of every kind, which nobody changes or is connected to."""
    with opened(shared_url) as storage:
        fill(storage)
    return shared_url


@pytest.fixture
def filled(postgres_url: str, filled_once: str) -> Iterator[str]:
    """URL of a database with studies of every kind."""
    with copied_database(postgres_url, str(sa.make_url(filled_once).database)) as copied:
        yield copied


@pytest.mark.parametrize("name", FILES)
def test_there_and_back(
    filled: str, database_url: str, folder: Path, call: Call, name: str
) -> None:
    before = contents(filled)
    said = done(["export", "--all", "--to", name, "--storage", filled], call)
    assert said == "every kind: 7 trials\nboth: 300 trials\n"
    assert contents(folder / name) == before
    # Into an empty database: its tables are made.
    done(["import", "--all", "--from", name, "--storage", database_url], call)
    assert contents(database_url) == before
    check(database_url)
    assert query(
        database_url, "SELECT param_name, distribution_json FROM trialfleet_params ORDER BY 1"
    ) == query(filled, "SELECT param_name, distribution_json FROM trialfleet_params ORDER BY 1")


@pytest.mark.parametrize("name", FILES)
def test_through_a_proxy(
    filled: str, database_url: str, folder: Path, call: Call, name: str
) -> None:
    before = contents(filled)
    proxies = [Proxy(filled), Proxy(database_url)]
    try:
        done(["export", "--all", "--to", name, "--proxy", proxies[0].address], call)
        assert contents(folder / name) == before
        done(["import", "--all", "--from", name, "--proxy", proxies[1].address], call)
    finally:
        for proxy in proxies:
            proxy.stop()
    assert contents(database_url) == before
    check(database_url)


def test_from_one_file_to_the_folder_of_a_run(folder: Path, call: Call) -> None:
    with opened(folder / "other.journal") as storage:
        fill(storage)
    before = contents(folder / "other.journal")
    arguments = ["import", "both", "--from", "other.journal", "--data", "data", "--as", "again"]
    assert done(arguments, call) == "both: 300 trials, as again\n"
    done(["export", "--to", "back.db", "--data", "data"], call)
    assert contents(f"sqlite:///{folder}/back.db") == {"again": before["both"]}


def test_between_databases(filled: str, database_url: str, folder: Path, call: Call) -> None:
    done(["export", "both", "--to", database_url, "--storage", filled], call)
    assert contents(database_url) == {"both": contents(filled)["both"]}
    # In one and the same, under another name.
    done(["export", "both", "--to", filled, "--storage", filled, "--as", "copy"], call)
    assert contents(filled)["copy"] == contents(filled)["both"]
    check(filled)


@pytest.mark.parametrize("name", FILES)
def test_a_running_trial_waits_at_the_target(url: str, folder: Path, call: Call, name: str) -> None:
    with opened(url) as storage:
        study = optuna.create_study(study_name="s", storage=storage)
        study.add_trial(
            trial(
                TrialState.RUNNING,
                params=PARAMS,
                distributions=SPACE,
                user_attrs={"a": 1},
                intermediate_values={1: 0.5},
            )
        )
        study.tell(study.ask(), 1.0)
    said = done(["export", "--to", name, "--storage", url], call)
    assert said.splitlines() == [
        "s: 2 trials",
        "s: 1 running where they were copied from, waiting where they were copied to",
    ]
    (first, second) = contents(folder / name)["s"]["trials"]
    assert (first["state"], second["state"]) == (TrialState.WAITING, TrialState.COMPLETE)
    assert first["started"] is None and first["intermediate_values"] == {}
    assert first["user_attrs"] == {"a": 1}
    # It is the first that is run, with the same parameters.
    with opened(folder / name) as storage:
        study = optuna.load_study(study_name="s", storage=storage)
        again = study.ask()
        assert again.number == 0
        assert again.suggest_float("lr", 1e-5, 1e-1, log=True) == PARAMS["lr"]
        assert again.suggest_categorical("kind", [None, True, 2.5, "ü"]) is True


def test_a_journal_is_read_as_optuna_reads_it(folder: Path, call: Call, database_url: str) -> None:
    path = folder / "own.journal"
    with opened(path) as storage, opened(path) as other:
        gone = storage.create_new_study([StudyDirection.MINIMIZE], "gone")
        storage.create_new_trial(gone, trial(TrialState.COMPLETE, [1.0]))
        study = optuna.create_study(
            study_name="s",
            storage=storage,
            sampler=optuna.samplers.RandomSampler(seed=1),
            pruner=optuna.pruners.NopPruner(),
        )
        study.set_user_attr("a", 1)
        study.set_user_attr("a", 2)
        study.enqueue_trial({"x": 0.25})
        study.enqueue_trial({"x": 0.5})

        def objective(trial: optuna.Trial) -> float:
            x = trial.suggest_float("x", 0, 1)
            if trial.number % 3 == 0:
                trial.suggest_int("n", 1, 5)
            trial.report(x, 2)
            trial.report(x / 2, 1)
            trial.set_user_attr("twice", 1)
            trial.set_user_attr("twice", x)
            if trial.number % 5 == 4:
                raise optuna.TrialPruned
            return x

        running = study.ask()  # takes the first that waits
        running.suggest_float("x", 0, 1)
        study.optimize(objective, n_trials=20)
        study.enqueue_trial({"x": 0.75})
        # Optuna writes down, and passes over, what can't be: another distribution, a trial that
        # has finished, a study that is gone.
        running_id = running._trial_id
        with pytest.raises(ValueError, match="distribution"):
            other.set_trial_param(running_id, "n", 0, SPACE["kind"])
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            other.set_trial_user_attr(running_id + 1, "late", 1)
        other.delete_study(gone)
        with pytest.raises(KeyError):
            other.set_study_user_attr(gone, "late", 1)
    before = contents(path)
    done(["import", "--from", path.name, "--storage", database_url], call)
    after = contents(database_url)
    states = [found["state"] for found in before["s"]["trials"]]
    assert states.count(TrialState.RUNNING) == 1
    # But for the one that runs: see above.
    place = states.index(TrialState.RUNNING)
    del before["s"]["trials"][place], after["s"]["trials"][place]
    assert after == before


def test_what_exists_is_refused(filled: str, folder: Path, call: Call) -> None:
    with opened(folder / "a.sqlite3") as storage:
        fill(storage)
    before = contents(filled)
    arguments = ["import", "both", "--from", "a.sqlite3", "--storage", filled]
    assert refused(arguments, call) == (
        "study 'both': exists at the target with 300 trials, accepted: a name that is free there "
        "(--as NAME), or an empty study\n"
    )
    # All are looked at before any is written.
    with opened(folder / "a.sqlite3") as storage:
        storage.create_new_study([StudyDirection.MINIMIZE], "new")
    refused(["import", "--all", "--from", "a.sqlite3", "--storage", filled], call)
    assert contents(filled) == before
    # An empty one is filled if it is of the same kind.
    with opened(filled) as storage:
        storage.create_new_study([StudyDirection.MINIMIZE], "empty")
    arguments = ["import", "both", "--from", "a.sqlite3", "--storage", filled, "--as", "empty"]
    assert "with the directions minimize, accepted: minimize, maximize; or" in refused(
        arguments, call
    )
    with opened(filled) as storage:
        storage.create_new_study([StudyDirection.MAXIMIZE], "empty too")
    arguments = [*arguments[:-1], "empty too"]
    arguments[1] = "every kind"
    done(arguments, call)
    assert contents(filled)["empty too"] == before["every kind"]


@pytest.mark.parametrize("name", [*FILES, "a database"])
def test_one_that_breaks_off_leaves_nothing(
    filled: str, database_url: str, folder: Path, call: Call, name: str
) -> None:
    if name == "a database":
        name = database_url
    gap = "SELECT max(trial_id) FROM trials"
    write(filled, f"UPDATE trials SET number = 700 WHERE trial_id = ({gap})")
    assert refused(["export", "both", "--to", name, "--storage", filled], call) == (
        "study 'both': found trial 700 after trial 298, accepted: trials that are numbered without "
        "a gap\n"
    )
    assert contents(name if "://" in name else folder / name) == {}
    if "://" in name:
        assert sum(counts_of(name).values()) == 2  # the revision and the version of Optuna's schema


def write_files(folder: Path) -> None:
    (folder / "text.db").write_text("hello")
    (folder / "empty.sqlite3").touch()
    (folder / "cut.journal").write_text(
        '{"op_code": 0, "study_name": "s", "directions": [1]}\n[1]\n'
    )
    (folder / "other.journal").write_text('{"op_code": 4711}\n')
    (folder / "folder").mkdir()


@pytest.mark.parametrize(
    ("place", "code", "said"),
    [
        ("missing.sqlite3", 2, "--from missing.sqlite3: no such file"),
        ("sqlite:///missing.db", 2, "--from sqlite:///missing.db: no such file"),
        ("studies.txt", 2, "--from: found 'studies.txt', accepted: a file that ends in .db, "),
        ("folder", 2, "--from: found the folder folder, accepted: "),
        ("text.db", 2, "--from text.db: found a file that is neither SQLite's nor a journal of "),
        ("empty.sqlite3", 2, "--from sqlite:///empty.sqlite3: no studies in this database"),
        ("cut.journal", 2, "cut.journal: line 2: no line of Optuna's journal"),
        ("other.journal", 2, "other.journal: line 1: no line of Optuna's journal (ValueError: "),
        ("redis://localhost", 2, "--from: found a URL that can't be used (Can't load plugin: "),
        (
            "postgresql://u:x@h:hidden/x",
            2,
            "--from: found a URL that can't be used (its port is no ",
        ),
        ("postgresql://u:hidden@127.0.0.1:1/x", 3, "--from postgresql://u:***@127.0.0.1:1/x: "),
        ("mysql://u@127.0.0.1/x", 2, "--from mysql://u@127.0.0.1/x: No module named 'MySQLdb'"),
    ],
)
def test_what_can_not_be_read(folder: Path, call: Call, place: str, code: int, said: str) -> None:
    write_files(folder)
    line = refused(["import", "--from", place, "--data", "data"], call, code)
    assert line.startswith(said)
    assert "hidden" not in line
    assert not (folder / "data").exists()
    assert not (folder / "missing.db").exists()


def test_what_can_not_be_written(filled: str, folder: Path, call: Call) -> None:
    write_files(folder)
    for to, code, said in (
        ("nowhere/x.db", 2, "--to nowhere/x.db: no such folder"),
        ("nowhere/x.journal", 2, "--to nowhere/x.journal: no such folder"),
        ("text.db", 2, "--to text.db: found a file that is neither"),
        ("other.journal", 2, "other.journal: line 1: "),
        ("/proc/x.db", 3, "--to /proc/x.db: unable to open database file"),
    ):
        line = refused(["export", "both", "--to", to, "--storage", filled], call, code)
        assert line.startswith(said)
    for arguments, said in (
        ([], "STUDY: missing, accepted: --all, or of both, every kind"),
        (["none"], "STUDY: found 'none', accepted: both, every kind"),
        (["both", "--all"], "STUDY, --all: accepted: one of the two"),
        (["--all", "--as", "x"], "--as: found 2 studies, accepted: one"),
    ):
        line = refused(["export", *arguments, "--to", "x.db", "--storage", filled], call)
        assert line == said + "\n"


def test_one_of_another_optuna(filled: str, folder: Path, call: Call) -> None:
    done(["export", "--all", "--to", "a.sqlite3", "--storage", filled], call)
    with database(f"sqlite:///{folder}/a.sqlite3") as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'v9.9.9.a'"))
    for arguments in (
        ["import", "--from", "a.sqlite3", "--storage", filled],
        ["export", "both", "--to", "a.sqlite3", "--storage", filled],
    ):
        assert refused(arguments, call).startswith("sqlite:///a.sqlite3: ")


def test_a_name_that_no_column_holds(folder: Path, call: Call, database_url: str) -> None:
    with opened(folder / "long.journal") as storage:
        study_id = storage.create_new_study([StudyDirection.MINIMIZE], "s")
        made = trial(TrialState.COMPLETE, [1.0], user_attrs={"k" * 600: 1})
        storage.create_new_trial(study_id, made)
    arguments = ["import", "--from", "long.journal", "--storage", database_url]
    assert "can't be stored: value too long" in refused(arguments, call)
    proxy = Proxy(database_url)
    try:
        arguments = ["import", "--from", "long.journal", "--proxy", proxy.address]
        assert refused(arguments, call).startswith("trial 0: ")
        client: BaseStorage = FleetStorage(proxy.address)
        found: Any = client.get_all_studies()
        client.close()  # type: ignore[attr-defined]
    finally:
        proxy.stop()
    assert found == []

"""Pictures of a study: what is drawn, and what is said where nothing can be."""

import sys
from pathlib import Path

import optuna
import pytest
from optuna.study import StudyDirection

from tests.local.conftest import folder  # noqa: F401
from tests.local.running import run
from trialfleet.cli.drawing import PlotKind, check_plot, save_plot
from trialfleet.model.errors import InvalidInput


def fill(study: optuna.Study) -> optuna.Study:
    """Run a few trials, with as many values as the study has objectives."""
    for _ in range(12):
        trial = study.ask()
        x = trial.suggest_float("x", 1e-3, 1, log=True)
        y = trial.suggest_float("y", -1, 1)
        trial.suggest_categorical("kind", ["a", "b"])
        study.tell(trial, [x + y, x - y, y][: len(study.directions)])
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    return study


@pytest.fixture(scope="module")
def one() -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=1)
    return fill(optuna.create_study(study_name="one", sampler=sampler))


@pytest.fixture(scope="module")
def two() -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=1)
    directions = [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
    return fill(optuna.create_study(study_name="two", sampler=sampler, directions=directions))


@pytest.mark.parametrize("ending", ["png", "html"])
@pytest.mark.parametrize("kind", [kind for kind in PlotKind if kind is not PlotKind.PARETO_FRONT])
def test_every_kind(one: optuna.Study, tmp_path: Path, kind: PlotKind, ending: str) -> None:
    file = tmp_path / f"{kind}.{ending}"
    check_plot(file, "--to", kind)
    save_plot(one, ["loss"], file, kind=kind)
    drawn = file.read_bytes()
    if ending == "png":
        assert drawn.startswith(b"\x89PNG")
    else:
        assert b"Plotly.newPlot" in drawn
        if kind is not PlotKind.TIMELINE:
            assert b"loss" in drawn


def test_several_objectives(two: optuna.Study, tmp_path: Path) -> None:
    file = tmp_path / "front.html"
    save_plot(two, ["loss", "speed"], file, kind=PlotKind.PARETO_FRONT)
    assert "speed" in file.read_text()
    save_plot(two, ["loss", "speed"], file, kind=PlotKind.SLICE, metric="speed", params=["x"])
    drawn = file.read_text()
    assert '"text":"speed"' in drawn and '"text":"x"' in drawn and '"text":"y"' not in drawn
    save_plot(two, ["loss", "speed"], tmp_path / "front.png", kind=PlotKind.PARETO_FRONT)


def test_nothing_of_the_kind(one: optuna.Study, two: optuna.Study, tmp_path: Path) -> None:
    file = tmp_path / "a.html"
    empty = optuna.create_study(study_name="empty")
    for study, metrics, settings, told in (
        (empty, ["loss"], {"kind": PlotKind.HISTORY}, "empty: history: there is no trial yet"),
        (one, ["loss"], {"kind": PlotKind.PARETO_FRONT}, "--kind pareto-front: found 1 objectives"),
        (
            two,
            ["loss", "speed"],
            {"kind": PlotKind.HISTORY, "metric": "time"},
            "--metric: found 'time', accepted: loss, speed",
        ),
        (
            one,
            ["loss"],
            {"kind": PlotKind.SLICE, "params": ["z"]},
            "--param: found 'z', accepted: kind, x, y",
        ),
        (
            one,
            ["loss"],
            {"kind": PlotKind.CONTOUR, "params": ["x"]},
            "--kind contour: found 1 parameters, accepted: 2 or more",
        ),
    ):
        with pytest.raises(InvalidInput) as raised:
            save_plot(study, metrics, file, **settings)
        assert str(raised.value).startswith(told)
    empty.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
    with pytest.raises(InvalidInput, match="empty: history: no trial is complete yet"):
        save_plot(empty, ["loss"], file, kind=PlotKind.HISTORY)
    assert not file.exists()


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, file, kind in (
        ("plotly", "a.html", PlotKind.HISTORY),
        ("matplotlib", "a.png", None),
        ("scipy", "a.png", PlotKind.CONTOUR),
    ):
        with monkeypatch.context() as patch:
            # Python's own mark of a module that can't be imported.
            patch.setitem(sys.modules, package, None)
            with pytest.raises(InvalidInput) as raised:
                check_plot(Path(file), "--to", kind)
        assert str(raised.value) == (
            f"--to {file}: needs {package}, which is not installed; "
            "install it: pip install 'trialfleet[plot]'"
        )


def test_the_command(folder: Path, database_url: str) -> None:  # noqa: F811
    storage = optuna.storages.RDBStorage(database_url)
    fill(optuna.create_study(study_name="a/b", storage=storage, directions=["minimize"] * 2))
    storage.engine.dispose()
    done = run(["plot", "--storage", database_url], folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a-b-pareto-front.png\n", "")
    assert (folder / "a-b-pareto-front.png").read_bytes().startswith(b"\x89PNG")
    done = run(["plot", "a/b", "--storage", database_url, "--to", "a.xyz"], folder)
    assert done.returncode == 2 and done.stderr.startswith("--to: found a.xyz, accepted: a file")

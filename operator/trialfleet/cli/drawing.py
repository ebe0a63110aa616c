"""Pictures of a study, drawn by Optuna with matplotlib, or with plotly as a page that zooms."""

import enum
import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.trial import FrozenTrial, TrialState

from trialfleet.model.errors import InvalidInput

_PAGES: Final = (".html", ".htm")

_INSTALL: Final = "pip install 'trialfleet[plot]'"


class PlotKind(enum.StrEnum):
    """What is drawn."""

    HISTORY = "history"
    IMPORTANCE = "importance"
    SLICE = "slice"
    CONTOUR = "contour"
    PARALLEL_COORDINATE = "parallel-coordinate"
    PARETO_FRONT = "pareto-front"
    TIMELINE = "timeline"


_FUNCTIONS: Final = {
    PlotKind.HISTORY: "plot_optimization_history",
    PlotKind.IMPORTANCE: "plot_param_importances",
    PlotKind.SLICE: "plot_slice",
    PlotKind.CONTOUR: "plot_contour",
    PlotKind.PARALLEL_COORDINATE: "plot_parallel_coordinate",
    PlotKind.PARETO_FRONT: "plot_pareto_front",
    PlotKind.TIMELINE: "plot_timeline",
}

_OF_PARAMS: Final = frozenset(
    {PlotKind.IMPORTANCE, PlotKind.SLICE, PlotKind.CONTOUR, PlotKind.PARALLEL_COORDINATE}
)

_FRONT: Final = (2, 3)
"""So many objectives have a Pareto front that can be drawn."""


def check_plot(file: Path, option: str, kind: PlotKind | None = None) -> None:
    """Raise ``InvalidInput`` if a picture can't be drawn or written: before the run, not after.

    Args:
        file: Its ending says how it is drawn.
        option: By which it was given, for the message.
        kind: None: one that ``default_kind`` returns.
    """
    if not file.absolute().parent.is_dir():
        raise InvalidInput(f"{option}: found {file}, but the folder {file.parent} does not exist")
    packages = ["plotly" if file.suffix in _PAGES else "matplotlib"]
    if kind is PlotKind.CONTOUR and file.suffix not in _PAGES:
        # Optuna fills in by it what lies between the trials.
        packages.append("scipy")
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise InvalidInput(
                f"{option} {file}: needs {package}, which is not installed; install it: {_INSTALL}"
            )
    if file.suffix not in _PAGES:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        formats = FigureCanvasAgg.get_supported_filetypes()
        if file.suffix.removeprefix(".") not in formats:
            raise InvalidInput(
                f"{option}: found {file}, accepted: a file that ends with "
                f"{', '.join(f'.{name}' for name in sorted(formats))} or .html"
            )


def default_kind(metrics: Sequence[str]) -> PlotKind:
    """Return what is drawn of a study with these objectives, if its user does not say."""
    return PlotKind.PARETO_FRONT if len(metrics) in _FRONT else PlotKind.HISTORY


def save_plot(
    study: optuna.Study,
    metrics: Sequence[str],
    file: Path,
    *,
    kind: PlotKind,
    metric: str | None = None,
    params: Sequence[str] | None = None,
) -> None:
    """Draw a study and write the picture to a file.

    Args:
        study: Its trials are read.
        metrics: Names of all objectives.
        file: Its ending says how it is drawn; see ``check_plot``.
        kind: What is drawn.
        metric: The objective that is drawn; None: the first one.
        params: The parameters that are drawn; None: all.

    Raises:
        InvalidInput: The study has nothing of this kind, or no such objective or parameter.
    """
    settings = _settings(study, metrics, kind, metric, params)
    with warnings.catch_warnings():
        # Optuna marks all of its matplotlib functions as experimental, and warns of a
        # logarithmic axis whose limits matplotlib corrects.
        warnings.simplefilter("ignore")
        if file.suffix in _PAGES:
            figure = getattr(optuna.visualization, _FUNCTIONS[kind])(study, **settings)
            figure.write_html(file)
        else:
            _save_picture(study, file, _FUNCTIONS[kind], settings)


def _save_picture(study: optuna.Study, file: Path, function: str, settings: dict[str, Any]) -> None:
    import matplotlib
    import numpy as np

    matplotlib.use("agg")
    from matplotlib import pyplot

    drawn = getattr(optuna.visualization.matplotlib, function)(study, **settings)
    figure = np.atleast_1d(drawn).flat[0].get_figure(root=True)
    figure.savefig(file, dpi=150, bbox_inches="tight")
    pyplot.close(figure)


def _settings(
    study: optuna.Study,
    metrics: Sequence[str],
    kind: PlotKind,
    metric: str | None,
    params: Sequence[str] | None,
) -> dict[str, Any]:
    """Return the arguments of Optuna's function, after a look whether there is what it draws."""
    name = study.study_name
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not trials if kind is PlotKind.TIMELINE else not complete:
        what = "there is no trial" if not trials else "no trial is complete"
        raise InvalidInput(f"{name}: {kind}: {what} yet")
    if kind is PlotKind.PARETO_FRONT:
        if len(metrics) not in _FRONT:
            raise InvalidInput(
                f"--kind {kind}: found {len(metrics)} objectives, accepted: 2 or 3 of them, or "
                f"another kind: {', '.join(one for one in PlotKind if one is not kind)}"
            )
        return {"target_names": list(metrics)}
    if kind is PlotKind.TIMELINE:
        return {}
    if metric is not None and metric not in metrics:
        raise InvalidInput(f"--metric: found {metric!r}, accepted: {', '.join(metrics)}")
    index = 0 if metric is None else metrics.index(metric)
    settings: dict[str, Any] = {"target_name": metrics[index]}
    if len(metrics) > 1:
        settings["target"] = _Value(index)
    if kind in _OF_PARAMS:
        _check_params(kind, complete, params)
        settings["params"] = None if params is None else list(params)
    return settings


def _check_params(
    kind: PlotKind, complete: Sequence[FrozenTrial], params: Sequence[str] | None
) -> None:
    known = sorted({name for trial in complete for name in trial.params})
    for param in params or ():
        if param not in known:
            raise InvalidInput(f"--param: found {param!r}, accepted: {', '.join(known)}")
    least = 2 if kind is PlotKind.CONTOUR else 1
    count = len(known if params is None else set(params))
    if count < least:
        raise InvalidInput(f"--kind {kind}: found {count} parameters, accepted: {least} or more")


class _Value:
    """Takes one of several values of a trial."""

    def __init__(self, index: int) -> None:
        self._index = index

    def __call__(self, trial: FrozenTrial) -> float:
        return float(trial.values[self._index])

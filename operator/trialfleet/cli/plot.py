"""Pictures of a study, drawn by Optuna."""

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

import optuna
from optuna.trial import FrozenTrial

from trialfleet.model.errors import InvalidInput

INTERACTIVE: Final = (".html", ".htm")


def check_plot(file: Path) -> None:
    """Raise ``InvalidInput`` if a picture can't be drawn or written: before the run, not after."""
    if not file.absolute().parent.is_dir():
        raise InvalidInput(f"--plot: found {file}, but the folder {file.parent} does not exist")
    package = "plotly" if file.suffix in INTERACTIVE else "matplotlib"
    if importlib.util.find_spec(package) is None:
        raise InvalidInput(
            f"--plot {file}: needs {package}, which is not installed; "
            "accepted: FILE.png with matplotlib, FILE.html with plotly"
        )
    if package == "matplotlib":
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        formats = FigureCanvasAgg.get_supported_filetypes()
        if file.suffix.removeprefix(".") not in formats:
            raise InvalidInput(
                f"--plot: found {file}, accepted: a file that ends with "
                f"{', '.join(f'.{name}' for name in sorted(formats))} or .html"
            )


def save_plot(study: optuna.Study, metrics: list[str], file: Path) -> None:
    """Save the history of a study, or the Pareto front of one with two or three objectives."""
    with warnings.catch_warnings():
        # Optuna marks all of its matplotlib functions as experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if file.suffix in INTERACTIVE:
            _save_html(study, metrics, file)
        else:
            _save_picture(study, metrics, file)


def _save_html(study: optuna.Study, metrics: list[str], file: Path) -> None:
    from optuna import visualization

    if 2 <= len(metrics) <= 3:
        figure = visualization.plot_pareto_front(study, target_names=metrics)
    else:
        figure = visualization.plot_optimization_history(
            study, target=_target(metrics), target_name=metrics[0]
        )
    figure.write_html(file)


def _save_picture(study: optuna.Study, metrics: list[str], file: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from optuna.visualization import matplotlib as visualization

    if 2 <= len(metrics) <= 3:
        axes = visualization.plot_pareto_front(study, target_names=metrics)
    else:
        axes = visualization.plot_optimization_history(
            study, target=_target(metrics), target_name=metrics[0]
        )
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.savefig(file, dpi=150, bbox_inches="tight")


def _target(metrics: list[str]) -> Callable[[FrozenTrial], float] | None:
    """Return what is drawn of many objectives: the first one."""
    return None if len(metrics) == 1 else lambda trial: float(trial.values[0])

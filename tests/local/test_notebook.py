"""``trialfleet.optimize`` in a notebook."""

import json
import os
from pathlib import Path

from tests.notebooks import execute, has_widget, printed

CELLS = [
    """
import json

import trialfleet

CENTRE = 0.25


def objective(trial):
    return (trial.suggest_float("x", 0, 1) - CENTRE) ** 2
""",
    """
study = trialfleet.optimize(
    objective, n_trials=6, parallelism=2, name="cell", show_progress_bar=True
)
""",
    """
print(json.dumps([study.study_name, len(study.trials), sorted(study.best_params)]))
""",
]


def test_a_notebook(folder: Path) -> None:
    outputs = execute(folder, CELLS, os.environ)
    assert has_widget(outputs[1])
    assert json.loads(printed(outputs[2])) == ["cell", 6, ["x"]]

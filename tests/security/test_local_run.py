"""A local run has no business with the tokens of other proxies."""

import os
import subprocess
import sys
from pathlib import Path

from trialfleet import names

STUDY = """
apiVersion: trialfleet.dev/v1alpha1
kind: Study
metadata: {name: local}
spec:
  objectives: [{name: value, direction: minimize}]
  sampler: {name: RandomSampler}
  budget: {trials: 2}
  parallelism: 1
  objective:
    python:
      source: |
        def objective(trial):
            return trial.suggest_float("x", 0, 1)
"""


def test_an_environment_for_other_proxies_does_not_disturb_it(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    missing = str(tmp_path / "none")
    result = subprocess.run(
        [sys.executable, "-m", "trialfleet.cli.main", "run", "study.yaml"],
        env={**os.environ, names.ENV_TOKEN_FILE: missing, names.ENV_CA_FILE: missing},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr

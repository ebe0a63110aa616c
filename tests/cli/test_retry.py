"""Failed trials that are tried again."""

import json
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tests.local.conftest import folder  # noqa: F401
from tests.local.running import run, write_study
from trialfleet.cli.retry import choose
from trialfleet.model.errors import InvalidInput

FAILS_AT_FIRST = """
    from pathlib import Path

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        if not Path("mended").exists():
            raise ValueError("broken")
        return x
"""


def test_a_local_run(folder: Path) -> None:  # noqa: F811
    write_study(folder, FAILS_AT_FIRST, trials=3)
    assert run(["run", "study.yaml"], folder).returncode == 1
    done = run(["retry", "test", "--trial", "0", "--trial", "2"], folder)
    assert (done.returncode, done.stdout) == (
        0,
        "test: 2 trials wait, with the parameters of 0, 2\n"
        "a run takes them before other trials, if its budget has room: 5 trials in all "
        "(trialfleet run FILE --trials 5)\n",
    )
    (folder / "mended").touch()
    again = run(["run", "study.yaml", "--trials", "5"], folder)
    assert again.returncode == 0, again.stderr
    trials = json.loads(run(["trials", "--output", "json"], folder).stdout)
    assert [trial["state"] for trial in trials] == [*["FAIL"] * 3, *["COMPLETE"] * 2]
    for first, second in ((0, 3), (2, 4)):
        assert trials[second]["params"] == trials[first]["params"]
        assert trials[second]["system_attrs"]["failed_trial"] == first
    done = run(["retry", "test"], folder)
    assert done.stdout.startswith("test: 1 trial waits, with the parameters of 1\n")
    done = run(["retry", "test"], folder)
    assert done.stdout == "test: no failed trial with parameters is left to be tried again\n"


def _trial(number: int, state: TrialState, history: list[int] | None = None) -> FrozenTrial:
    attrs = {} if history is None else {"retry_history": history}
    value = 1.0 if state == TrialState.COMPLETE else None
    trial = create_trial(
        state=state,
        value=value,
        params={"x": 0.5},
        distributions={"x": FloatDistribution(0, 1)},
        system_attrs=attrs,
    )
    trial.number = number
    return trial


def test_which_trials() -> None:
    bare = create_trial(state=TrialState.FAIL)
    bare.number = 4
    trials = [
        _trial(0, TrialState.FAIL),
        _trial(1, TrialState.COMPLETE),
        _trial(2, TrialState.FAIL, [0]),
        _trial(3, TrialState.FAIL),
        bare,
    ]
    assert [trial.number for trial in choose(trials, ())] == [2, 3]
    assert [trial.number for trial in choose(trials, (3, 0, 3))] == [3, 0]
    for number in (1, 4, 9):
        with pytest.raises(InvalidInput, match=f"--trial: found {number}, accepted: .*: 0, 2, 3$"):
            choose(trials, (number,))
